"""safetensors bytes, out and, untrusted, back in; no torch.

Design decisions

* Read and written by hand: the library's numpy side has no bfloat16, drops the metadata, and
  writes the metadata in another order in each process, so the same tokens would not always give
  the same bytes. Tests read and write the same files with the library.
* Only the tensors that condensed tokens consist of are admitted, and they must tile the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neural_condense_core.errors import CodecError
from neural_condense_core.tokens import FloatArray
from neural_condense_core.wire.arrays import (
    Limits,
    cast,
    check_bytes,
    check_shape,
    check_size,
    check_values,
    own,
    to_bfloat16,
)

TENSOR = "compressed_tokens"
POSITIONS = "positions"

_MAX_HEADER = 16 * 1024
_DTYPES: Mapping[str, tuple[str, int]] = MappingProxyType({
    "F32": ("<f4", 4),
    "F16": ("<f2", 2),
    "BF16": ("<u2", 2),
    "I64": ("<i8", 8),
})
_NAMES = MappingProxyType({"float32": "F32", "float16": "F16", "bfloat16": "BF16"})


def write_safetensors(
    embeds: FloatArray,
    positions: npt.NDArray[np.int64] | None,
    metadata: Mapping[str, str],
    dtype: str | None = None,
) -> bytes:
    """Return safetensors bytes: ``compressed_tokens``, and ``positions`` where there are some."""
    name = dtype or embeds.dtype.name
    matrix = to_bfloat16(embeds) if name == "bfloat16" else cast(embeds, name)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts: list[npt.NDArray[Any]] = []
    if positions is not None:
        # First, as the library orders them: eight-byte items start at a multiple of eight.
        parts.append(np.ascontiguousarray(positions, dtype="<i8"))
        header[POSITIONS] = _entry("I64", parts[0], 0)
    header[TENSOR] = _entry(_NAMES[name], matrix, sum(part.nbytes for part in parts))
    parts.append(matrix)
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *(part.data for part in parts)))


def _entry(dtype: str, array: npt.NDArray[Any], begin: int) -> dict[str, Any]:
    offsets = [begin, begin + array.nbytes]
    return {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}


def read_safetensors(
    body: bytes, limits: Limits
) -> tuple[FloatArray, npt.NDArray[np.int64] | None, dict[str, str]]:
    """Return matrix, positions and metadata of safetensors bytes from outside.

    Parameters
    ----------
    body : a whole safetensors file
    limits : what is accepted

    Returns
    -------
    (n, hidden_size) float32 or float16 (bfloat16 comes back as float32); (n,) int64 or None; the
    metadata

    Raises
    ------
    CodecError
        The bytes are anything else than a finite ``compressed_tokens`` of F32, F16 or BF16 within
        the limits, and optionally ``positions``, one I64 a row.
    """
    check_bytes(len(body), limits)
    header, start = read_header(body, _MAX_HEADER)
    metadata = _metadata(header.pop("__metadata__", {}))
    if TENSOR not in header or not header.keys() <= {TENSOR, POSITIONS}:
        raise CodecError(
            f"the tensors are not {TENSOR!r} and, optionally, {POSITIONS!r}", {"reason": "header"}
        )
    entries = {name: _parse(entry) for name, entry in header.items()}
    dtype, shape, begin, _ = entries[TENSOR]
    if dtype == "I64":
        raise CodecError(f"{TENSOR!r} is neither F32, F16 nor BF16", {"reason": "dtype"})
    check_shape(shape, limits)
    # Before the sizes are multiplied: a shape of thousands of dimensions is refused unread.
    if POSITIONS in entries and entries[POSITIONS][:2] != ("I64", shape[:1]):
        raise CodecError(f"{POSITIONS!r} is not one I64 a row", {"reason": "metadata"})
    _check_layout(entries, len(body) - start)
    embeds = own(body, np.dtype(_DTYPES[dtype][0]), start + begin, shape)
    check_values(embeds, limits)
    if POSITIONS not in entries:
        return embeds, None, metadata
    positions = np.frombuffer(body, "<i8", shape[0], start + entries[POSITIONS][2])
    return embeds, positions.astype(np.int64), metadata


def read_header(body: bytes, max_bytes: int) -> tuple[dict[str, Any], int]:
    """Return the JSON header of a safetensors file, and where its data begin.

    Parameters
    ----------
    body : the file
    max_bytes : longest header that is parsed

    Raises
    ------
    CodecError
        There is no such header; ``detail["reason"]`` says why.
    """
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 or length > max_bytes:
        raise CodecError("the body does not begin with a safetensors header", {"reason": "header"})
    if 8 + length > len(body):
        raise CodecError("the safetensors header is cut off", {"reason": "truncated"})
    try:
        header = orjson.loads(body[8 : 8 + length])
    except orjson.JSONDecodeError:
        # Not chained: the parser's error holds the text, and contexts may be in it.
        raise CodecError("the safetensors header is not JSON", {"reason": "header"}) from None
    if not isinstance(header, dict):
        raise CodecError("the safetensors header is not a JSON object", {"reason": "header"})
    return header, 8 + length


def _metadata(raw: object) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise CodecError("the safetensors metadata is not a map of strings", {"reason": "header"})
    return raw


def _parse(entry: object) -> tuple[str, list[int], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CodecError(
            "a safetensors entry is not dtype, shape and data_offsets", {"reason": "header"}
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CodecError(f"{TENSOR!r} is neither F32, F16 nor BF16", {"reason": "dtype"})
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
            raise CodecError(
                "a safetensors shape or offset is not a whole number", {"reason": "header"}
            )
    if len(offsets) != 2:
        raise CodecError("a safetensors entry has not two offsets", {"reason": "header"})
    return dtype, shape, offsets[0], offsets[1]


def _check_layout(entries: Mapping[str, tuple[str, list[int], int, int]], left: int) -> None:
    # No hole, no overlap, nothing behind.
    end = 0
    for dtype, shape, begin, stop in sorted(entries.values(), key=lambda entry: entry[2]):
        if begin != end or stop - begin != math.prod(shape) * _DTYPES[dtype][1]:
            raise CodecError(
                "a safetensors offset contradicts shape and dtype", {"reason": "header"}
            )
        end = stop
    check_size(left, end)
