"""``Reading``: the reader process as the gateway sees it.

Where it sits: the gateway measures, estimates and reads through it; ``reader.py`` runs on the other
side.

Design decisions

* One thread receives and hands over to the event loop; nothing in the loop waits for the pipe.
* So many prompts are read at once and so many wait; above that 429 at once.
* A request that was begun and of which nothing is heard for ``silence_s`` has a reader that hangs,
  whether or not somebody still waits for it: the process is killed. Whoever was in hand is told to
  retry, and a new process is started after a pause that doubles; one that cannot load
  ``MAX_LOAD_FAILURES`` times in a row is given up, unless what it waits for is an engine's server
  that may still come.
* An answer's pieces are bounded by its longest length, so the place where they wait is too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import multiprocessing
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Literal, TypeVar

from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    RetryableError,
    TargetModelError,
    UnavailableError,
)
from neural_condense_core.gateway import reader
from neural_condense_core.gateway.reader_messages import (
    Asked,
    Begun,
    Broken,
    Cancel,
    Ended,
    Estimate,
    Estimated,
    Failed,
    Measure,
    Measured,
    Opened,
    Read,
    ReaderSpec,
    Reply,
    Said,
    Trace,
    Traced,
)
from neural_condense_core.llm.base import Piece

log = logging.getLogger(__name__)

MAX_LOAD_FAILURES = 4
PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
MAX_DOUBLINGS = 10
SILENCE_S = 180.0
LOAD_SILENCE_S = 1_800.0

T = TypeVar("T")
State = Literal["loading", "ready", "failed", "draining"]


class Reading:
    """The reader process.

    Parameters
    ----------
    spec : what it loads
    max_waiting : prompts that may wait beyond those that are read
    silence_s : after which a reader that works is held to hang, seconds
    on_failed : called when the model cannot be loaded
    """

    def __init__(
        self,
        spec: ReaderSpec,
        *,
        max_waiting: int,
        silence_s: float = SILENCE_S,
        on_failed: Callable[[NeuralCondenseError], None] = lambda error: None,
    ) -> None:
        self.spec = spec
        self.state: State = "loading"
        self.opened: Opened | None = None
        self.failure: NeuralCondenseError | None = None
        self.n_restarts = 0
        self._max_open = spec.max_parallel + max_waiting
        self._silence_s = silence_s
        self._on_failed = on_failed
        self._numbers = itertools.count(reader.OWN + 1)
        self._open: dict[int, asyncio.Queue[Said]] = {}
        self._heard_s: dict[int, float] = {}
        self._n_reads = 0
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._listener: threading.Thread | None = None
        self._sending = threading.Lock()
        self._ended = asyncio.Event()
        self._first: asyncio.Future[Opened] | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process, None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; returns at once."""
        self._supervisor = asyncio.create_task(self._supervise(), name="reader")

    async def close(self) -> None:
        """End the process; whoever still waits is told to retry."""
        self.state = "draining"
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._fail_all("the gateway shuts down; retry later")
        await asyncio.to_thread(self._end_process)

    def served(self) -> Opened:
        """Return the model that is served.

        Raises
        ------
        UnavailableError
            It is loading, or was given up.
        """
        if self.state != "ready" or self.opened is None:
            raise UnavailableError(
                f"the model is {self.state}; see /health/ready", {"state": self.state}
            )
        return self.opened

    async def measure(self, asked: Measure) -> Measured:
        """Count tokens; what goes wrong in the reader is raised as its error."""
        return _expect(Measured, await self._single(asked))

    async def estimate(self, asked: Estimate) -> float | None:
        """Return the raw gain of condensed tokens; None where the engine cannot tell."""
        return _expect(Estimated, await self._single(asked)).gain

    async def trace(self, asked: Trace) -> Traced:
        """Score a stretch of a text token by token."""
        return _expect(Traced, await self._single(asked))

    async def read(self, asked: Read) -> AsyncGenerator[Begun | Piece]:
        """Answer a prompt: ``Begun`` first, then its pieces; closing it ends the work.

        Raises
        ------
        OverloadedError
            Too many prompts wait already.
        """
        if self._n_reads >= self._max_open:
            raise OverloadedError(
                f"{self._n_reads} prompts are being read or wait; retry later", retry_after_s=5.0
            )
        self._n_reads += 1
        try:
            async with contextlib.aclosing(self._conversation(asked)) as replies:
                async for said in replies:
                    yield said if isinstance(said, Begun) else _expect(Piece, said)
        finally:
            self._n_reads -= 1

    async def _single(self, asked: Asked) -> Said:
        async with contextlib.aclosing(self._conversation(asked)) as replies:
            async for said in replies:
                if not isinstance(said, Begun):
                    return said
        return Failed(NeuralCondenseError("the reader gave no answer"))

    async def _conversation(self, asked: Asked) -> AsyncGenerator[Said]:
        self.served()
        number = next(self._numbers)
        replies: asyncio.Queue[Said] = asyncio.Queue()
        self._open[number] = replies
        is_over = False
        try:
            await self._send(number, asked)
            while not is_over:
                said = await replies.get()
                is_over = not isinstance(said, (Begun, Piece)) or (
                    isinstance(said, Piece) and said.finish is not None
                )
                yield said
        finally:
            self._open.pop(number, None)
            if not is_over:
                with contextlib.suppress(NeuralCondenseError):
                    # Shielded: this may run while the request is being cancelled.
                    await asyncio.shield(self._send(number, Cancel()))

    async def _send(self, number: int, asked: Asked) -> None:
        pipe = self._pipe
        if pipe is None:
            raise UnavailableError("the reader is starting again; retry later")
        try:
            await asyncio.to_thread(self._send_now, pipe, number, asked)
        except (OSError, TypeError):  # the latter: it was closed just now
            raise UnavailableError("the reader was lost; retry later") from None

    def _send_now(self, pipe: Connection, number: int, asked: Asked) -> None:
        with self._sending:
            pipe.send((number, asked))

    async def _supervise(self) -> None:
        failures = 0
        while True:
            begun_s = time.monotonic()
            try:
                self.opened = await self._load()
            except NeuralCondenseError as error:
                failures += 1
                log.error("the reader did not start: %s", error.message)
                self.failure = error
                is_lasting = isinstance(error, (ConfigError, TargetModelError))
                may_pass = isinstance(error, (BackendError, DeadlineError, RetryableError))
                if is_lasting or (failures >= MAX_LOAD_FAILURES and not may_pass):
                    self.state = "failed"
                    self._on_failed(error)
                    return
            else:
                log.info("%s is ready after %.1f s", self.opened.name, time.monotonic() - begun_s)
                failures, self.failure, self.state = 0, None, "ready"
                await self._watch()
                self.state = "loading"
                self.n_restarts += 1
                log.error("the reader is gone; starting it again")
                self._fail_all("the reader was lost at this request and starts again; retry later")
            await asyncio.to_thread(self._end_process)
            await asyncio.sleep(min(MAX_PAUSE_S, PAUSE_S * 2.0 ** min(failures, MAX_DOUBLINGS)))

    async def _watch(self) -> None:
        """Return when the process has ended; end it if it hangs."""
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence_s / 4):
                    await self._ended.wait()
            oldest_s = min(self._heard_s.values(), default=math.inf)
            if oldest_s + self._silence_s < time.monotonic() and self._process is not None:
                log.error("nothing heard for %.0f s; killing the reader", self._silence_s)
                self._process.kill()

    async def _load(self) -> Opened:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._first = loop.create_future()
        process = context.Process(
            target=reader.main, args=(self.spec, theirs), name="reader", daemon=True
        )
        with _held_signals():
            process.start()
        # The child has its own copy; without ours, the pipe ends with the child.
        theirs.close()
        self._process, self._pipe = process, ours
        self._listener = threading.Thread(target=self._listen, args=(ours, loop), daemon=True)
        self._listener.start()
        try:
            async with asyncio.timeout(LOAD_SILENCE_S):
                return await self._first
        except TimeoutError:
            raise NeuralCondenseError(f"silent for {LOAD_SILENCE_S:g} s while loading") from None

    def _listen(self, pipe: Connection, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            try:
                while True:
                    loop.call_soon_threadsafe(self._on_reply, pipe.recv())
            except (EOFError, OSError):
                loop.call_soon_threadsafe(self._on_end, pipe)
            finally:
                pipe.close()

    def _on_reply(self, reply: Reply) -> None:
        number, said = reply
        if number != reader.OWN:
            if isinstance(said, Ended):
                self._heard_s.pop(number, None)
                return
            self._heard_s[number] = time.monotonic()
            replies = self._open.get(number)
            if replies is not None:
                replies.put_nowait(said)
        elif self._first is not None and not self._first.done():
            if isinstance(said, Opened):
                self._first.set_result(said)
            elif isinstance(said, Broken):
                self._first.set_exception(said.error)

    def _on_end(self, pipe: Connection) -> None:
        if pipe is not self._pipe:
            return
        self._pipe = None
        self._ended.set()
        if self._first is not None and not self._first.done():
            self._first.set_exception(NeuralCondenseError("its process died while it loaded"))

    def _fail_all(self, message: str) -> None:
        for replies in self._open.values():
            replies.put_nowait(Failed(UnavailableError(message)))
        self._open.clear()
        self._heard_s.clear()

    def _end_process(self) -> None:
        process, self._process = self._process, None
        listener, self._listener = self._listener, None
        if process is not None:
            # It holds nothing that is worth a farewell, and may be deep in a computation.
            process.kill()
            process.join()
            process.close()
        if listener is not None:
            listener.join()  # the pipe has ended with the process


def _expect(kind: type[T], said: Said) -> T:
    if isinstance(said, kind):
        return said
    if isinstance(said, Failed):
        raise said.error
    raise NeuralCondenseError("the reader answered something else than it was asked")


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    # A process inherits what is blocked: until it ignores them, a Ctrl-C must not reach it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
