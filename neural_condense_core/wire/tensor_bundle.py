"""Many small matrices and one text as safetensors bytes, out and, untrusted, back in; no torch.

Where it sits: ``wire/scoring.py`` sends a whole round of replies with it; a single reply goes
through ``safetensors_bytes.py``.

Design decisions

* A tensor that is not what it should be (a NaN, three dimensions, no rows) is read as it is: what
  one miner sent must not cost the others their score. Only bytes that contradict their own header
  refuse the whole.
* The tensors must tile the data, so nothing is read twice and nothing is hidden.
* Sizes are checked against bytes that are really there before any memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neural_condense_core.errors import CodecError
from neural_condense_core.wire.arrays import check_size, to_bfloat16, widen_bfloat16
from neural_condense_core.wire.safetensors_bytes import read_header

Array = npt.NDArray[np.float32] | npt.NDArray[np.float16]

MAX_DIMENSIONS = 8
MAX_DIMENSION = 1 << 40

_METADATA = "__metadata__"
_DTYPES: Mapping[str, tuple[str, int]] = MappingProxyType({
    "F32": ("<f4", 4),
    "F16": ("<f2", 2),
    "BF16": ("<u2", 2),
})
_NAMES = MappingProxyType({"float32": "F32", "float16": "F16", "bfloat16": "BF16"})


@dataclass(frozen=True)
class BundleLimits:
    """What a reader accepts.

    Parameters
    ----------
    max_bytes : the whole body, bytes
    max_header_bytes : names, shapes and text
    max_tensors : how many
    """

    max_bytes: int
    max_header_bytes: int
    max_tensors: int


def write_bundle(
    tensors: Mapping[str, Array], metadata: Mapping[str, str], dtype: str | None = None
) -> bytes:
    """Return safetensors bytes.

    Parameters
    ----------
    tensors : name -> float32 or float16 of any shape
    metadata : text beside them
    dtype : ``"float32"``, ``"float16"`` or ``"bfloat16"`` on the wire; None = as they are
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    parts: list[npt.NDArray[Any]] = []
    end = 0
    for name, tensor in tensors.items():
        wanted = dtype or tensor.dtype.name
        array = np.asarray(_cast(tensor, wanted), order="C")
        offsets = [end, end + array.nbytes]
        shape = list(array.shape)
        header[name] = {"dtype": _NAMES[wanted], "shape": shape, "data_offsets": offsets}
        parts.append(array)
        end += array.nbytes
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *(part.tobytes() for part in parts)))


def read_bundle(body: bytes, limits: BundleLimits) -> tuple[dict[str, Array], dict[str, str]]:
    """Return tensors and metadata of safetensors bytes from outside.

    Parameters
    ----------
    body : a whole safetensors file
    limits : what is accepted

    Returns
    -------
    name -> float32 or float16 of any shape, values unchecked (bfloat16 comes back as float32);
    and the text beside them

    Raises
    ------
    CodecError
        The bytes are too large or contradict their header; reason ``too_large``, ``truncated``,
        ``trailing``, ``header`` or ``dtype``.
    """
    if len(body) > limits.max_bytes:
        limit = limits.max_bytes
        raise CodecError(
            f"the body is larger than {limit} bytes", {"reason": "too_large", "limit": limit}
        )
    header, start = read_header(body, limits.max_header_bytes)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CodecError("the safetensors metadata is not a map of strings", {"reason": "header"})
    if len(header) > limits.max_tensors:
        limit = limits.max_tensors
        raise CodecError(f"more than {limit} tensors", {"reason": "too_large", "limit": limit})
    entries = {name: _Entry.parse(raw) for name, raw in header.items()}
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end or entry.end - entry.begin != entry.n_bytes:
            raise CodecError(
                "a safetensors offset contradicts shape and dtype", {"reason": "header"}
            )
        end = entry.end
    check_size(len(body) - start, end)
    return {name: entry.read(body, start) for name, entry in entries.items()}, metadata


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @classmethod
    def parse(cls, raw: object) -> _Entry:
        if not isinstance(raw, dict) or raw.keys() != {"dtype", "shape", "data_offsets"}:
            raise CodecError(
                "a safetensors entry is not dtype, shape and data_offsets", {"reason": "header"}
            )
        if not isinstance(raw["dtype"], str) or raw["dtype"] not in _DTYPES:
            raise CodecError("a tensor is neither F32, F16 nor BF16", {"reason": "dtype"})
        shape, offsets = raw["shape"], raw["data_offsets"]
        for numbers in (shape, offsets):
            if not isinstance(numbers, list) or not all(
                type(number) is int and 0 <= number < MAX_DIMENSION for number in numbers
            ):
                raise CodecError(
                    "a safetensors shape or offset is not a whole number", {"reason": "header"}
                )
        if len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
            raise CodecError("a safetensors entry has no such shape", {"reason": "header"})
        return cls(raw["dtype"], tuple(shape), offsets[0], offsets[1])

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.dtype][1]

    def read(self, body: bytes, start: int) -> Array:
        kind = _DTYPES[self.dtype][0]
        raw = np.frombuffer(body, kind, math.prod(self.shape), start + self.begin)
        shaped = raw.reshape(self.shape)
        if self.dtype == "BF16":
            return widen_bfloat16(shaped).astype(np.float32, copy=False)
        return shaped.astype(np.float16) if self.dtype == "F16" else shaped.astype(np.float32)


def _cast(tensor: Array, name: str) -> npt.NDArray[Any]:
    if name == "bfloat16":
        return to_bfloat16(tensor)
    with np.errstate(over="ignore"):
        return tensor.astype("<f2" if name == "float16" else "<f4")
