"""``ModelHost``: the model's process as the front sees it, one round at a time.

Design decisions

* One process and one round at a time: that is what makes scores repeatable, and a CPU or a GPU is
  not faster with two.
* Rounds take turns in order of arrival. A process that dies (killed, out of memory) is started
  again; its round and those that wait are told to retry, which is safe, as the same round always
  has the same scores.
* A round past its deadline is answered so; only the one that runs costs the process its life.
* A round whose validator hung up is dropped if it has not begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Literal

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    UnavailableError,
)
from neural_condense_core.scoring import worker
from neural_condense_core.scoring.worker import Loaded, WorkerSpec

log = logging.getLogger(__name__)

RESTART_WAIT_S = 1.0
MAX_RESTART_WAIT_S = 60.0
CLOSE_TIMEOUT_S = 3.0

State = Literal["loading", "ready", "failed", "draining"]


class ModelHost:
    """Holds the model's process.

    Parameters
    ----------
    spec : what it loads
    max_waiting : rounds that may wait for the one that is scored
    timeout_s : from a round's arrival to its answer
    """

    def __init__(self, spec: WorkerSpec, *, max_waiting: int, timeout_s: float) -> None:
        self.spec = spec
        self.state: State = "loading"
        self.loaded: Loaded | None = None
        self.failure: NeuralCondenseError | None = None
        self.started_s = time.monotonic()
        self.failed = asyncio.Event()
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._n_waiting = 0
        self._pool: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self._died = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._rounds: set[asyncio.Task[bytes]] = set()

    def start(self) -> None:
        """Begin to load."""
        self._supervisor = asyncio.create_task(self._supervise())

    async def score(self, body: bytes) -> bytes:
        """Score a round; errors of the round itself are raised as the process said them.

        Raises
        ------
        OverloadedError
            Too many rounds wait already.
        UnavailableError
            The service is loading or ending.
        """
        if self.state != "ready":
            raise UnavailableError(f"the scoring service is {self.state}; retry later")
        if self._n_waiting > self._max_waiting:
            raise OverloadedError(
                f"{self._n_waiting} rounds are being scored or wait; retry later",
                retry_after_s=5.0,
            )
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        abandoned = asyncio.Event()
        task = asyncio.create_task(self._run(body, deadline_s, abandoned))
        self._n_waiting += 1
        self._rounds.add(task)
        task.add_done_callback(self._forget)
        try:
            # Shielded: a round that runs cannot be stopped, and the next one must wait for its end.
            return await asyncio.shield(task)
        finally:
            abandoned.set()

    async def close(self, patience_s: float) -> None:
        """End the process; rounds in hand have so many seconds."""
        self.state = "draining"
        if self._rounds:
            await asyncio.wait(set(self._rounds), timeout=patience_s)
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        await self._end_process()

    def _forget(self, task: asyncio.Task[bytes]) -> None:
        self._n_waiting -= 1
        self._rounds.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that a round nobody waits for is not reported as lost

    async def _run(self, body: bytes, deadline_s: float, abandoned: asyncio.Event) -> bytes:
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._turn.acquire()
        except TimeoutError:
            raise self._too_late() from None
        try:
            if abandoned.is_set():
                return b""
            return await self._in_process(body, deadline_s)
        finally:
            self._turn.release()

    async def _in_process(self, body: bytes, deadline_s: float) -> bytes:
        if self._pool is None or self.state != "ready":
            raise UnavailableError("the scoring service is starting again; retry later")
        try:
            future = asyncio.wrap_future(self._pool.submit(worker.score, body))
            left_s = deadline_s - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait({future}, timeout=max(0.0, left_s))
            if not done:
                log.error("a round took more than %.0f s; the model's process ends", left_s)
                future.cancel()
                self._kill()
                raise self._too_late()
            found = future.result()
        except (BrokenProcessPool, asyncio.CancelledError):
            raise UnavailableError(
                "the model's process died at this round and starts again; retry later",
                retry_after_s=5.0,
            ) from None
        if isinstance(found, NeuralCondenseError):
            raise found
        return found

    async def _supervise(self) -> None:
        wait_s = RESTART_WAIT_S
        while True:
            self._died.clear()
            found = await self._load()
            if isinstance(found, Loaded):
                log.info("ready after %.1f s", time.monotonic() - self.started_s)
                wait_s = RESTART_WAIT_S
                self.loaded, self.state = found, "ready"
                await self._died.wait()
                log.error("the model's process died; starting it again")
                self.state = "loading"
            elif found is not None:
                self.failure, self.state = found, "failed"
                self.failed.set()
                return
            else:
                log.error("the model's process died while it loaded")
            await self._end_process()
            self.started_s = time.monotonic()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RESTART_WAIT_S)

    async def _load(self) -> Loaded | NeuralCondenseError | None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            1, context, initializer=worker.prepare, initargs=(self.spec.threads,)
        )
        others = set(multiprocessing.active_children())
        try:
            with _held_signals():
                future = self._pool.submit(worker.load, self.spec)
            new = set(multiprocessing.active_children()) - others
            self._process = next(iter(new), None)
            if self._process is not None:
                asyncio.get_running_loop().add_reader(self._process.sentinel, self._on_death)
            return await asyncio.wrap_future(future)
        except BrokenProcessPool:
            return None

    def _on_death(self) -> None:
        self._unwatch()
        self._died.set()

    def _unwatch(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ValueError):  # closed: nothing is watched
                asyncio.get_running_loop().remove_reader(self._process.sentinel)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ValueError):
                self._process.kill()

    async def _end_process(self) -> None:
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        self._unwatch()
        closing = asyncio.create_task(asyncio.to_thread(pool.shutdown, cancel_futures=True))
        await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
        if not closing.done():
            self._kill()
            await asyncio.wait({closing})
        self._process = None

    def _too_late(self) -> DeadlineError:
        return DeadlineError(
            f"the round was not scored within {self._timeout_s:g} s; send fewer replies or allow "
            "more time by --timeout",
            {"timeout_s": self._timeout_s},
        )


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    # A process inherits what is blocked: until the worker ignores them, a Ctrl-C must not reach it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
