"""Every form a reply may have is read; every fault has a code."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest
from safetensors.numpy import save

from neural_condense_core.client.exchange import Question
from neural_condense_core.constants import TIERS
from neural_condense_core.loadtest import replies
from neural_condense_core.loadtest.connections import Reply
from neural_condense_core.loadtest.replies import Checked, Checker, check, most_tokens
from neural_condense_core.wire.arrays import limits_of

TIER = TIERS["inference_0"]
JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/vnd.safetensors"


def matrix(n=3, width=8):
    return np.linspace(-1, 1, n * width, dtype=np.float32).reshape(n, width)


def npy(values):
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def question(hidden_size=8):
    return Question(
        "some text",
        max_condensed_tokens=TIER.max_condensed_tokens,
        target_model="m",
        limits=limits_of(TIER, hidden_size),
        estimate_tokens=most_tokens,
    )


def reply(body, media_type=JSON, status=200, **headers):
    return Reply(status, {"content-type": media_type, **headers}, body, 0.0)


def as_json(value):
    return json.dumps(value).encode()


GOOD = {
    "list": reply(as_json(matrix().tolist())),
    "charset": reply(as_json(matrix().tolist()), "application/json; charset=utf-8"),
    "object": reply(as_json({"compressed_tokens": matrix().tolist()})),
    "named": reply(as_json({"compressed_tokens": matrix().tolist(), "target_model": "m"})),
    "base64": reply(as_json({"compressed_tokens_b64": base64.b64encode(npy(matrix())).decode()})),
    "npy": reply(npy(matrix()), NPY),
    "octets": reply(npy(matrix().astype(np.float16)), "application/octet-stream"),
    "safetensors": reply(save({"compressed_tokens": matrix()}), SAFETENSORS),
    "most tokens": reply(npy(matrix(TIER.max_condensed_tokens)), NPY),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_replies(name):
    checked = check(question(), GOOD[name])
    assert checked.code == "ok"
    assert checked.hidden_size == 8
    assert checked.n_condensed in {3, TIER.max_condensed_tokens}


def bad(values):
    values[0, 0] = np.inf
    return values


BAD = {
    "http_503": reply(b"{}", status=503),
    "http_204": reply(b"", status=204),
    "malformed_json": reply(b"it worked!"),
    "malformed_header": reply(as_json({"result": "done"})),
    "malformed_shape": reply(as_json([*matrix().tolist(), [0.0]])),
    "malformed_number": reply(as_json([["a"] * 8])),
    "malformed_hidden_size": reply(as_json(matrix(3, 7).tolist())),
    "malformed_too_many_tokens": reply(npy(matrix(TIER.max_condensed_tokens + 1)), NPY),
    "malformed_not_finite": reply(npy(bad(matrix())), NPY),
    "malformed_truncated": reply(npy(matrix())[:-1], NPY),
    "malformed_base64": reply(as_json({"compressed_tokens_b64": "%"})),
    "malformed_media_type": reply(b"<html>", "text/html"),
    "malformed_target_model": reply(
        as_json({"compressed_tokens": matrix().tolist(), "target_model": "other"})
    ),
    "malformed_encoding": reply(b"", **{"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("code", BAD)
def test_fast_garbage_is_no_pass(code):
    assert check(question(), BAD[code]) == Checked(code)


def test_any_width_passes_where_none_is_known():
    assert check(question(None), GOOD["npy"]).hidden_size == 8


def test_long_json_is_checked_elsewhere_to_the_same_end(monkeypatch):
    monkeypatch.setattr(replies, "INLINE_JSON_BYTES", 10)

    async def go():
        with Checker() as checker:
            elsewhere = [await checker.check(question(), GOOD["list"])]
            elsewhere.append(await checker.check(question(), BAD["malformed_shape"]))
            monkeypatch.setattr(replies, "MAX_WAITING_BYTES", 10)
            return [*elsewhere, await checker.check(question(), GOOD["list"])]

    assert asyncio.run(go()) == [
        Checked("ok", 3, 8),
        Checked("malformed_shape"),
        Checked("unchecked"),
    ]
