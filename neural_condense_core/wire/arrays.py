"""Matrices from outside: limits, checks, dtypes and the reasons for which bytes are refused.

Where it sits: below ``npy_bytes.py`` and ``safetensors_bytes.py``, which know the two binary
formats, and ``codec.py``, which adds what a matrix stands for.

Design decisions

* Order of the checks: byte cap, header, dtype, shape against limits, size against the bytes that
  are really there, and only then memory; values last. So a lying header costs nothing.
* A decoded matrix owns its memory: aligned, writable, native byte order, and the body it came from
  can be freed.
* Every refusal is a ``CodecError`` whose detail holds ``{"reason": ...}``, one word of ``REASONS``.
  No refusal repeats bytes of the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import CodecError
from neural_condense_core.tokens import FloatArray

REASONS = (
    "too_large",  # more bytes than the cap
    "truncated",  # fewer bytes than the header promises
    "trailing",  # more bytes than the header promises
    "media_type",  # the Content-Type is none that is decoded
    "magic",  # another format
    "header",  # the header, or the JSON object around the matrix, is not as documented
    "dtype",  # not float32, float16 or (safetensors only) bfloat16, little-endian
    "order",  # Fortran order
    "shape",  # not (n_condensed, hidden_size), or ragged
    "too_many_tokens",
    "hidden_size",
    "not_finite",
    "rms",  # a row is louder than the limit
    "number",  # JSON: an element is no number
    "json",  # not JSON at all
    "base64",
    "metadata",  # target model, count or positions are missing or contradict the matrix
    "target_model",  # made for another target model than the one asked for
    "digest",  # the body is not the one that its Content-Digest states
    "range",  # encoding: a value does not fit the narrower dtype
)

MAX_HIDDEN_SIZE = 16_384
BYTES_PER_JSON_NUMBER = 24
HEADER_BYTES = 65_536

# The largest float32 that still rounds to a finite value of the narrower type.
_FLOAT16_LIMIT = 65520.0


@dataclass(frozen=True)
class Limits:
    """What a decoder accepts from outside.

    Parameters
    ----------
    max_bytes : largest body, bytes; a JSON body takes up to 25 times that while it is parsed
    max_tokens : most rows
    hidden_size : exact number of columns; None = any
    max_rms : largest root mean square of one row; None = no bound
    """

    max_bytes: int
    max_tokens: int
    hidden_size: int | None = None
    max_rms: float | None = None


def limits_of(tier: TierConfig, hidden_size: int | None) -> Limits:
    """Return what is accepted as a backend's reply, in whichever format.

    Parameters
    ----------
    tier : bounds the rows
    hidden_size : exact width; None = any
    """
    width = hidden_size or MAX_HIDDEN_SIZE
    n_bytes = tier.max_condensed_tokens * width * BYTES_PER_JSON_NUMBER + HEADER_BYTES
    return Limits(n_bytes, tier.max_condensed_tokens, hidden_size)


def cast(embeds: FloatArray, dtype: str | None) -> FloatArray:
    """Return a matrix as float32 or float16, contiguous and little-endian; None = as it is.

    ``"bfloat16"`` gives float32 values rounded to what bfloat16 can hold.

    Raises
    ------
    CodecError
        Reason ``range``: a value is too large for float16.
    """
    if dtype == "bfloat16":
        return widen_bfloat16(to_bfloat16(embeds))
    name = dtype or embeds.dtype.name
    if name == "float16" and embeds.dtype != np.float16:
        top = max(float(embeds.max()), -float(embeds.min()))
        if top >= _FLOAT16_LIMIT:
            raise CodecError(
                "a value does not fit float16; ask for float32 or bfloat16", {"reason": "range"}
            )
    return np.ascontiguousarray(embeds, dtype="<f2" if name == "float16" else "<f4")


def to_bfloat16(embeds: FloatArray) -> npt.NDArray[np.uint16]:
    """Return the upper halves of float32, rounded to nearest, ties to even.

    Raises
    ------
    CodecError
        Reason ``range``: a value rounds to infinity.
    """
    bits = np.ascontiguousarray(embeds, dtype="<f4").view("<u4")
    upper: npt.NDArray[np.uint16] = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    if bool(((upper & 0x7F80) == 0x7F80).any()):
        raise CodecError("a value does not fit bfloat16; ask for float32", {"reason": "range"})
    return upper


def widen_bfloat16(upper: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return float32 from the 16 bits of bfloat16; exact."""
    return (upper.astype("<u4") << np.uint32(16)).view("<f4")


def read_rows(rows: object, limits: Limits) -> FloatArray:
    """Return parsed JSON rows as a float32 matrix.

    Parameters
    ----------
    rows : what a JSON parser made of ``[[float, ...], ...]``
    limits : what is accepted

    Raises
    ------
    CodecError
        Not a rectangular list of lists of numbers within the limits.
    """
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise CodecError("the matrix is not a list of lists of numbers", {"reason": "shape"})
    widths = set(map(len, rows))
    if len(widths) > 1:
        raise CodecError("the rows differ in length", {"reason": "shape"})
    shape = [len(rows), *widths]
    check_shape(shape, limits)
    if not set(map(type, chain.from_iterable(rows))) <= {float, int}:
        raise CodecError("an element of the matrix is not a number", {"reason": "number"})
    with np.errstate(over="ignore"):
        matrix = np.array(rows, dtype=np.float32)
    check_values(matrix, limits)
    return matrix


def check_shape(shape: Sequence[int], limits: Limits) -> int:
    """Return the number of elements of a shape that is within the limits.

    Raises
    ------
    CodecError
        Reason ``shape``, ``too_many_tokens`` or ``hidden_size``.
    """
    if len(shape) != 2 or 0 in shape:
        raise CodecError(
            "the array is not (n_condensed, hidden_size) with both above 0", {"reason": "shape"}
        )
    n_tokens, hidden_size = shape
    if n_tokens > limits.max_tokens:
        limit = limits.max_tokens
        raise CodecError(
            f"more than {limit} condensed tokens", {"reason": "too_many_tokens", "limit": limit}
        )
    if limits.hidden_size is not None and hidden_size != limits.hidden_size:
        want = limits.hidden_size
        raise CodecError(f"the rows are not {want} wide", {"reason": "hidden_size", "limit": want})
    return n_tokens * hidden_size


def check_values(matrix: FloatArray, limits: Limits) -> None:
    """Check that every value is finite and no row too loud.

    Raises
    ------
    CodecError
        Reason ``not_finite`` or ``rms``.
    """
    if matrix.dtype == np.float16:
        # By the exponent's bits: numpy's isfinite takes two to three times as long on float16.
        finite = not bool(((matrix.view(np.uint16) & 0x7C00) == 0x7C00).any())
    else:
        finite = bool(np.isfinite(matrix).all())
    if not finite:
        raise CodecError("the matrix holds NaN or infinity", {"reason": "not_finite"})
    if limits.max_rms is not None:
        with np.errstate(over="ignore"):
            power = np.square(matrix, dtype=np.float32).mean(axis=1)
        if float(power.max()) > limits.max_rms**2:
            limit = limits.max_rms
            raise CodecError(
                f"a row's root mean square is above {limit:g}", {"reason": "rms", "limit": limit}
            )


def check_bytes(n_bytes: int, limits: Limits) -> None:
    """Check the size of a whole body.

    Raises
    ------
    CodecError
        Reason ``too_large``.
    """
    if n_bytes > limits.max_bytes:
        limit = limits.max_bytes
        raise CodecError(
            f"the body is larger than {limit} bytes", {"reason": "too_large", "limit": limit}
        )


def check_size(left: int, promised: int) -> None:
    """Check the bytes that are there against those that a header promised.

    Raises
    ------
    CodecError
        Reason ``truncated`` or ``trailing``.
    """
    if left < promised:
        raise CodecError(
            "the body holds fewer bytes than its header promises", {"reason": "truncated"}
        )
    if left > promised:
        raise CodecError(
            "the body holds more bytes than its header promises", {"reason": "trailing"}
        )


def own(body: bytes, dtype: np.dtype[Any], start: int, shape: Sequence[int]) -> FloatArray:
    """Return a copy of a matrix inside checked bytes; 16-bit unsigned stands for bfloat16."""
    raw = np.frombuffer(body, dtype, shape[0] * shape[1], start).reshape(shape)
    if dtype.kind == "u":
        return widen_bfloat16(raw).astype(np.float32, copy=False)
    if dtype.itemsize == 2:
        return raw.astype(np.float16)
    return raw.astype(np.float32)
