"""Requests in OpenAI's shape, as far as they are served.

Where it sits: ``app.py`` parses bodies with these; ``dialogue.py`` turns them into turns.

Design decisions

* Fields that would change the answer and are not served are refused by name; fields that are not
  known are ignored, as clients of many servers send them.
* A fault names the field and the rule and never the value: prompts are private.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neural_condense_core.errors import MalformedJsonError, RequestError
from neural_condense_core.wire.gateway import ID_PATTERN

MAX_MESSAGES = 4_096
MAX_PARTS = 512
MAX_STOPS = 16
MAX_CONTEXTS = 64

M = TypeVar("M", bound=BaseModel)


class _Message(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", strict=True, hide_input_in_errors=True, allow_inf_nan=False
    )


class Part(_Message):
    """A part of a message's content: a text, or a stored context by its id."""

    type: Literal["text", "condensed_context"]
    text: str | None = None
    id: str | None = Field(default=None, pattern=ID_PATTERN)

    @model_validator(mode="after")
    def _has_its_field(self) -> Part:
        if self.type == "text" and self.text is None:
            raise ValueError("a part of type text needs the field text")
        if self.type == "condensed_context" and self.id is None:
            raise ValueError("a part of type condensed_context needs the field id")
        return self


class ToolCall(_Message):
    """A call that the assistant made in an earlier turn."""

    id: str = ""
    function: dict[str, Any] = Field(default_factory=dict)


class ChatMessage(_Message):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = Field(default=None)
    tool_calls: list[ToolCall] | None = None

    @model_validator(mode="after")
    def _is_bounded(self) -> ChatMessage:
        if isinstance(self.content, list) and len(self.content) > MAX_PARTS:
            raise ValueError(f"a message has at most {MAX_PARTS} parts")
        return self


class CondenseOptions(_Message):
    """What a request says about condensing; what is left out is the gateway's default."""

    mode: Literal["auto", "always", "never"] | None = None
    ratio: float | None = Field(default=None, ge=1)
    threshold: int | None = Field(default=None, ge=1, description="parts below it stay text")
    keep_tokens: int | None = Field(
        default=None, ge=0, description="so many of the newest tokens stay text"
    )
    budget: int | None = Field(default=None, ge=64, description="most rows of the prompt")
    floor: float | None = Field(default=None, ge=0, le=1, description="least content recovery")
    contexts: list[str] = Field(
        default_factory=list,
        max_length=MAX_CONTEXTS,
        description="ids of stored contexts, to stand before the last user message",
    )


class StreamOptions(_Message):
    """What a stream ends with."""

    include_usage: bool | None = None


class _Generation(_Message):
    model: str = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    condense: CondenseOptions = CondenseOptions()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @model_validator(mode="after")
    def _is_served(self) -> _Generation:
        if self.n not in {None, 1}:
            raise ValueError("n: only one choice a request is served")
        if self.presence_penalty or self.frequency_penalty or self.logit_bias:
            raise ValueError("penalties and logit_bias are not served")
        if len(self.stops) > MAX_STOPS or not all(self.stops):
            raise ValueError(f"stop: at most {MAX_STOPS} texts, none of them empty")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def longest(self) -> int | None:
        """The most tokens of an answer; None = not said."""
        return self.max_tokens


class ChatRequest(_Generation):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None

    @model_validator(mode="after")
    def _is_plain(self) -> ChatRequest:
        if self.tools or self.functions:
            raise ValueError("tools: calling tools is not served; describe them in a message")
        if self.response_format is not None and self.response_format.get("type") != "text":
            raise ValueError("response_format: only text is served")
        if self.logprobs:
            raise ValueError("logprobs are not served")
        if self.modalities not in (None, ["text"]):
            raise ValueError("modalities: only text is served")
        return self

    @property
    def longest(self) -> int | None:
        """The most tokens of an answer; None = not said."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Generation):
    """Body of ``POST /v1/completions``."""

    prompt: str | list[str]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | None = None

    @model_validator(mode="after")
    def _is_plain(self) -> CompletionRequest:
        if isinstance(self.prompt, list) and len(self.prompt) != 1:
            raise ValueError("prompt: one text a request is served")
        if not self.text:
            raise ValueError("prompt: must not be empty")
        if self.echo or self.suffix or self.logprobs or self.best_of not in {None, 1}:
            raise ValueError("echo, suffix, logprobs and best_of are not served")
        return self

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


def parse(kind: type[M], body: bytes) -> M:
    """Read the JSON body of a request.

    Parameters
    ----------
    kind : what it must be
    body : as it came, its size within the cap

    Raises
    ------
    MalformedJsonError
        It is not JSON in UTF-8.
    RequestError
        A field is missing, of the wrong type or out of range; ``detail["param"]`` names it.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedJsonError("the body is not JSON in UTF-8") from None
    try:
        return kind.model_validate(parsed)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    fault = first["msg"].removeprefix("Value error, ")
    param = ".".join(str(step) for step in first["loc"] if not str(step).startswith("list["))
    where = f"{param}: " if param else ""
    raise RequestError(f"invalid request: {where}{fault}", {"param": param or None})
