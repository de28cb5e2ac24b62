"""The JSON messages of a backend, by the field names that are on the wire.

Where it sits: the backend parses requests and describes its API with these; clients read health,
information and errors with them. The messages of the other services have ``Message`` for a base
too. The matrix itself goes through ``wire/codec.py``: the reply models here say what it looks like
and are never filled for a real one.

Design decisions

* Fields that are not known are ignored, in requests and in replies: clients written for other
  backends send more than we read, and a client must survive a newer backend. What is known is
  strict: a number in quotes is a wrong type.
* An error names the field and the rule it broke and never the value: contexts are private. For the
  same reason no parser's exception is chained, as those hold the input.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from neural_condense_core.errors import (
    CodecError,
    MalformedJsonError,
    PayloadTooLargeError,
    RequestError,
)

MAX_BODY_BYTES = 4_000_000
MAX_NAME_CHARS = 256


M = TypeVar("M", bound=BaseModel)


class Message(BaseModel):
    """What every message of ours is: strict in what is known, deaf to the rest, never changed."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", strict=True, hide_input_in_errors=True, allow_inf_nan=False
    )


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be only whitespace")
    return text


ContextText = Annotated[
    str,
    Field(min_length=1, description="the text to condense; not only whitespace"),
    AfterValidator(_not_blank),
]
"""The field ``context`` of every request that condenses."""


class CondenseRequest(Message):
    """Body of ``POST /condense``; ``{"context": "..."}`` alone is valid."""

    context: ContextText
    target_model: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_NAME_CHARS,
        description="the model that will read the condensed tokens; absent = the one served",
    )
    ratio: float | None = Field(
        default=None, ge=1, description="context tokens per condensed token; absent = the default"
    )
    max_condensed_tokens: int | None = Field(
        default=None, ge=1, description="never exceeded; the ratio rises to keep it"
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="how JSON carries the matrix, where Accept leaves it open"
    )


class MinerRequest(Message):
    """Body of a validator's signed ``POST /v1/condense`` to a miner."""

    tier: str = Field(min_length=1, max_length=64, description="the tier the request counts for")
    target_model: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    context: ContextText


class MinerMetadata(Message):
    """Body of a miner's ``GET /v1/metadata``."""

    version: str
    hotkey: str = Field(description="ss58 address")
    tier: str
    target_model: str
    hidden_size: int | None = Field(default=None, description="null until the backend has said it")
    max_condensed_tokens: int
    max_context_chars: int


class CondenseReply(Message):
    """The JSON object that answers ``POST /condense``."""

    compressed_tokens: list[list[float]] = Field(description="n_condensed_tokens rows, hidden wide")
    target_model: str
    n_context_tokens: int = Field(ge=1)
    n_condensed_tokens: int = Field(ge=1)
    positions: list[int] | None = Field(
        default=None, description="centre of each condensed token in the context, from 0"
    )
    cached: bool = Field(default=False, description="answered from the cache; absent = no")


class CondenseReplyBase64(Message):
    """The JSON object for ``encoding_format`` or ``Accept`` parameter ``encoding=base64``."""

    compressed_tokens_b64: str = Field(description="base64 of npy bytes")
    dtype: Literal["float32", "float16"]
    shape: tuple[int, int]
    target_model: str
    n_context_tokens: int = Field(ge=1)
    n_condensed_tokens: int = Field(ge=1)
    positions: list[int] | None = None
    cached: bool = Field(default=False, description="answered from the cache; absent = no")


class ErrorInfo(Message):
    """What went wrong."""

    code: str = Field(description="stable, for programs")
    message: str = Field(description="what happened and what to do, for people")
    detail: dict[str, Any] = Field(default_factory=dict)


class ErrorBody(Message):
    """Body of every reply with status 400 or above, health apart."""

    error: ErrorInfo


class Live(Message):
    """Body of ``GET /health/live``: the process answers."""

    state: Literal["live"] = "live"


class NotReady(Message):
    """Body of ``GET /health/ready`` with status 503."""

    state: Literal["loading", "draining", "failed"]
    stage: str = Field(default="", description='what is being done, "load" for example')
    done: float | None = Field(
        default=None, ge=0, le=1, description="share of the whole start; or null"
    )
    elapsed_s: float = Field(default=0.0, ge=0)
    reason: str | None = Field(default=None, description="why it failed or drains")


class Ready(Message):
    """Body of ``GET /health/ready`` with status 200."""

    state: Literal["ready"] = "ready"
    workers: int = Field(ge=1)


class CrewNotReady(NotReady):
    """``NotReady`` of a backend with several workers."""

    workers: int = Field(ge=0, description="workers that can answer")
    total: int = Field(ge=1, description="workers there should be")


class CrewReady(Ready):
    """``Ready`` of a backend with several workers."""

    total: int = Field(ge=1, description="workers there should be")
    reason: str | None = Field(default=None, description="why some are missing")


Health = Annotated[NotReady | Ready, Field(discriminator="state")]
_HEALTH: TypeAdapter[NotReady | Ready] = TypeAdapter(Health)


class InfoLimits(Message):
    """What a backend accepts."""

    max_body_bytes: int
    max_context_tokens: int
    timeout_s: float


class Info(Message):
    """Body of ``GET /info``."""

    condenser: str = Field(description="name of the method or checkpoint")
    target_model: str
    hidden_size: int | None = Field(default=None, description="null until a worker has loaded")
    ratios: list[int] | None = Field(default=None, description="ratios on offer; null = any from 1")
    default_ratio: float | None = None
    model_revision: str | None = Field(
        default=None, description="identifies the weights and settings that make the answers"
    )
    api_path: str = "/condense"
    limits: InfoLimits
    formats: list[str] = Field(description="media types for Accept")


def parse_request(body: bytes, *, max_body_bytes: int = MAX_BODY_BYTES) -> CondenseRequest:
    """Read the body of ``POST /condense``; parameters and errors as ``parse_body``."""
    return parse_body(CondenseRequest, body, max_body_bytes=max_body_bytes)


def parse_body(kind: type[M], body: bytes, *, max_body_bytes: int = MAX_BODY_BYTES) -> M:
    """Read the JSON body of a request.

    Parameters
    ----------
    kind : the message it must be
    body : as it came
    max_body_bytes : the cap, bytes

    Raises
    ------
    PayloadTooLargeError
        The body is larger.
    MalformedJsonError
        The body is not JSON in UTF-8.
    RequestError
        A field is missing, of the wrong type or out of range; detail names each and its fault.
    """
    if len(body) > max_body_bytes:
        message = f"the body is larger than {max_body_bytes} bytes; send a shorter context"
        raise PayloadTooLargeError(message, {"limit": max_body_bytes})
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedJsonError('the body is not JSON; send {"context": "..."}') from None
    if not isinstance(parsed, dict):
        raise RequestError('the body is not a JSON object; send {"context": "..."}')
    try:
        return kind.model_validate(parsed)
    except ValidationError as error:
        faults = _faults(error)
    listed = "; ".join(f"{field}: {fault}" for field, fault in faults.items())
    raise RequestError(f"invalid request: {listed}", {"fields": faults})


def parse_error(body: bytes) -> ErrorInfo | None:
    """Return what an error body from outside says; None if it is not of ours."""
    try:
        return ErrorBody.model_validate(orjson.loads(body)).error
    except (orjson.JSONDecodeError, ValidationError):
        return None


def parse_health(body: bytes) -> NotReady | Ready:
    """Read the body of ``GET /health/ready``, of either status.

    Raises
    ------
    CodecError
        It is something else.
    """
    try:
        return _HEALTH.validate_python(orjson.loads(body))
    except (orjson.JSONDecodeError, ValidationError):
        raise CodecError("not the body of /health/ready", {"reason": "header"}) from None


def parse_info(body: bytes) -> Info:
    """Read the body of ``GET /info``.

    Raises
    ------
    CodecError
        It is something else.
    """
    try:
        return Info.model_validate(orjson.loads(body))
    except (orjson.JSONDecodeError, ValidationError):
        raise CodecError("not the body of /info", {"reason": "header"}) from None


def _faults(error: ValidationError) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(item["loc"][0]) if item["loc"] else "body"
        fault = item["msg"].removeprefix("Value error, ")
        found.setdefault(field, fault)
    return found
