"""Bytes from outside: whatever they are, a ``CodecError`` with a reason or a sound matrix."""

from __future__ import annotations

import base64
import io
import json
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neural_condense_core.errors import CodecError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import REASONS, Limits
from neural_condense_core.wire.codec import (
    decode,
    from_json,
    from_npy,
    from_safetensors,
    to_json,
    to_json_base64,
    to_json_list,
    to_npy,
    to_safetensors,
)

LIMITS = Limits(max_bytes=4096, max_tokens=4, hidden_size=3)
EMBEDS = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -8.0]], np.float32)
TOKENS = CondensedTokens(EMBEDS, "m", 8, np.array([1, 5]), "echo")

Decoder = Callable[..., CondensedTokens]


def reason_of(decoder: Decoder, body: bytes, limits: Limits = LIMITS, **said: Any) -> str:
    with pytest.raises(CodecError) as caught:
        decoder(body, limits, **{"target_model": "m", "n_context_tokens": 8, **said})
    reason = caught.value.detail["reason"]
    assert reason in REASONS
    assert caught.value.status == 422
    return str(reason)


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def npy_header(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    raw = text.encode("latin-1")
    width = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + version + len(raw).to_bytes(width, "little") + raw + data


def fields(descr: str = "'<f4'", order: str = "False", shape: str = "(2, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, EMBEDS)
    return buffer.getvalue()


DATA = EMBEDS.tobytes()
NPY_FAULTS = {
    "empty": (b"", "magic"),
    "npz": (npz(), "magic"),
    "pickle": (b"\x80\x04]\x94.", "magic"),
    "magic only": (b"\x93NUMPY", "header"),
    "version 3": (npy_header(fields(), DATA, b"\x03\x00"), "header"),
    "header cut off": (npy_header(fields())[:40], "truncated"),
    "header longer than the body": (b"\x93NUMPY\x01\x00\xff\x03" + b" " * 10, "truncated"),
    "long header": (npy_header(fields() + " " * 2000, DATA), "header"),
    "4 GiB header": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "header"),
    "1e16 elements": (npy_header(fields(shape="(1, 10000000000000000)")), "hidden_size"),
    "1e16 rows": (npy_header(fields(shape="(10000000000000000, 3)")), "too_many_tokens"),
    "digits without end": (npy_header(fields(shape=f"({'9' * 60}, 3)")), "too_many_tokens"),
    "too many digits": (npy_header(fields(shape=f"({'9' * 100}, 3)")), "header"),
    "data cut off": (to_npy(TOKENS)[:-1], "truncated"),
    "no data": (npy_header(fields()), "truncated"),
    "trailing byte": (to_npy(TOKENS) + b"\0", "trailing"),
    "second array behind": (to_npy(TOKENS) * 2, "trailing"),
    "big-endian": (npy(EMBEDS.astype(">f4")), "dtype"),
    "float64": (npy(EMBEDS.astype(np.float64)), "dtype"),
    "int32": (npy(EMBEDS.astype(np.int32)), "dtype"),
    "complex": (npy(EMBEDS.astype(np.complex64)), "dtype"),
    "bytes": (npy(EMBEDS.astype("S8")), "dtype"),
    "object": (npy(EMBEDS.astype(object), allow_pickle=True), "dtype"),
    "structured": (npy(np.zeros((2, 3), [("a", "<f4")])), "header"),
    "Fortran": (npy(np.asfortranarray(EMBEDS)), "order"),
    "scalar": (npy(np.float32(1.0) * np.ones(())), "dtype"),
    "scalar float32": (npy(np.ones((), np.float32)), "shape"),
    "vector": (npy(EMBEDS[0]), "shape"),
    "three dimensions": (npy(EMBEDS[None]), "shape"),
    "no rows": (npy(EMBEDS[:0]), "shape"),
    "no columns": (npy(EMBEDS[:, :0]), "shape"),
    "too many rows": (npy(np.ones((5, 3), np.float32)), "too_many_tokens"),
    "wrong width": (npy(np.ones((2, 4), np.float32)), "hidden_size"),
    "NaN": (npy(np.full((2, 3), np.nan, np.float32)), "not_finite"),
    "infinity in float16": (npy(np.full((2, 3), -np.inf, np.float16)), "not_finite"),
    "NaN in float16": (npy(np.full((2, 3), np.nan, np.float16)), "not_finite"),
    "key twice": (npy_header("{'shape': (2, 3), " + fields()[1:], DATA), "header"),
    "key missing": (npy_header("{'descr': '<f4', 'shape': (2, 3), }", DATA), "header"),
    "key unknown": (npy_header(fields()[:-1] + "'x': 1}", DATA), "header"),
    "no braces": (npy_header(fields()[1:-1], DATA), "header"),
    "a call": (npy_header("__import__('os').abort()", DATA), "header"),
    "nesting": (npy_header("(" * 1000, DATA), "header"),
    "negative": (npy_header(fields(shape="(-2, 3)"), DATA), "header"),
    "empty header": (npy_header("", DATA), "header"),
    "not ASCII": (npy_header("\xff" * 64, DATA), "header"),
}


@pytest.mark.parametrize("fault", sorted(NPY_FAULTS))
def test_npy_faults(fault: str) -> None:
    body, reason = NPY_FAULTS[fault]
    assert reason_of(from_npy, body) == reason
    wrapped = json.dumps({"compressed_tokens_b64": base64.b64encode(body).decode()}).encode()
    assert reason_of(from_json, wrapped, Limits(20_000, 4, 3)) == reason


@pytest.mark.parametrize(
    "header",
    [
        "{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}",
        "{'descr':'<f4','fortran_order':False,'shape':(2,3)}",
        fields(shape="(2, 3,)") + " " * 30 + "\n",
    ],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
def test_npy_of_other_writers_is_read(header: str, version: bytes) -> None:
    found = from_npy(
        npy_header(header, DATA, version), LIMITS, target_model="m", n_context_tokens=8
    )
    assert found.embeds.tolist() == EMBEDS.tolist()


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(
    dtype: object = "F32", shape: object = (2, 3), offsets: object = (0, 24), **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def one(**changes: object) -> dict[str, object]:
    return {"compressed_tokens": entry(**changes)}


META = {"__metadata__": {"target_model": "m", "n_context_tokens": "8"}}
NAN = np.full((2, 3), np.nan, np.float32).tobytes()
PLACES = np.array([1, 5]).tobytes()
SAFETENSORS_FAULTS = {
    "empty": (b"", "header"),
    "seven bytes": (b"\1\0\0\0\0\0\0", "header"),
    "header only announced": (struct.pack("<Q", 100), "truncated"),
    "1 TiB header": (struct.pack("<Q", 2**40) + b"{}", "header"),
    "2**64 - 1 header": (b"\xff" * 8 + b"{}", "header"),
    "not JSON": (safetensors(b"{'a': 1}"), "header"),
    "not UTF-8": (safetensors(b"\xff\xff"), "header"),
    "deep": (safetensors(b"[" * 10_000), "header"),
    "a list": (safetensors([]), "header"),
    "no tensor": (safetensors({}), "header"),
    "another name": (safetensors({"embeds": entry()}, DATA), "header"),
    "one tensor too many": (safetensors({**one(), "x": entry()}, DATA), "header"),
    "metadata no map": (safetensors({**one(), "__metadata__": []}, DATA), "header"),
    "metadata no strings": (safetensors({**one(), "__metadata__": {"a": 1}}, DATA), "header"),
    "entry no map": (safetensors({"compressed_tokens": 5}, DATA), "header"),
    "entry lacks a key": (safetensors({"compressed_tokens": {"dtype": "F32"}}, DATA), "header"),
    "entry with more": (safetensors(one(extra=1), DATA), "header"),
    "F64": (safetensors(one(dtype="F64", offsets=(0, 48)), DATA * 2), "dtype"),
    "I64": (safetensors(one(dtype="I64", offsets=(0, 48)), DATA * 2), "dtype"),
    "dtype no string": (safetensors(one(dtype=["F32"]), DATA), "dtype"),
    "vector": (safetensors(one(shape=(6,)), DATA), "shape"),
    "three dimensions": (safetensors(one(shape=(1, 2, 3)), DATA), "shape"),
    "no rows": (safetensors(one(shape=(0, 3), offsets=(0, 0))), "shape"),
    "negative shape": (safetensors(one(shape=(-2, -3)), DATA), "header"),
    "shape of floats": (safetensors(one(shape=(2.0, 3.0)), DATA), "header"),
    "shape of booleans": (safetensors(one(shape=(True, 3)), DATA), "header"),
    "shape no list": (safetensors(one(shape="23"), DATA), "header"),
    "1e16 rows": (safetensors(one(shape=(10**16, 3), offsets=(0, 12 * 10**16))), "too_many_tokens"),
    "1e16 wide": (safetensors(one(shape=(1, 10**16), offsets=(0, 4 * 10**16))), "hidden_size"),
    "promises more": (safetensors(one(), DATA[:-1]), "truncated"),
    "promises nothing": (safetensors(one(), b""), "truncated"),
    "trailing": (safetensors(one(), DATA + b"\0"), "trailing"),
    "three offsets": (safetensors(one(offsets=(0, 24, 24)), DATA), "header"),
    "offsets do not fit": (safetensors(one(offsets=(0, 20)), DATA[:20]), "header"),
    "offsets swapped": (safetensors(one(offsets=(24, 0)), DATA), "header"),
    "a hole before": (safetensors(one(offsets=(8, 32)), b"\0" * 8 + DATA), "header"),
    "offsets beyond": (safetensors(one(offsets=(2**63, 2**63 + 24)), DATA), "header"),
    "negative offset": (safetensors(one(offsets=(-24, 0)), DATA), "header"),
    "overlap": (
        safetensors({**one(), "positions": entry("I64", (2,), (8, 24))}, DATA),
        "header",
    ),
    "hole between": (
        safetensors({**one(), "positions": entry("I64", (2,), (32, 48))}, DATA + bytes(24)),
        "header",
    ),
    "positions of another type": (
        safetensors({**one(), "positions": entry("F32", (2,), (24, 32))}, DATA + bytes(8)),
        "metadata",
    ),
    "positions of another length": (
        safetensors({**one(), "positions": entry("I64", (3,), (24, 48))}, DATA + bytes(24)),
        "metadata",
    ),
    "positions of many dimensions": (
        safetensors({**one(), "positions": entry("I64", (2**60,) * 300, (24, 24))}, DATA),
        "metadata",
    ),
    "positions beyond the context": (
        safetensors(
            {**one(), "positions": entry("I64", (2,), (24, 40))}, DATA + struct.pack("<qq", 1, 8)
        ),
        "metadata",
    ),
    "negative position": (
        safetensors(
            {**one(), "positions": entry("I64", (2,), (24, 40))}, DATA + struct.pack("<qq", -1, 7)
        ),
        "metadata",
    ),
    "NaN": (safetensors(one(), NAN), "not_finite"),
    "NaN in BF16": (safetensors(one(dtype="BF16", offsets=(0, 12)), b"\xc0\x7f" * 6), "not_finite"),
    "infinity in F16": (
        safetensors(one(dtype="F16", offsets=(0, 12)), b"\x00\x7c" * 6),
        "not_finite",
    ),
}


@pytest.mark.parametrize("fault", sorted(SAFETENSORS_FAULTS))
def test_safetensors_faults(fault: str) -> None:
    body, reason = SAFETENSORS_FAULTS[fault]
    assert reason_of(from_safetensors, body, Limits(20_000, 4, 3)) == reason


def test_safetensors_in_another_order_and_unaligned_is_read() -> None:
    header = {**META, **one(), "positions": entry("I64", (2,), (24, 40))}
    body = safetensors(header, DATA + PLACES)
    found = from_safetensors(body, LIMITS)
    assert found.embeds.tolist() == EMBEDS.tolist()
    assert found.positions is not None
    assert found.positions.tolist() == [1, 5]


@pytest.mark.parametrize("count", ["", "0", "-8", "8.0", "x", "9" * 5000])
def test_a_count_in_the_metadata_that_is_none(count: str) -> None:
    metadata = {"target_model": "m", "n_context_tokens": count}
    body = safetensors({"__metadata__": metadata, **one()}, DATA)
    assert reason_of(from_safetensors, body, Limits(9000, 4), n_context_tokens=None) == "metadata"


def test_the_callers_count_wins_and_its_model_must_be_named() -> None:
    body = to_safetensors(TOKENS)
    found = from_safetensors(body, LIMITS, target_model="m", n_context_tokens=16)
    assert found.n_context_tokens == 16
    assert reason_of(from_safetensors, body, target_model="n") == "target_model"
    assert reason_of(from_npy, to_npy(TOKENS), target_model=None) == "metadata"
    assert reason_of(from_npy, to_npy(TOKENS), n_context_tokens=None) == "metadata"


BODIES = {
    "application/json": to_json(TOKENS),
    "application/json; shape=list": to_json_list(TOKENS),
    "application/json; encoding=base64": to_json_base64(TOKENS),
    "application/x-npy": to_npy(TOKENS),
    "application/octet-stream": to_npy(TOKENS, "float16"),
    "application/vnd.safetensors": to_safetensors(TOKENS),
    "application/vnd.safetensors; dtype=bfloat16": to_safetensors(TOKENS, "bfloat16"),
}


def sound_or_refused(body: bytes, content_type: str) -> None:
    refusal: CodecError | None = None
    try:
        found = decode(body, content_type, LIMITS, target_model="m", n_context_tokens=8)
    except CodecError as error:
        refusal = error
    if refusal is not None:
        assert refusal.detail["reason"] in REASONS
    else:
        assert found.n_condensed_tokens <= LIMITS.max_tokens
        assert found.hidden_size == LIMITS.hidden_size


@pytest.mark.parametrize("content_type", sorted(BODIES))
def test_every_truncation_is_refused(content_type: str) -> None:
    body = BODIES[content_type]
    for length in range(len(body)):
        assert reason_of(
            lambda b, limits, **kw: decode(b, content_type, limits, **kw), body[:length]
        )


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(BODIES)),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_bytes_are_refused_or_sound(
    content_type: str, changes: list[tuple[int, int]]
) -> None:
    body = bytearray(BODIES[content_type])
    for place, value in changes:
        body[place % len(body)] = value
    sound_or_refused(bytes(body), content_type)


@settings(max_examples=100)
@given(st.sampled_from(sorted(BODIES)), st.binary(max_size=200))
@example("application/vnd.safetensors", struct.pack("<Q", 2) + b"{}")
@example("application/x-npy", b"\x93NUMPY\x01\x00\x02\x00{}")
def test_arbitrary_bytes_are_refused_or_sound(content_type: str, body: bytes) -> None:
    sound_or_refused(body, content_type)


@pytest.mark.parametrize(
    "body",
    [
        npy_header(fields(shape="(1, 10000000000000000)")),
        npy_header(fields(shape="(32768, 16384)")),
        safetensors(one(shape=(32768, 16384), offsets=(0, 2**31))),
        safetensors({**one(), "positions": entry("I64", (2**40,), (24, 24 + 2**43))}, DATA),
    ],
)
def test_a_lying_header_allocates_nothing(body: bytes) -> None:
    wide_open = Limits(max_bytes=2**40, max_tokens=2**60)
    media_type = "application/x-npy" if body[:1] == b"\x93" else "application/vnd.safetensors"
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(body, media_type, wide_open, target_model="m", n_context_tokens=8)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content_type", sorted(BODIES))
def test_the_byte_cap_comes_first(content_type: str) -> None:
    body = BODIES[content_type]
    tight = Limits(max_bytes=len(body) - 1, max_tokens=4)
    with pytest.raises(CodecError) as caught:
        decode(body, content_type, tight, target_model="m", n_context_tokens=8)
    assert caught.value.detail == {"reason": "too_large", "limit": len(body) - 1}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_row_that_is_too_loud_is_refused(dtype: str) -> None:
    body = to_safetensors(TOKENS, dtype)
    loudest = float(np.sqrt((EMBEDS**2).mean(axis=1)).max())
    assert from_safetensors(body, Limits(4096, 4, max_rms=loudest * 1.01))
    assert reason_of(from_safetensors, body, Limits(4096, 4, max_rms=loudest * 0.99)) == "rms"


def test_a_row_whose_square_overflows_is_too_loud() -> None:
    huge = CondensedTokens(np.full((1, 3), 1e30, np.float32), "m", 8)
    assert reason_of(from_safetensors, to_safetensors(huge), Limits(4096, 4, max_rms=1e6)) == "rms"


@pytest.mark.parametrize("content_type", ["", "text/html", "application/x-torch", "application"])
def test_a_content_type_that_is_not_ours(content_type: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode(b"[[1.0]]", content_type, LIMITS)
    assert caught.value.detail == {"reason": "media_type"}
