"""JSON from outside: whatever it is, a ``CodecError`` with a reason or a sound matrix."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_condense_core.errors import CodecError
from neural_condense_core.wire.arrays import REASONS, Limits
from neural_condense_core.wire.codec import from_json

LIMITS = Limits(max_bytes=4096, max_tokens=4, hidden_size=3)
EMBEDS = [[0.5, -1.0, 2.0], [1.5, 0.25, -8.0]]


JSON_FAULTS = {
    b"": "json",
    b"[[1,2,3]": "json",
    b"[[NaN,0,0]]": "json",
    b"[[Infinity,0,0]]": "json",
    b"[[1e999,0,0]]": "json",
    b"[" * 4000: "json",
    b"\xff": "json",
    b"5": "header",
    b"null": "header",
    b'"text"': "header",
    b"{}": "header",
    b'{"error":{"code":"x","message":"y"}}': "header",
    b"[]": "shape",
    b"[[]]": "shape",
    b"[1,2,3]": "shape",
    b"[[1,2,3],[1,2]]": "shape",
    b"[[1,2,3],5]": "shape",
    b'{"compressed_tokens":"abc"}': "shape",
    b'{"compressed_tokens":null}': "shape",
    b"[[1,2]]": "hidden_size",
    b"[[1,2,3],[1,2,3],[1,2,3],[1,2,3],[1,2,3]]": "too_many_tokens",
    b'[[1,2,"3"]]': "number",
    b"[[1,2,null]]": "number",
    b"[[1,2,true]]": "number",
    b"[[1,2,[3]]]": "number",
    b"[[1,2,{}]]": "number",
    b"[[1,2,1e39]]": "not_finite",
    b'{"compressed_tokens_b64":5}': "header",
    b'{"compressed_tokens_b64":"a b="}': "base64",
    b'{"compressed_tokens_b64":"abc"}': "base64",
    '{"compressed_tokens_b64":"é"}'.encode(): "base64",
    b'{"compressed_tokens_b64":""}': "magic",
    b'{"compressed_tokens":[[1,2,3]],"n_condensed_tokens":2}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"positions":5}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"positions":[]}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"positions":[1.0]}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"positions":[true]}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"positions":[8]}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"positions":[18446744073709551615]}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"target_model":7}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"target_model":""}': "metadata",
    b'{"compressed_tokens":[[1,2,3]],"target_model":"another"}': "target_model",
}


@pytest.mark.parametrize("body", sorted(JSON_FAULTS))
def test_json_faults(body: bytes) -> None:
    with pytest.raises(CodecError) as caught:
        from_json(body, LIMITS, target_model="m", n_context_tokens=8)
    assert caught.value.detail["reason"] == JSON_FAULTS[body]
    assert caught.value.detail["reason"] in REASONS


@pytest.mark.parametrize("count", [0, -1, True, "8", None, 2**40, 1.5])
def test_a_count_of_context_tokens_that_is_none(count: object) -> None:
    body = json.dumps({"compressed_tokens": [[1, 2, 3]], "n_context_tokens": count}).encode()
    with pytest.raises(CodecError) as caught:
        from_json(body, LIMITS, target_model="m")
    assert caught.value.detail == {"reason": "metadata"}


def test_a_checkpoint_name_that_is_none_is_dropped() -> None:
    body = json.dumps({
        "compressed_tokens": [[1, 2, 3]],
        "checkpoint": "x" * 300,
        "positions": None,
    }).encode()
    found = from_json(body, LIMITS, target_model="m", n_context_tokens=8)
    assert found.checkpoint is None


def test_a_refusal_repeats_nothing_of_the_body() -> None:
    with pytest.raises(CodecError) as caught:
        from_json(b'{"compressed_tokens": "SECRET"}', LIMITS)
    with pytest.raises(CodecError) as broken:
        from_json(b"SECRET", LIMITS)
    for error in (caught.value, broken.value):
        assert "SECRET" not in json.dumps(error.body())
        assert error.__cause__ is None


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=12,
    ),
    st.sampled_from(["compressed_tokens", "positions", "n_context_tokens", "target_model"]),
)
def test_arbitrary_json_is_refused_or_sound(value: object, key: str) -> None:
    whole = {"compressed_tokens": EMBEDS, "target_model": "m", key: value}
    for body in (whole, value):
        refusal: CodecError | None = None
        try:
            found = from_json(json.dumps(body).encode(), LIMITS, n_context_tokens=8)
        except CodecError as error:
            refusal = error
        if refusal is not None:
            assert refusal.detail["reason"] in REASONS
        else:
            # What replaces the matrix may be a sound one itself.
            matrix = body["compressed_tokens"] if isinstance(body, dict) else body
            assert found.embeds.shape == np.shape(matrix)
