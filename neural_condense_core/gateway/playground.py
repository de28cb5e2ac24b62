"""The playground: one page at ``/`` for trying condensed tokens by hand, and what only it asks for.

Where it sits: ``app.py`` adds it to the gateway's routes; the page's chats, condensing and download
go through the routes that everybody uses.

Design decisions

* The page's files need no key, as they hold nothing; every route it asks does, where the gateway
  wants one. The page keeps the key in memory alone.
* Everything of the page comes from here and from ``pages/``, and its Content-Security-Policy allows
  nothing else; what texts and models say is put into it as text, never as markup.
* What a file or a stretch costs is bounded, and so many of each are in hand at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import Field

from neural_condense_core.errors import DeadlineError, OverloadedError
from neural_condense_core.gateway.answering import body_of
from neural_condense_core.gateway.messages import parse
from neural_condense_core.gateway.parts import Parts
from neural_condense_core.gateway.playground_files import MAX_FILE_BYTES, extract
from neural_condense_core.gateway.playground_trace import MAX_TOKENS
from neural_condense_core.gateway.reader_messages import Trace, Traced
from neural_condense_core.pages.assets import CSS, HTML, JS, add_assets
from neural_condense_core.wire.accept import parse_media_type
from neural_condense_core.wire.gateway import ID_PATTERN
from neural_condense_core.wire.incoming import check_content_type, until_gone
from neural_condense_core.wire.messages import MAX_BODY_BYTES, Message

INFO_PATH = "/playground/info"
TEXT_PATH = "/playground/text"
TRACE_PATH = "/playground/trace"

MAX_FILES_IN_HAND = 2
MAX_TRACES_IN_HAND = 4
DEFAULT_TRACE_TOKENS = 256

FOLDER = "neural_condense_core.gateway"
ASSETS = {
    "/": ("index.html", HTML),
    "/playground.css": ("playground.css", CSS),
    "/playground.js": ("playground.js", JS),
    "/playground-asking.js": ("asking.js", JS),
    "/playground-strip.js": ("strip.js", JS),
    "/playground-snippets.js": ("snippets.js", JS),
}

Endpoint = Callable[..., Awaitable[Response]]
Guard = Callable[[str, Endpoint], Endpoint]


class TraceBody(Message):
    """Body of ``POST /playground/trace``."""

    id: str = Field(pattern=ID_PATTERN, description="the stored context")
    text: str = Field(min_length=1, description="the text that it was made of")
    start: int = Field(default=0, ge=0, description="first token of the stretch")
    n_tokens: int = Field(default=DEFAULT_TRACE_TOKENS, ge=1, le=MAX_TOKENS)


class Playground:
    """The routes that the page alone uses.

    Parameters
    ----------
    parts : of the gateway
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._files = _InHand(MAX_FILES_IN_HAND, "files are being read")
        self._traces = _InHand(MAX_TRACES_IN_HAND, "texts are being looked at")

    async def info(self, request: Request) -> Response:
        """Tell what the page can offer."""
        await self._parts.door.admit(request, charges=False)
        settings, opened = self._parts.settings, self._parts.reading.opened
        return _json({
            "model": settings.name,
            "state": self._parts.reading.state,
            "window": opened.max_positions if opened else None,
            "engine": settings.engine.partition("=")[0],
            "condensers": self._parts.condensers(),
            "max_ratio": settings.max_ratio,
            "max_file_bytes": MAX_FILE_BYTES,
        })

    async def text(self, request: Request) -> Response:
        """Return the text of an HTML or PDF file, which is the body."""
        await self._parts.door.admit(request, charges=True)
        media_type = parse_media_type(request.headers.get("content-type", ""))[0]
        with self._files.one():
            body = await body_of(request, MAX_FILE_BYTES)
            found = await until_gone(request, extract(body, media_type))
        return _json({"text": found.text, "n_pages": found.n_pages, "is_cut": found.is_cut})

    async def trace(self, request: Request) -> Response:
        """Tell what every token of a stretch costs behind the condensed tokens and behind none.

        Raises
        ------
        DeadlineError
            The model was busy for too long.
        """
        owner = await self._parts.door.admit(request, charges=True)
        check_content_type(request)
        with self._traces.one():
            asked = parse(TraceBody, await body_of(request, MAX_BODY_BYTES))
            stored = await asyncio.to_thread(self._parts.contexts.store.get, owner, asked.id)
            wanted = Trace(asked.text, stored.tokens, asked.start, asked.n_tokens)
            try:
                async with asyncio.timeout(self._parts.settings.timeout_s):
                    found = await until_gone(request, self._parts.reading.trace(wanted))
            except TimeoutError:
                raise DeadlineError("the model was busy for too long; retry later") from None
        return _json(_told(found))


def add_playground(app: FastAPI, parts: Parts, guard: Guard) -> None:
    """Add the page and its routes.

    Parameters
    ----------
    app : the gateway's application
    parts : of the gateway
    guard : (path, endpoint) -> endpoint whose errors are replies
    """
    playground = Playground(parts)
    for method, path, endpoint, summary in (
        ("GET", INFO_PATH, playground.info, "What the playground can offer"),
        ("POST", TEXT_PATH, playground.text, "Text of an HTML or PDF file"),
        ("POST", TRACE_PATH, playground.trace, "What condensed tokens kept, token by token"),
    ):
        app.add_api_route(
            path, guard(path, endpoint), methods=[method], summary=summary, response_class=Response
        )
    add_assets(app, FOLDER, ASSETS)


class _InHand:
    def __init__(self, most: int, what: str) -> None:
        self._left = most
        self._what = what

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        if not self._left:
            raise OverloadedError(f"too many {self._what} at once; retry later")
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1


def _told(found: Traced) -> dict[str, Any]:
    return {
        "n_tokens": found.n_tokens,
        "start": found.start,
        "pieces": [
            {
                "text": each.text,
                "n_tokens": each.n_tokens,
                "condensed": round(each.condensed, 4),
                "none": round(each.none, 4),
            }
            for each in found.pieces
        ],
    }


def _json(body: dict[str, Any]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(body), headers=headers, media_type="application/json")
