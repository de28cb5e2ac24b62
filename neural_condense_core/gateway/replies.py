"""Replies and errors in OpenAI's shape: pure.

Design decisions

* What is not OpenAI's stands in one object, ``condense``, which its clients keep as an extra field;
  headers say the sum of it for those that read no body.
* Errors carry OpenAI's ``type`` and our ``code``, so that its client raises the class that users
  catch, and ours the class of its own tree.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from neural_condense_core.errors import (
    ContextTooLongError,
    ContextWindowError,
    NeuralCondenseError,
)
from neural_condense_core.gateway.preparing import Report
from neural_condense_core.wire.incoming import error_headers

SAVED_HEADER = "X-Condense-Tokens-Saved"
CONDENSED_HEADER = "X-Condense-Parts-Condensed"
AS_TEXT_HEADER = "X-Condense-Parts-As-Text"
DONE = b"data: [DONE]\n\n"

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_AS_400 = (406, 415, 422)


@dataclass(frozen=True)
class Usage:
    """What a request took.

    Parameters
    ----------
    n_prompt : rows that the model read
    n_completion : tokens that it made
    n_saved : tokens of text less the condensed tokens that stood for them
    n_cached : rows of the prompt that were read before
    """

    n_prompt: int
    n_completion: int
    n_saved: int
    n_cached: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return OpenAI's usage object; ``condense_tokens_saved`` is ours."""
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_completion,
            "total_tokens": self.n_prompt + self.n_completion,
            "prompt_tokens_details": {"cached_tokens": self.n_cached, "audio_tokens": 0},
            "condense_tokens_saved": self.n_saved,
        }


@dataclass(frozen=True)
class Shape:
    """Writes the replies of one request.

    Parameters
    ----------
    is_chat : chat completion, else plain completion
    model : as clients call it
    report : what was condensed
    id, created : of the reply
    """

    is_chat: bool
    model: str
    report: Report
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finish: str, usage: Usage) -> bytes:
        """Return the one body of a reply that is not streamed."""
        if self.is_chat:
            message = {"role": "assistant", "content": text, "refusal": None}
            choice: dict[str, Any] = {"index": 0, "message": message}
        else:
            choice = {"index": 0, "text": text}
        choice |= {"logprobs": None, "finish_reason": finish}
        name = "chat.completion" if self.is_chat else "text_completion"
        body = self._frame(name) | {"choices": [choice], "usage": usage.as_json()}
        return orjson.dumps(body | {"condense": self.condense()})

    def first(self) -> bytes:
        """Return the event that opens a stream, with what was condensed."""
        return self._event(self._delta("", is_first=True), None, {"condense": self.condense()})

    def piece(self, text: str) -> bytes:
        """Return the event of some text."""
        return self._event(self._delta(text), None)

    def last(self, finish: str) -> bytes:
        """Return the event that ends the text."""
        return self._event({} if self.is_chat else {"text": ""}, finish)

    def usage(self, usage: Usage) -> bytes:
        """Return the event with the usage, which has no choice."""
        body = self._frame(self._chunk_name) | {"choices": [], "usage": usage.as_json()}
        return event(body | {"condense": self.condense()})

    def condense(self) -> dict[str, Any]:
        """Return what was condensed."""
        return {
            "mode": self.report.mode,
            "tokens_saved": self.report.tokens_saved,
            "parts": [asdict(part) for part in self.report.parts],
        }

    def headers(self) -> dict[str, str]:
        """Return the sum of it as headers."""
        sent = [part.sent_as for part in self.report.parts]
        return {
            SAVED_HEADER: str(self.report.tokens_saved),
            CONDENSED_HEADER: str(sent.count("condensed")),
            AS_TEXT_HEADER: str(sent.count("text")),
        }

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _frame(self, name: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": name,
            "created": self.created,
            "model": self.model,
        }

    def _delta(self, text: str, *, is_first: bool = False) -> dict[str, Any]:
        if not self.is_chat:
            return {"text": text}
        role = {"role": "assistant"} if is_first else {}
        return {"delta": {**role, "content": text}}

    def _event(
        self, said: dict[str, Any], finish: str | None, more: dict[str, Any] | None = None
    ) -> bytes:
        if self.is_chat and "delta" not in said:
            said = {"delta": said}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return event(self._frame(self._chunk_name) | {"choices": [choice], **(more or {})})


def event(body: Mapping[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


def status_of(error: NeuralCondenseError) -> int:
    """Return the HTTP status of an error, as OpenAI's clients know them."""
    if isinstance(error, (ContextTooLongError, ContextWindowError)) or error.status in _AS_400:
        return 400
    return error.status


def error_body(error: NeuralCondenseError) -> dict[str, Any]:
    """Return the body of an error; nothing of a prompt is in it."""
    detail = {key: value for key, value in error.detail.items() if key != "param"}
    code = error.code
    if isinstance(error, ContextTooLongError):
        code = ContextWindowError.code
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status_of(error), "server_error"),
            "param": error.detail.get("param"),
            "code": code,
            "detail": detail,
        }
    }


def error_response(error: NeuralCondenseError) -> Response:
    """Return the response of an error, with ``Retry-After`` where it may pass."""
    headers = error_headers(error)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(error_body(error)), status_of(error), headers, "application/json")
