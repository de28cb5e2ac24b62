"""Every format gives back what it was given; where a dtype loses digits, exactly how many."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neural_condense_core.errors import CodecError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import (
    MEDIA_TYPES,
    NPY,
    SAFETENSORS,
    TORCH,
    Format,
    decode,
    encode,
    from_json,
    from_npy,
    from_safetensors,
    reply_headers,
    to_json,
    to_json_base64,
    to_json_list,
    to_npy,
    to_safetensors,
)
from neural_condense_core.wire.digest import content_digest

FEW = settings(max_examples=40)
LIMITS = Limits(max_bytes=1_000_000, max_tokens=64)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
FLOAT32 = hnp.arrays(
    np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
FLOAT16 = hnp.arrays(
    np.float16, SHAPES, elements=st.floats(width=16, allow_nan=False, allow_infinity=False)
)
EMBEDDING_LIKE = hnp.arrays(np.float32, SHAPES, elements=st.floats(-100, 100, width=32))


def as_tokens(embeds: np.ndarray, *, with_positions: bool = True) -> CondensedTokens:
    positions = np.arange(len(embeds)) * 4 + 1 if with_positions else None
    return CondensedTokens(embeds, "a/modèl", 4 * len(embeds), positions, "pooled-fast")


def assert_same(found: CondensedTokens, wanted: CondensedTokens, *, checkpoint: bool) -> None:
    assert found.embeds.dtype == wanted.embeds.dtype
    assert found.embeds.tobytes() == wanted.embeds.tobytes()
    assert found.target_model == wanted.target_model
    assert found.n_context_tokens == wanted.n_context_tokens
    assert found.checkpoint == (wanted.checkpoint if checkpoint else None)
    assert (found.positions is None) == (wanted.positions is None)
    if wanted.positions is not None:
        assert found.positions is not None
        assert found.positions.tolist() == wanted.positions.tolist()


@FEW
@given(FLOAT32 | FLOAT16, st.booleans())
def test_safetensors_is_exact_and_says_everything(embeds: np.ndarray, with_positions: bool) -> None:
    tokens = as_tokens(embeds, with_positions=with_positions)
    assert_same(from_safetensors(to_safetensors(tokens), LIMITS), tokens, checkpoint=True)


@FEW
@given(FLOAT32 | FLOAT16, st.booleans())
def test_base64_is_exact(embeds: np.ndarray, with_positions: bool) -> None:
    tokens = as_tokens(embeds, with_positions=with_positions)
    assert_same(from_json(to_json_base64(tokens), LIMITS), tokens, checkpoint=False)


@FEW
@given(FLOAT32, st.booleans())
def test_json_is_exact_in_float32(embeds: np.ndarray, with_positions: bool) -> None:
    tokens = as_tokens(embeds, with_positions=with_positions)
    assert_same(from_json(to_json(tokens), LIMITS), tokens, checkpoint=False)


@FEW
@given(FLOAT16)
def test_json_carries_float16_exactly_as_float32(embeds: np.ndarray) -> None:
    found = from_json(to_json(as_tokens(embeds)), LIMITS)
    assert found.embeds.tobytes() == embeds.astype(np.float32).tobytes()


@FEW
@given(FLOAT32)
def test_bare_list_is_exact_in_float32(embeds: np.ndarray) -> None:
    body = to_json_list(as_tokens(embeds))
    found = from_json(body, LIMITS, target_model="m", n_context_tokens=9)
    assert_same(found, CondensedTokens(embeds, "m", 9), checkpoint=False)


@FEW
@given(FLOAT32 | FLOAT16)
def test_npy_is_exact_and_numpy_reads_it(embeds: np.ndarray) -> None:
    body = to_npy(as_tokens(embeds))
    found = from_npy(body, LIMITS, target_model="m", n_context_tokens=9)
    assert_same(found, CondensedTokens(embeds, "m", 9), checkpoint=False)
    assert np.load(io.BytesIO(body), allow_pickle=False).tobytes() == embeds.tobytes()


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_json_is_exact_for_any_finite_bit_pattern(bits: int) -> None:
    embeds = np.array([[bits]], dtype=np.uint32).view(np.float32)
    if np.isfinite(embeds).all():
        assert from_json(to_json(as_tokens(embeds)), LIMITS).embeds.tobytes() == embeds.tobytes()


@FEW
@given(EMBEDDING_LIKE, st.sampled_from([each for each in MEDIA_TYPES.values() if each != TORCH]))
def test_float16_on_the_wire_is_the_nearest_float16(embeds: np.ndarray, base: Format) -> None:
    tokens = as_tokens(embeds)
    format_ = Format(base.name, base.media_type, base.parameters, base.dtypes, "float16")
    found = decode(
        encode(tokens, format_),
        format_.content_type,
        LIMITS,
        target_model="a/modèl",
        n_context_tokens=tokens.n_context_tokens,
    )
    nearest = embeds.astype(np.float16)
    assert np.array_equal(found.embeds.astype(np.float16), nearest)
    assert np.all(np.abs(nearest.astype(np.float32) - embeds) <= np.abs(embeds) * 2**-11 + 2**-25)


@FEW
@given(EMBEDDING_LIKE)
def test_bfloat16_on_the_wire_is_within_half_a_unit_and_even_on_ties(embeds: np.ndarray) -> None:
    found = from_safetensors(to_safetensors(as_tokens(embeds), "bfloat16"), LIMITS).embeds
    assert found.dtype == np.float32
    assert not (found.view(np.uint32) & 0xFFFF).any()
    assert np.all(np.abs(found - embeds) <= np.abs(embeds) * 2**-8 + np.float32(2**-134))
    in_json = from_json(to_json(as_tokens(embeds), "bfloat16"), LIMITS).embeds
    assert in_json.tobytes() == found.tobytes()


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0 + 2**-8, 1.0),  # a tie, downwards to even
        (1.0 + 3 * 2**-8, 1.0 + 2**-6),  # a tie, upwards to even
        (1.0 + 2**-8 + 2**-20, 1.0 + 2**-7),  # just above a tie
        (-1.0 - 3 * 2**-8, -1.0 - 2**-6),
        (0.0, 0.0),
    ],
)
def test_bfloat16_rounds_to_nearest_even(value: float, rounded: float) -> None:
    tokens = as_tokens(np.array([[value]], dtype=np.float32))
    assert from_safetensors(to_safetensors(tokens, "bfloat16"), LIMITS).embeds[0, 0] == rounded


@pytest.mark.parametrize(
    ("value", "dtype"), [(65520.0, "float16"), (-1e30, "float16"), (3.4e38, "bfloat16")]
)
def test_a_value_that_the_dtype_cannot_hold_is_an_error(value: float, dtype: str) -> None:
    tokens = as_tokens(np.array([[value]], dtype=np.float32))
    with pytest.raises(CodecError) as caught:
        to_safetensors(tokens, dtype)
    assert caught.value.detail["reason"] == "range"


def test_the_largest_value_that_rounds_into_float16_is_taken() -> None:
    top = np.nextafter(np.float32(65520), np.float32(0))
    tokens = as_tokens(np.array([[top, -top]], dtype=np.float32))
    assert from_safetensors(to_safetensors(tokens, "float16"), LIMITS).embeds.tolist() == [
        [65504.0, -65504.0]
    ]


@FEW
@given(FLOAT32 | FLOAT16)
def test_the_safetensors_library_reads_ours(embeds: np.ndarray) -> None:
    tensors = safetensors.numpy.load(to_safetensors(as_tokens(embeds)))
    assert sorted(tensors) == ["compressed_tokens", "positions"]
    assert tensors["compressed_tokens"].tobytes() == embeds.tobytes()
    assert tensors["positions"].tolist() == [4 * i + 1 for i in range(len(embeds))]


@FEW
@given(FLOAT32)
def test_the_safetensors_library_accepts_our_bfloat16(embeds: np.ndarray) -> None:
    small = np.clip(embeds, -1e38, 1e38)
    ((_, found),) = [
        item
        for item in safetensors.deserialize(to_safetensors(as_tokens(small), "bfloat16"))
        if item[0] == "compressed_tokens"
    ]
    assert found["dtype"] == "BF16"
    assert found["shape"] == list(small.shape)


@FEW
@given(FLOAT32 | FLOAT16)
def test_we_read_what_the_safetensors_library_writes(embeds: np.ndarray) -> None:
    body = safetensors.numpy.save(
        {"compressed_tokens": embeds, "positions": np.arange(len(embeds))},
        metadata={"target_model": "m", "n_context_tokens": "64", "format": "np"},
    )
    found = from_safetensors(body, LIMITS)
    assert found.embeds.tobytes() == embeds.tobytes()
    assert (found.target_model, found.n_context_tokens) == ("m", 64)


@pytest.mark.parametrize("layout", ["fortran", "strided"])
def test_a_matrix_that_is_not_contiguous_is_written_in_row_order(layout: str) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    embeds = np.asfortranarray(rows) if layout == "fortran" else np.repeat(rows, 2, 1)[:, ::2]
    tokens = as_tokens(embeds)
    for body in (to_json(tokens), to_json_base64(tokens)):
        assert from_json(body, LIMITS).embeds.tolist() == rows.tolist()
    assert from_safetensors(to_safetensors(tokens), LIMITS).embeds.tolist() == rows.tolist()


def test_a_decoded_matrix_owns_its_memory() -> None:
    tokens = as_tokens(np.ones((2, 3), np.float32))
    for found in (
        from_safetensors(to_safetensors(tokens), LIMITS),
        from_safetensors(to_safetensors(tokens, "bfloat16"), LIMITS),
        from_json(to_json(tokens), LIMITS),
        from_json(to_json_base64(tokens, "float16"), LIMITS),
    ):
        assert found.embeds.flags.writeable
        assert found.embeds.flags.aligned
        assert found.embeds.flags.c_contiguous
        assert found.embeds.dtype.isnative


def test_json_is_plain_json_with_the_documented_fields() -> None:
    tokens = as_tokens(np.array([[0.1, -2.5]], np.float32), with_positions=False)
    assert json.loads(to_json(tokens)) == {
        "compressed_tokens": [[0.1, -2.5]],
        "target_model": "a/modèl",
        "n_context_tokens": 4,
        "n_condensed_tokens": 1,
        "positions": None,
    }


def test_headers_describe_a_binary_body() -> None:
    tokens = as_tokens(np.ones((2, 3), np.float32))
    half = Format(NPY.name, NPY.media_type, dtype="float16")
    assert reply_headers(tokens, half) == {
        "Content-Type": "application/x-npy; dtype=float16",
        "Vary": "Accept",
        "X-Condense-Dtype": "float16",
        "X-Condense-Shape": "2,3",
        "X-Condense-Hidden-Size": "3",
        "X-Condense-N-Context-Tokens": "8",
    }
    assert reply_headers(tokens, SAFETENSORS)["X-Condense-Dtype"] == "float32"


def test_headers_name_the_weights_and_the_digest_where_they_are_known() -> None:
    tokens = as_tokens(np.ones((2, 3), np.float32))
    plain = reply_headers(tokens, NPY)
    body = encode(tokens, NPY)
    known = reply_headers(tokens, NPY, body, revision="0123456789abcdef")
    assert {name: known[name] for name in known.keys() - plain.keys()} == {
        "X-Condense-Model-Revision": "0123456789abcdef",
        "Content-Digest": content_digest(body),
    }
    assert reply_headers(tokens, NPY, revision="") == plain
