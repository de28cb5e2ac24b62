"""npy bytes, out and, untrusted, back in.

Design decisions

* The header is read by a grammar that admits one plain array, keys in any order. ``numpy.load``
  allocates before it knows that the bytes are there, opens zip files, takes trailing bytes and
  evaluates the header as a Python literal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

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
)

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1024
_DTYPES: Mapping[bytes, np.dtype[Any]] = MappingProxyType({
    b"<f4": np.dtype("<f4"),
    b"<f2": np.dtype("<f2"),
})
_FIELD = re.compile(
    rb"'(descr)':'([^']{1,16})'(?:,|$)"
    rb"|'(fortran_order)':(True|False)(?:,|$)"
    rb"|'(shape)':\(([0-9,]{0,64})\)(?:,|$)"
)
_KEYS = [b"descr", b"fortran_order", b"shape"]


def write_npy(embeds: FloatArray, dtype: str | None = None) -> bytes:
    """Return npy version 1.0 bytes, float32 or float16."""
    matrix = cast(embeds, dtype)
    text = f"{{'descr': '{matrix.dtype.str}', 'fortran_order': False, 'shape': {matrix.shape}, }}"
    padding = -(len(text) + 11) % 64
    header = (text + " " * padding + "\n").encode("ascii")
    prefix = _MAGIC + b"\x01\x00" + len(header).to_bytes(2, "little")
    return b"".join((prefix, header, matrix.data))


def read_npy(body: bytes, limits: Limits) -> FloatArray:
    """Return the matrix in npy bytes from outside.

    Parameters
    ----------
    body : npy version 1.0 or 2.0
    limits : what is accepted

    Raises
    ------
    CodecError
        The bytes are anything else than one C-ordered, little-endian, finite float32 or float16
        matrix within the limits.
    """
    check_bytes(len(body), limits)
    descr, fortran, shape_text, start = _header(body)
    dtype = _DTYPES.get(descr)
    if dtype is None:
        raise CodecError("the npy array is neither <f4 nor <f2", {"reason": "dtype"})
    if fortran:
        raise CodecError("the npy array is in Fortran order; send C order", {"reason": "order"})
    shape = [int(part) for part in shape_text.rstrip(b",").split(b",") if part]
    count = check_shape(shape, limits)
    check_size(len(body) - start, count * dtype.itemsize)
    matrix = own(body, dtype, start, shape)
    check_values(matrix, limits)
    return matrix


def _header(body: bytes) -> tuple[bytes, bool, bytes, int]:
    if body[:6] != _MAGIC:
        raise CodecError("the body is not npy", {"reason": "magic"})
    width = {b"\x01\x00": 2, b"\x02\x00": 4}.get(body[6:8])
    if width is None:
        raise CodecError("the npy version is neither 1.0 nor 2.0", {"reason": "header"})
    length = int.from_bytes(body[8 : 8 + width], "little")
    start = 8 + width + length
    if length > _MAX_HEADER:
        raise CodecError(f"the npy header is longer than {_MAX_HEADER} bytes", {"reason": "header"})
    if start > len(body):
        raise CodecError("the npy header is cut off", {"reason": "truncated"})
    fields = _fields(b"".join(body[8 + width : start].split()))
    return fields[b"descr"], fields[b"fortran_order"] == b"True", fields[b"shape"], start


def _fields(text: bytes) -> dict[bytes, bytes]:
    found: list[tuple[bytes, bytes]] = []
    at, end = 1, len(text) - 1
    while match := _FIELD.match(text, at, end):
        key, value = (group for group in match.groups() if group is not None)
        found.append((key, value))
        at = match.end()
    if text[:1] + text[-1:] != b"{}" or at != end or sorted(key for key, _ in found) != _KEYS:
        raise CodecError("the npy header is not that of one plain array", {"reason": "header"})
    return dict(found)
