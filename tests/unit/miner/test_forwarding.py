import asyncio

import httpx
import numpy as np
import pytest
from miner_parts import HIDDEN, MODEL, TIER, Backend, condensed

from neural_condense_core.errors import (
    BackendError,
    DeadlineError,
    OverloadedError,
    UnavailableError,
)
from neural_condense_core.miner.forwarding import Forwarder, estimate_tokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors, to_json

LIMITS = Limits(10**7, TIER.max_condensed_tokens, HIDDEN)
SECRET = "a marker that must not travel"  # noqa: S105


def condense(backend, context="a text of some length", timeout_s=2.0, **settings):
    async def run():
        forwarder = Forwarder(
            "http://backend", TIER, hidden_size=HIDDEN, transport=backend.transport, **settings
        )
        try:
            return await forwarder.condense(context, timeout_s)
        finally:
            await forwarder.close()

    return asyncio.run(run())


def answering(status, body=b"", **headers):
    backend = Backend()

    async def answer(asked):
        return httpx.Response(status, content=body, headers=headers)

    backend.answer = answer
    return backend


@pytest.mark.parametrize("shape", ["list", "object", "base64", "safetensors"])
def test_any_backend_of_the_specification_leaves_as_safetensors(shape):
    made = condense(Backend(shape), dtype="float32")
    found = from_safetensors(made.body, LIMITS, target_model=MODEL)
    expected = condensed("a text of some length").embeds
    np.testing.assert_array_equal(found.embeds, expected)
    assert made.n_condensed_tokens == len(expected)
    assert made.backend_s >= 0


def test_the_backend_is_asked_for_the_tiers_model_and_limit():
    backend = Backend()
    condense(backend)
    assert backend.requests == [
        {"context": "a text of some length", "target_model": MODEL, "max_condensed_tokens": 32}
    ]


def test_half_the_bytes_by_default():
    found = from_safetensors(condense(Backend()).body, LIMITS)
    assert found.embeds.dtype == np.float16


def test_values_that_do_not_fit_go_out_wider():
    backend = Backend("object")
    tokens = condensed("x" * 40)
    tokens.embeds[0, 0] = 1e6

    async def answer(asked):
        return httpx.Response(
            200, content=to_json(tokens), headers={"content-type": "application/json"}
        )

    backend.answer = answer
    found = from_safetensors(condense(backend).body, LIMITS)
    assert found.embeds.dtype == np.float32
    assert found.embeds[0, 0] == 1e6


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[0.0] * HIDDEN] * 33, "too_many_tokens"),
        ([[0.0] * 8], "hidden_size"),
        ([[0.0] * HIDDEN, [0.0]], "shape"),
        ([], "shape"),
        ([["x"] * HIDDEN], "number"),
        ([[1e39] * HIDDEN], "not_finite"),
    ],
)
def test_trap_32_the_reply_is_checked_against_the_tier(rows, reason):
    body = str(rows).replace("'", '"').encode()
    with pytest.raises(BackendError) as caught:
        condense(answering(200, body, **{"content-type": "application/json"}))
    assert caught.value.status == 502
    assert caught.value.detail == {"reason": reason}


def test_a_reply_for_another_model_is_no_reply():
    body = b'{"compressed_tokens": [[0.5]], "target_model": "other"}'
    with pytest.raises(BackendError) as caught:
        condense(answering(200, body, **{"content-type": "application/json"}))
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (500, BackendError, 502),
        (400, BackendError, 502),
        (404, BackendError, 502),
        (413, BackendError, 502),
        (422, BackendError, 502),
        (429, OverloadedError, 429),
        (503, UnavailableError, 503),
        (504, DeadlineError, 504),
    ],
)
def test_trap_32_the_backends_status_is_read_and_its_words_kept_back(status, kind, told):
    body = (
        b'{"error": {"code": "invalid_request", "message": "%s", "detail": {"reason": ["%s"]}}}'
        % (SECRET.encode(), SECRET.encode())
    )
    backend = answering(status, body, **{"retry-after": "7"})
    with pytest.raises(kind) as caught:
        condense(backend)
    assert caught.value.status == told
    assert SECRET not in caught.value.message + str(caught.value.detail)
    assert "http" not in caught.value.message
    if told in {429, 503}:
        assert caught.value.retry_after_s == 7.0


def test_trap_32_a_slow_backend_is_given_up_in_time():
    backend = Backend()

    async def answer(asked):
        await asyncio.sleep(30)

    backend.answer = answer
    with pytest.raises(DeadlineError) as caught:
        condense(backend, timeout_s=0.1)
    assert caught.value.status == 504


def test_a_backend_that_is_gone():
    backend = Backend()

    async def answer(asked):
        raise httpx.ConnectError("refused")

    backend.answer = answer
    with pytest.raises(BackendError) as caught:
        condense(backend)
    assert caught.value.detail == {"reason": "unreachable"}


def test_estimates():
    assert estimate_tokens("") == 1
    assert estimate_tokens("x" * 40) == 10
