"""The messages of a gateway's own routes: condense a text, keep it, use it again by its id.

Where it sits: ``gateway/`` answers with these, ``client/gateway.py`` reads them. The matrix itself
goes through ``wire/codec.py``, in the format that ``Accept`` names.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from neural_condense_core.wire.messages import ContextText, Message

CONDENSE_PATH = "/v1/condense"
CONTEXTS_PATH = "/v1/contexts"
CONTEXT_ID_HEADER = "x-condense-context-id"
ID_PATTERN = r"ctx_[0-9a-f]{32}"


class CondenseBody(Message):
    """Body of ``POST /v1/condense``; ``{"context": "..."}`` alone is valid."""

    context: ContextText
    ratio: float | None = Field(
        default=None, ge=1, description="context tokens per condensed token; absent = the default"
    )
    condenser: str | None = Field(
        default=None, max_length=256, description="one of those served; absent = the default"
    )


class ContextInfo(Message):
    """A stored context, without its matrix."""

    id: str = Field(pattern=ID_PATTERN)
    object: Literal["condensed_context"] = "condensed_context"
    created: int = Field(description="seconds since 1970")
    expires_at: int = Field(description="seconds since 1970")
    target_model: str
    condenser: str
    ratio: float = Field(description="that was asked for")
    n_context_tokens: int = Field(ge=1)
    n_condensed_tokens: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    nbytes: int = Field(ge=1)
    recovery: float | None = Field(
        default=None, description="estimated content recovery, 0 to 1; null = not known"
    )
    from_store: bool | None = Field(
        default=None, description="where it was asked to be condensed: whether it already had been"
    )


class ContextList(Message):
    """Body of ``GET /v1/contexts``: the caller's own, the newest first."""

    object: Literal["list"] = "list"
    data: tuple[ContextInfo, ...]


class GatewayHealth(Message):
    """Body of ``GET /health/ready``: 200 where the state is ready, else 503."""

    state: Literal["loading", "ready", "failed", "draining"]
    model: Literal["loading", "ready", "failed", "draining"]
    condenser: Literal["ready", "loading"]
    also: dict[str, Literal["ready", "loading"]] = Field(
        description="the further condensers by name; all of them must be ready too"
    )
    reason: str | None = Field(
        default=None, description="code of what keeps the model from loading; the log says more"
    )


class GatewayFault(Message):
    """What went wrong, in OpenAI's shape."""

    message: str = Field(description="what happened and what to do, for people")
    type: str = Field(description="OpenAI's name for this kind of error")
    param: str | None = Field(description="the field at fault")
    code: str = Field(description="stable, for programs")
    detail: dict[str, Any] = Field(description="limits, names")


class GatewayErrorBody(Message):
    """Body of every reply with status 400 or above, health apart."""

    error: GatewayFault


class Deleted(Message):
    """Body of ``DELETE /v1/contexts/{id}``."""

    id: str
    object: Literal["condensed_context.deleted"] = "condensed_context.deleted"
    deleted: Literal[True] = True
