"""Replies of the gateway as models, for its description of itself.

Where it sits: ``openapi.py`` describes the routes with these; ``replies.py`` writes the bodies. A
test holds each body that is written against its model.

Design decisions

* Bodies are not made of these models: a stream writes one for every token.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Finish = Literal["stop", "length"]


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartBody(_Reply):
    """What became of one part of a request."""

    part: int | None = Field(description="its place among the texts; null = named by its id")
    id: str
    sent_as: Literal["condensed", "text"]
    reason: Literal["policy", "reference", "below_floor", "below_floor_no_room"]
    n_context_tokens: int
    n_condensed_tokens: int
    ratio: float
    recovery: float | None = Field(description="estimated content recovery; null = not known")
    from_store: bool


class CondenseReport(_Reply):
    """What was condensed of a request."""

    mode: Literal["auto", "always", "never"]
    tokens_saved: int
    parts: list[PartBody]


class PromptDetails(_Reply):
    """OpenAI's details of a prompt."""

    cached_tokens: int = Field(description="rows that the model had read for an earlier request")
    audio_tokens: int = Field(description="always 0 here")


class UsageBody(_Reply):
    """What a request took."""

    prompt_tokens: int = Field(description="rows that the model read")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    condense_tokens_saved: int = Field(description="what text would have taken more")


class AssistantMessage(_Reply):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(_Reply):
    """The one choice of a chat."""

    index: Literal[0]
    message: AssistantMessage
    logprobs: None = None
    finish_reason: Finish


class ChatCompletion(_Reply):
    """Reply to ``POST /v1/chat/completions`` that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    condense: CondenseReport


class Delta(_Reply):
    """What an event adds to the answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(_Reply):
    """The one choice in an event of a chat."""

    index: Literal[0]
    delta: Delta
    logprobs: None = None
    finish_reason: Finish | None


class ChatCompletionChunk(_Reply):
    """An event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice] = Field(description="none in the event of the usage")
    usage: UsageBody | None = Field(default=None, description="in the last event, if asked for")
    condense: CondenseReport | None = Field(
        default=None, description="in the first event, and in that of the usage"
    )


class TextChoice(_Reply):
    """The one choice of a completion."""

    index: Literal[0]
    text: str
    logprobs: None = None
    finish_reason: Finish | None = Field(description="null while more follows")


class Completion(_Reply):
    """Reply to ``POST /v1/completions``, and an event of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody | None = None
    condense: CondenseReport | None = None


class OfferedCondenser(_Reply):
    """A condenser that is served."""

    name: str
    ratios: list[float] | None = Field(description="null = any from 1 on")
    default_ratio: float
    is_ready: bool


class ModelCondense(_Reply):
    """How texts for a model are condensed."""

    condenser: str
    ratios: list[float] | None
    default_ratio: float
    recovery_calibrated_for: str = Field(description="model that the estimate was fitted for")
    condensers: list[OfferedCondenser]


class ModelBody(_Reply):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None = Field(description="its window, rows; null until it is loaded")
    condense: ModelCondense


class ModelListBody(_Reply):
    """Body of ``GET /v1/models``."""

    object: Literal["list"]
    data: list[ModelBody]


class FileText(_Reply):
    """Text of a file."""

    text: str
    n_pages: int | None
    is_cut: bool = Field(description="whether there was more than is taken")


class PlaygroundInfo(_Reply):
    """What the playground can offer."""

    model: str
    state: str
    window: int | None
    engine: str
    condensers: list[OfferedCondenser]
    max_ratio: float
    max_file_bytes: int


class TracedBody(_Reply):
    """A stretch of a text, scored."""

    n_tokens: int
    start: int
    pieces: list[dict[str, Any]] = Field(
        description="text, n_tokens, and the loss in nats behind the condensed tokens and none"
    )
