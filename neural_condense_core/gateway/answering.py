"""``/v1/chat/completions`` and ``/v1/completions``: answers, whole or streamed.

Design decisions

* A stream begins once there is a first piece: until then an error still has its own status. After
  that an error is an event, as OpenAI's clients expect it.
* One deadline from arrival to the last piece; a client that hangs up ends the work at once, and one
  that stops reading has ``READ_OUT_S`` beyond it and is then cut off.
* What was condensed and why is in the reply, and in the log only as numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    RequestError,
    UnknownModelError,
    type_and_frames,
)
from neural_condense_core.gateway.dialogue import Dialogue, from_chat, from_completion
from neural_condense_core.gateway.messages import ChatRequest, CompletionRequest, parse
from neural_condense_core.gateway.parts import Parts
from neural_condense_core.gateway.preparing import Prepared
from neural_condense_core.gateway.reader_messages import Begun, Read
from neural_condense_core.gateway.replies import (
    DONE,
    Shape,
    Usage,
    error_body,
    event,
    status_of,
)
from neural_condense_core.llm.base import Piece, Sampling
from neural_condense_core.wire.incoming import (
    UnforeseenError,
    check_content_type,
    read_body,
    until_gone,
)

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16_000_000
MAX_IN_HAND = 64
"""With the cap on bodies, a bound on the memory that requests can take."""
BODY_TIMEOUT_S = 60.0
READ_OUT_S = 10.0
"""Seconds beyond the deadline in which a client may read what an answer was."""
DEFAULT_TEMPERATURE = 1.0
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Asked = ChatRequest | CompletionRequest


@dataclass(eq=False)
class _Answer:
    """An answer in the making.

    Parameters
    ----------
    replies : the reader's
    shape : writes it
    arrived_s, deadline_s : on the event loop's clock
    n_prompt, n_cached, n_completion : rows read, those read before, and tokens made so far
    finish : why it ended
    """

    replies: AsyncGenerator[Begun | Piece]
    shape: Shape
    arrived_s: float
    deadline_s: float
    n_prompt: int = 0
    n_cached: int = 0
    n_completion: int = 0
    finish: str = "stop"
    ready: list[Piece] = field(default_factory=list)

    async def begin(self) -> None:
        """Wait for the first piece."""
        while not self.ready:
            piece = await self._next()
            if piece is None:
                return
            self.ready.append(piece)

    async def pieces(self) -> AsyncIterator[Piece]:
        while self.ready:
            yield self.ready.pop(0)
        while (piece := await self._next()) is not None:
            yield piece

    async def _next(self) -> Piece | None:
        async with asyncio.timeout_at(self.deadline_s):
            async for said in self.replies:
                if isinstance(said, Begun):
                    self.n_prompt = said.n_prompt_tokens
                    self.n_cached = said.n_cached_tokens
                    continue
                self.n_completion += said.n_tokens
                self.finish = said.finish or self.finish
                return said
        return None

    def usage(self) -> Usage:
        saved = self.shape.report.tokens_saved
        return Usage(self.n_prompt, self.n_completion, saved, self.n_cached)


class _Stream(StreamingResponse):
    """A stream that always ends what it began, also where nobody came to read it."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        headers: dict[str, str],
        ends_s: float,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._ends_s = ends_s
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            async with asyncio.timeout_at(self._ends_s):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.info("a stream was cut off: its client does not read")
        finally:
            self._on_end()


class Answering:
    """The routes that answer.

    Parameters
    ----------
    parts : of the gateway
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._n_in_hand = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        return await self._answer(request, ChatRequest)

    async def complete(self, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, CompletionRequest)

    async def _answer(self, request: Request, kind: type[Asked]) -> Response:
        arrived_s = asyncio.get_running_loop().time()
        owner = await self._parts.door.admit(request, charges=True)
        check_content_type(request)
        if self._n_in_hand >= MAX_IN_HAND:
            raise OverloadedError("too many requests are in hand; retry later")
        self._take()
        is_handed_on = False
        try:
            asked = parse(kind, await body_of(request, MAX_BODY_BYTES))
            answer = await until_gone(request, self._begun(asked, owner, arrived_s))
            if asked.stream:
                is_handed_on = True
                return self._stream(answer, asked)
            return await until_gone(request, self._whole(answer))
        except TimeoutError:
            raise self._too_late() from None
        finally:
            if not is_handed_on:
                self._release()

    async def _begun(self, asked: Asked, owner: str, arrived_s: float) -> _Answer:
        settings = self._parts.settings
        if asked.model not in {settings.name, settings.target}:
            raise UnknownModelError(
                f"this gateway serves {settings.name!r} and no other model", {"param": "model"}
            )
        deadline_s = arrived_s + settings.timeout_s
        sampling = _sampling(asked)
        async with asyncio.timeout_at(deadline_s):
            prepared = await self._parts.preparer.prepare(
                _dialogue(asked), asked.condense, asked.longest, owner
            )
        shape = Shape(isinstance(asked, ChatRequest), settings.name, prepared.report)
        replies = self._parts.reading.read(self._read(prepared, sampling, owner))
        answer = _Answer(replies, shape, arrived_s, deadline_s)
        try:
            await answer.begin()
        except BaseException:
            self._end(answer)
            raise
        self._parts.metrics.first_token(asyncio.get_running_loop().time() - arrived_s)
        return answer

    def _read(self, prepared: Prepared, sampling: Sampling, owner: str) -> Read:
        default = self._parts.settings.max_new_tokens
        return Read(prepared.lines, prepared.max_new_tokens, default, sampling, owner)

    async def _whole(self, answer: _Answer) -> Response:
        try:
            text = "".join([piece.text async for piece in answer.pieces()])
        finally:
            self._end(answer)
        usage = answer.usage()
        self._count(answer)
        body = answer.shape.whole(text, answer.finish, usage)
        return Response(body, headers=answer.shape.headers(), media_type="application/json")

    def _stream(self, answer: _Answer, asked: Asked) -> Response:
        def on_end() -> None:
            self._end(answer)
            self._release()

        events = self._events(answer, with_usage=asked.wants_usage)
        headers = {**answer.shape.headers(), **_STREAM_HEADERS}
        return _Stream(events, headers, answer.deadline_s + READ_OUT_S, on_end)

    async def _events(self, answer: _Answer, *, with_usage: bool) -> AsyncIterator[bytes]:
        shape = answer.shape
        try:
            yield shape.first()
            async for piece in answer.pieces():
                if piece.text:
                    yield shape.piece(piece.text)
            yield shape.last(answer.finish)
            if with_usage:
                yield shape.usage(answer.usage())
            yield DONE
            self._count(answer)
        except TimeoutError:
            yield _broken(self._too_late())
        except NeuralCondenseError as error:
            yield _broken(error)
        except Exception as error:  # noqa: BLE001 - left to itself, its message would be logged
            log.error("a stream broke off: %s", type_and_frames(error))
            yield event(error_body(UnforeseenError()))

    def _count(self, answer: _Answer) -> None:
        usage, report = answer.usage(), answer.shape.report
        self._parts.metrics.answered(usage, report)
        self._parts.metrics.restarts.set(self._parts.reading.n_restarts)
        log.info(
            "answered: %d prompt tokens (%d saved), %d new, %.2f s",
            usage.n_prompt,
            usage.n_saved,
            usage.n_completion,
            asyncio.get_running_loop().time() - answer.arrived_s,
        )

    def _end(self, answer: _Answer) -> None:
        # A task of its own: this runs while the request's own may be cancelled.
        task = asyncio.create_task(_closed(answer.replies))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _take(self) -> None:
        self._n_in_hand += 1
        self._parts.metrics.in_hand.set(self._n_in_hand)

    def _release(self) -> None:
        self._n_in_hand -= 1
        self._parts.metrics.in_hand.set(self._n_in_hand)

    def _too_late(self) -> DeadlineError:
        limit = self._parts.settings.timeout_s
        return DeadlineError(
            f"no whole answer within {limit:g} s; ask for fewer tokens, or raise --timeout"
        )


async def body_of(request: Request, max_bytes: int) -> bytes:
    """Read a body within its cap and its time.

    Raises
    ------
    DeadlineError
        It did not arrive in time.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await read_body(request, max_bytes)
    except TimeoutError:
        raise DeadlineError("the body did not arrive in time; send it faster") from None


def _broken(error: NeuralCondenseError) -> bytes:
    log.info("a stream broke off: %d %s", status_of(error), error.code)
    return event(error_body(error))


async def _closed(replies: AsyncGenerator[Begun | Piece]) -> None:
    with contextlib.suppress(RuntimeError):  # it is running: its own end follows
        await replies.aclose()


def _dialogue(asked: Asked) -> Dialogue:
    return from_chat(asked) if isinstance(asked, ChatRequest) else from_completion(asked)


def _sampling(asked: Asked) -> Sampling:
    temperature = DEFAULT_TEMPERATURE if asked.temperature is None else asked.temperature
    top_p = 1.0 if asked.top_p is None else asked.top_p
    try:
        return Sampling(temperature, top_p, asked.seed, asked.stops)
    except ValueError as error:
        raise RequestError(f"invalid request: {error}") from None
