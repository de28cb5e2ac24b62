"""``CondensedTokens`` as bytes: every format of the wire, both ways, and the choice between them.

Where it sits: the backend's worker encodes here, so that no event loop touches floats; clients,
miners and validators decode here. ``docs/wire.md`` shows the bytes.

Design decisions

* Between nodes the bytes are safetensors; towards anyone else JSON by default. ``Accept`` selects,
  and its ``dtype=`` parameter narrows.
* JSON numbers are the shortest digits that read back as the same float32, written by orjson from
  the array: exact, 45 % smaller than ``json.dumps(tolist())`` and over twenty times as fast.
* No compression: gzip of a large JSON body takes seconds and saves half.
* What vLLM takes as prompt embeddings is written and never read: reading it means unpickling.
* A decoder is told what the caller knows. The target model a caller names must be the one the
  bytes name; a number of context tokens the caller counted itself wins over the one in the bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neural_condense_core.errors import CodecError, NotAcceptableError
from neural_condense_core.tokens import CondensedTokens, FloatArray
from neural_condense_core.wire.accept import Offer, choose, parse_media_type
from neural_condense_core.wire.arrays import Limits, cast, check_bytes, read_rows
from neural_condense_core.wire.digest import DIGEST_HEADER, content_digest
from neural_condense_core.wire.messages import MAX_NAME_CHARS
from neural_condense_core.wire.npy_bytes import read_npy, write_npy
from neural_condense_core.wire.safetensors_bytes import read_safetensors, write_safetensors
from neural_condense_core.wire.torch_bytes import write_torch

MAX_CONTEXT_TOKENS = 2**40
REVISION_HEADER = "X-Condense-Model-Revision"

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_NARROW = ("float32", "float16")
_ALL = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Format:
    """One way to write condensed tokens; small and picklable, so that it travels to a worker.

    Parameters
    ----------
    name : key of the encoder: ``json``, ``list``, ``base64``, ``npy``, ``safetensors``, ``torch``
    media_type : without parameters
    parameters : what ``Accept`` may say to mean this one among formats of the same media type
    dtypes : what ``dtype`` may be
    dtype : dtype on the wire; None = that of the tokens
    """

    name: str
    media_type: str
    parameters: tuple[tuple[str, str], ...] = ()
    dtypes: tuple[str, ...] = _NARROW
    dtype: str | None = None

    @property
    def content_type(self) -> str:
        """The ``Content-Type`` of a body in this format."""
        shown = [(key, value) for key, value in self.parameters if (key, value) not in _DEFAULTS]
        if self.dtype is not None:
            shown.append(("dtype", self.dtype))
        return "".join((self.media_type, *(f"; {key}={value}" for key, value in shown)))


_DEFAULTS = frozenset({("shape", "object"), ("encoding", "float")})

JSON = Format("json", "application/json", (("shape", "object"), ("encoding", "float")), _ALL)
JSON_LIST = Format("list", "application/json", (("shape", "list"), ("encoding", "float")), _ALL)
JSON_BASE64 = Format("base64", "application/json", (("shape", "object"), ("encoding", "base64")))
NPY = Format("npy", "application/x-npy")
NPY_OCTETS = Format("npy", "application/octet-stream")
SAFETENSORS = Format("safetensors", "application/vnd.safetensors", (), _ALL)
TORCH = Format("torch", "application/x-torch", (), _ALL)

MEDIA_TYPES: Mapping[str, Format] = MappingProxyType({
    format_.content_type: format_
    for format_ in (JSON, JSON_LIST, JSON_BASE64, NPY, NPY_OCTETS, SAFETENSORS, TORCH)
})


def negotiate(accept: str | None, prefer: Format = JSON) -> Format:
    """Choose the format of a reply.

    Parameters
    ----------
    accept : the request's ``Accept`` header, as RFC 9110 has it; None or empty = anything
    prefer : what to send where the header leaves the choice: ``JSON_LIST`` for a backend that
        serves bare lists, ``JSON_BASE64`` for a request that says ``encoding_format``

    Raises
    ------
    NotAcceptableError
        Nothing that is offered fits; detail lists what is.
    """
    ordered = [prefer, *(format_ for format_ in MEDIA_TYPES.values() if format_ != prefer)]
    formats = [
        replace(format_, dtype=dtype) if dtype else format_
        for format_ in ordered
        for dtype in (None, *format_.dtypes)
    ]
    index = choose(accept or "", [_offer(format_) for format_ in formats])
    if index is None:
        offered = {name: list(format_.dtypes) for name, format_ in MEDIA_TYPES.items()}
        raise NotAcceptableError(
            "no format on offer fits the Accept header; detail.offered lists the media types and "
            "the dtypes of each, chosen by '; dtype='",
            {"offered": offered},
        )
    return formats[index]


def _offer(format_: Format) -> Offer:
    dtype = {} if format_.dtype is None else {"dtype": format_.dtype}
    return Offer(format_.media_type, {**dict(format_.parameters), **dtype})


def encode(tokens: CondensedTokens, format_: Format) -> bytes:
    """Write condensed tokens in a negotiated format."""
    return _ENCODERS[format_.name](tokens, format_.dtype)


def reply_headers(
    tokens: CondensedTokens,
    format_: Format,
    body: bytes | None = None,
    *,
    revision: str | None = None,
) -> dict[str, str]:
    """Return the headers that describe a body as fully as the JSON object describes itself.

    Parameters
    ----------
    tokens : what the body holds
    format_ : how
    body : for its digest; None = leave the digest out
    revision : what identifies the weights that made the tokens; None or empty = unknown
    """
    headers = {
        "Content-Type": format_.content_type,
        "Vary": "Accept",
        "X-Condense-Dtype": format_.dtype or tokens.embeds.dtype.name,
        "X-Condense-Shape": f"{tokens.n_condensed_tokens},{tokens.hidden_size}",
        "X-Condense-Hidden-Size": str(tokens.hidden_size),
        "X-Condense-N-Context-Tokens": str(tokens.n_context_tokens),
    }
    if revision:
        headers[REVISION_HEADER] = revision
    if body is not None:
        headers[DIGEST_HEADER] = content_digest(body)
    return headers


def to_json(tokens: CondensedTokens, dtype: str | None = None) -> bytes:
    """Write the JSON object; float32 reads back bit by bit.

    Parameters
    ----------
    tokens : the condensed tokens
    dtype : round the values to this type first; None = as they are
    """
    matrix = {"compressed_tokens": cast(tokens.embeds, dtype)}
    return orjson.dumps({**matrix, **_facts(tokens)}, option=_NUMPY)


def to_json_list(tokens: CondensedTokens, dtype: str | None = None) -> bytes:
    """Write the bare ``[[float, ...], ...]``; float32 reads back bit by bit."""
    return orjson.dumps(cast(tokens.embeds, dtype), option=_NUMPY)


def to_json_base64(tokens: CondensedTokens, dtype: str | None = None) -> bytes:
    """Write a JSON object whose ``compressed_tokens_b64`` is base64 of npy bytes."""
    matrix = {
        "compressed_tokens_b64": base64.b64encode(write_npy(tokens.embeds, dtype)).decode("ascii"),
        "dtype": dtype or tokens.embeds.dtype.name,
        "shape": tokens.embeds.shape,
    }
    return orjson.dumps({**matrix, **_facts(tokens)}, option=_NUMPY)


def to_npy(tokens: CondensedTokens, dtype: str | None = None) -> bytes:
    """Write the matrix as npy version 1.0; says nothing of model or context."""
    return write_npy(tokens.embeds, dtype)


def to_safetensors(tokens: CondensedTokens, dtype: str | None = None) -> bytes:
    """Write safetensors, the format between nodes.

    Parameters
    ----------
    tokens : the condensed tokens
    dtype : ``"float32"``, ``"float16"``, ``"bfloat16"``; None = that of the tokens
    """
    metadata = {
        "target_model": tokens.target_model,
        "n_context_tokens": str(tokens.n_context_tokens),
    }
    if tokens.checkpoint is not None:
        metadata["checkpoint"] = tokens.checkpoint
    return write_safetensors(tokens.embeds, tokens.positions, metadata, dtype)


def to_torch(tokens: CondensedTokens, dtype: str | None = None) -> bytes:
    """Write what ``torch.save`` writes for the matrix; vLLM takes its base64 as it is."""
    return write_torch(tokens.embeds, dtype)


_ENCODERS: Mapping[str, Callable[[CondensedTokens, str | None], bytes]] = MappingProxyType({
    "json": to_json,
    "list": to_json_list,
    "base64": to_json_base64,
    "npy": to_npy,
    "safetensors": to_safetensors,
    "torch": to_torch,
})


def _facts(tokens: CondensedTokens) -> dict[str, Any]:
    return {
        "target_model": tokens.target_model,
        "n_context_tokens": tokens.n_context_tokens,
        "n_condensed_tokens": tokens.n_condensed_tokens,
        "positions": tokens.positions,
    }


def decode(
    body: bytes,
    content_type: str,
    limits: Limits,
    *,
    target_model: str | None = None,
    n_context_tokens: int | None = None,
) -> CondensedTokens:
    """Read bytes from outside in the format that their ``Content-Type`` names.

    Raises
    ------
    CodecError
        Reason ``media_type``, or any that the format's own reader gives.
    """
    media_type, _ = parse_media_type(content_type)
    read = _DECODERS.get(media_type)
    if read is None:
        raise CodecError("the Content-Type is none of ours", {"reason": "media_type"})
    return read(body, limits, target_model=target_model, n_context_tokens=n_context_tokens)


def from_npy(
    body: bytes,
    limits: Limits,
    *,
    target_model: str | None = None,
    n_context_tokens: int | None = None,
) -> CondensedTokens:
    """Read npy bytes from outside; every fault is a ``CodecError`` with a reason.

    Parameters
    ----------
    body : npy of one float32 or float16 matrix
    limits : what is accepted
    target_model, n_context_tokens : npy does not say them, so the caller must
    """
    matrix = read_npy(body, limits)
    return _assemble(matrix, None, {}, target_model, n_context_tokens)


def from_safetensors(
    body: bytes,
    limits: Limits,
    *,
    target_model: str | None = None,
    n_context_tokens: int | None = None,
) -> CondensedTokens:
    """Read safetensors bytes from outside; every fault is a ``CodecError`` with a reason.

    Parameters
    ----------
    body : tensor ``compressed_tokens``, optionally ``positions``
    limits : what is accepted
    target_model : the model they must be for; None = take the metadata's word
    n_context_tokens : the caller's own count; None = take the metadata's word
    """
    matrix, positions, metadata = read_safetensors(body, limits)
    said: dict[str, Any] = dict(metadata)
    count = metadata.get("n_context_tokens")
    if count is not None:
        said["n_context_tokens"] = int(count) if count.isdecimal() and len(count) < 16 else None
    return _assemble(matrix, positions, said, target_model, n_context_tokens)


def from_json(
    body: bytes,
    limits: Limits,
    *,
    target_model: str | None = None,
    n_context_tokens: int | None = None,
) -> CondensedTokens:
    """Read JSON from outside: a bare list of rows, ``compressed_tokens`` or its base64 form.

    Parameters
    ----------
    body : JSON
    limits : what is accepted
    target_model, n_context_tokens : as for ``from_safetensors``; a bare list does not say them

    Raises
    ------
    CodecError
        Not one of the three forms, or a fault inside.
    """
    check_bytes(len(body), limits)
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        # Not chained: the parser's error holds the whole body.
        raise CodecError("the body is not JSON", {"reason": "json"}) from None
    if isinstance(parsed, list):
        return _assemble(read_rows(parsed, limits), None, {}, target_model, n_context_tokens)
    if not isinstance(parsed, dict):
        raise CodecError("the JSON is neither a list nor an object", {"reason": "header"})
    matrix = _json_matrix(parsed, limits)
    if parsed.get("n_condensed_tokens", len(matrix)) != len(matrix):
        raise CodecError("n_condensed_tokens is not the number of rows", {"reason": "metadata"})
    positions = _json_positions(parsed.get("positions"))
    return _assemble(matrix, positions, parsed, target_model, n_context_tokens)


def _json_matrix(parsed: dict[str, Any], limits: Limits) -> FloatArray:
    if "compressed_tokens" in parsed:
        return read_rows(parsed["compressed_tokens"], limits)
    text = parsed.get("compressed_tokens_b64")
    if not isinstance(text, str):
        raise CodecError("the JSON object holds no compressed_tokens", {"reason": "header"})
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CodecError("compressed_tokens_b64 is not base64", {"reason": "base64"}) from None
    return read_npy(raw, limits)


def _json_positions(raw: object) -> npt.NDArray[np.int64] | None:
    if raw is None:
        return None
    whole = isinstance(raw, list) and all(
        type(item) is int and 0 <= item < MAX_CONTEXT_TOKENS for item in raw
    )
    if not whole:
        raise CodecError("positions is not a list of whole numbers", {"reason": "metadata"})
    return np.array(raw, dtype=np.int64)


def _assemble(
    matrix: FloatArray,
    positions: npt.NDArray[np.int64] | None,
    said: Mapping[str, Any],
    target_model: str | None,
    n_context_tokens: int | None,
) -> CondensedTokens:
    named = said.get("target_model")
    if named is None:
        named = target_model
    if not isinstance(named, str) or not 0 < len(named) <= MAX_NAME_CHARS:
        raise CodecError("the target model is not named, or not by a name", {"reason": "metadata"})
    if target_model not in {None, named}:
        message = f"not made for target model {target_model!r}"
        raise CodecError(message, {"reason": "target_model", "expected": target_model})
    count = said.get("n_context_tokens") if n_context_tokens is None else n_context_tokens
    if type(count) is not int or not 0 < count < MAX_CONTEXT_TOKENS:
        message = "the number of context tokens is not given, or not as a number above 0"
        raise CodecError(message, {"reason": "metadata"})
    if positions is not None and (
        positions.shape != matrix.shape[:1] or positions.min() < 0 or positions.max() >= count
    ):
        message = "positions is not one place in the context a condensed token"
        raise CodecError(message, {"reason": "metadata"})
    checkpoint = said.get("checkpoint")
    if not isinstance(checkpoint, str) or not 0 < len(checkpoint) <= MAX_NAME_CHARS:
        checkpoint = None
    return CondensedTokens(matrix, named, count, positions, checkpoint)


_DECODERS: Mapping[str, Callable[..., CondensedTokens]] = MappingProxyType({
    "application/json": from_json,
    "application/x-npy": from_npy,
    "application/octet-stream": from_npy,
    "application/vnd.safetensors": from_safetensors,
})
