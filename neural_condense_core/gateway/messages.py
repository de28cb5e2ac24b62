"""Requests in OpenAI's shape, as far as they are served.

Where it sits: ``app.py`` parses bodies with these; ``dialogue.py`` turns them into turns.

Design decisions

* Fields that would change the answer and are not served are refused by name, those of OpenAI and
  the usual ones of other servers; fields that nobody knows are ignored, as clients send them.
* A fault names the field and the rule and never the value: prompts are private.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

import orjson
from pydantic import BaseModel, Field, ValidationError, model_validator

from neural_condense_core.errors import MalformedJsonError, RequestError
from neural_condense_core.wire.gateway import ID_PATTERN
from neural_condense_core.wire.messages import Message

MAX_MESSAGES = 4_096
MAX_PARTS = 512
MAX_STOPS = 16
MAX_CONTEXTS = 64

NotServed = Mapping[str, tuple[Any, ...]]
"""Field -> the values with which it changes nothing, besides null."""
_OF_ALL: NotServed = MappingProxyType({
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "best_of": (1,),
    "use_beam_search": (False,),
    "echo": (False,),
    "prompt_logprobs": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
})
_OF_CHATS: NotServed = MappingProxyType({
    **_OF_ALL,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
})
_OF_COMPLETIONS: NotServed = MappingProxyType({**_OF_ALL, "suffix": ("",), "logprobs": ()})
_HINTS: Mapping[str, str] = MappingProxyType({
    "n": "only one choice a request is served",
    "tools": "calling tools is not served; describe them in a message",
    "response_format": "only text is served",
    "modalities": "only text is served",
})
_FIELD_FIRST = re.compile(r"([a-z_]+): ")

M = TypeVar("M", bound=BaseModel)


class Part(Message):
    """A part of a message's content: a text, or a stored context by its id."""

    type: Literal["text", "condensed_context"]
    text: str | None = Field(default=None, description="of a part of type text")
    id: str | None = Field(default=None, description="of a part of type condensed_context")

    @model_validator(mode="after")
    def _has_its_field(self) -> Part:
        if self.type == "text" and self.text is None:
            raise ValueError("a part of type text needs the field text")
        if self.type == "condensed_context" and self.id is None:
            raise ValueError("a part of type condensed_context needs the field id")
        is_reference = self.type == "condensed_context"
        if is_reference and not re.fullmatch(ID_PATTERN, self.id or ""):
            raise ValueError(f"the id of a stored context looks like {ID_PATTERN}")
        return self


class ToolCall(Message):
    """A call that the assistant made in an earlier turn."""

    id: str = ""
    function: dict[str, Any]


class ChatMessage(Message):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = Field(default=None)
    refusal: str | None = Field(default=None, description="what an assistant said instead")
    tool_calls: list[ToolCall] | None = None
    function_call: dict[str, Any] | None = Field(default=None, description="the older tool call")
    audio: None = None

    @model_validator(mode="after")
    def _is_bounded(self) -> ChatMessage:
        if isinstance(self.content, list) and len(self.content) > MAX_PARTS:
            raise ValueError(f"a message has at most {MAX_PARTS} parts")
        return self


class CondenseOptions(Message):
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


class StreamOptions(Message):
    """What a stream ends with."""

    include_usage: bool | None = None


class _Generation(Message):
    not_served: ClassVar[NotServed] = _OF_ALL

    model: str = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    condense: CondenseOptions = CondenseOptions()

    @model_validator(mode="before")
    @classmethod
    def _is_served(cls, said: Any) -> Any:
        for name, harmless in cls.not_served.items() if isinstance(said, dict) else ():
            value = said.get(name)
            if value is not None and value not in harmless:
                raise ValueError(f"{name}: {_HINTS.get(name, 'is not served; leave it out')}")
        return said

    @model_validator(mode="after")
    def _is_consistent(self) -> _Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only where stream is true")
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

    not_served: ClassVar[NotServed] = _OF_CHATS

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def longest(self) -> int | None:
        """The most tokens of an answer; None = not said."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Generation):
    """Body of ``POST /v1/completions``."""

    not_served: ClassVar[NotServed] = _OF_COMPLETIONS

    prompt: str | list[str]

    @model_validator(mode="after")
    def _is_plain(self) -> CompletionRequest:
        if isinstance(self.prompt, list) and len(self.prompt) != 1:
            raise ValueError("prompt: one text a request is served")
        if not self.text:
            raise ValueError("prompt: must not be empty")
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
        faults = error.errors(include_url=False, include_context=False, include_input=False)
    # Of a field of several types every type has its fault: the deepest is that of the one meant.
    worst = max(faults, key=lambda each: len(each["loc"]))
    fault = worst["msg"].removeprefix("Value error, ")
    steps = [str(step) for step in worst["loc"]]
    param = ".".join(step for step in steps if step != "str" and not step.startswith("list["))
    where = f"{param}: " if param else ""
    if not param and (named := _FIELD_FIRST.match(fault)):
        param = named[1]
    raise RequestError(f"invalid request: {where}{fault}", {"param": param or None})
