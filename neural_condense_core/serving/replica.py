"""``Replica``: one worker process on one device, as the front process sees it.

Where it sits: the engine holds one replica a worker and hands it batches; ``worker.py`` is what
runs on the other side.

Design decisions

* A pool with a single process starts the worker, watches it and ends it. Batches go past it
  (``calls.py``), one at a time: what is with the worker can no longer be given up.
* A pool that breaks stays broken, so every load builds a new one.
* The pipe on which the worker reports its start ends when the process does; an idle worker's
  death is thus known at once, without polling.
* A call that runs cannot be cancelled; past its limit the process is killed.
* Large bodies come in memory that the worker shares (``shared_bodies.py``); they are copied out in
  a thread, before the worker is given its next batch.
* How long loading takes nobody knows, a model may have to be fetched first; but every step of it is
  reported, and a process that reports nothing for ``LOAD_SILENCE_S`` is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.serving import worker
from neural_condense_core.serving.calls import CallSocket
from neural_condense_core.serving.jobs import Job, Loaded, Outcome, Progress, WorkerSpec
from neural_condense_core.serving.shared_bodies import Handover, SharedBlock

log = logging.getLogger(__name__)

LOAD_SILENCE_S = 600.0
"""How long a worker that loads may report nothing before it is killed."""
CLOSE_TIMEOUT_S = 3.0
"""How long an idle worker may take to end before it is killed."""


class WorkerLostError(Exception):
    """The worker's process is gone, or could not start.

    Parameters
    ----------
    reason : why, as far as it is known
    cause : what the worker itself reported, or None
    """

    def __init__(self, reason: str, cause: NeuralCondenseError | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause


class Replica:
    """One worker.

    Parameters
    ----------
    index : its number, for logs
    spec : what it loads
    on_death : called in the event loop when its process ends
    """

    def __init__(self, index: int, spec: WorkerSpec, on_death: Callable[[], None]) -> None:
        self.index = index
        self.spec = spec
        self.progress = Progress(0, "spawn", 0.0)
        self.alive = False
        self._on_death = on_death
        self._pool: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self._reports: Connection | None = None
        self._block: SharedBlock | None = None
        self._calls: CallSocket | None = None
        self._heard_s = 0.0

    async def load(self) -> Loaded:
        """Start a process and wait until it has answered its warm-up.

        Raises
        ------
        WorkerLostError
            It could not load, and the reason is what it reported; or it reported nothing for too
            long, and was killed.
        """
        self.progress = Progress(0, "spawn", 0.0)
        self._heard_s = asyncio.get_running_loop().time()
        try:
            with _held_signals():
                future = self._spawn()
            loaded = await self._until_loaded(asyncio.wrap_future(future))
            await self._open_calls()
        except WorkerLostError:
            raise
        except BrokenProcessPool:
            self._read_reports()
            cause = self.progress.error
            reason = cause.message if cause else "the worker's process died while it loaded"
            raise WorkerLostError(reason, cause) from None
        except Exception as error:
            log.debug("worker %d failed its warm-up", self.index, exc_info=True)
            await self.close()
            cause = error if isinstance(error, NeuralCondenseError) else None
            reason = cause.message if cause else repr(error)[:500]
            raise WorkerLostError(f"the warm-up failed: {reason}", cause) from None
        return loaded

    async def run(self, jobs: Sequence[Job], limit_s: float) -> list[Outcome]:
        """Answer a batch.

        Parameters
        ----------
        jobs : the batch
        limit_s : seconds after which the process is held to hang, and is killed

        Raises
        ------
        WorkerLostError
            The process died or was killed.
        """
        if self._calls is None:
            raise WorkerLostError(f"worker {self.index} is closed")
        alarm = asyncio.get_running_loop().call_later(limit_s, self._kill_silent, limit_s)
        try:
            handover: Handover = await self._calls.call(jobs)
        except EOFError:
            raise WorkerLostError(f"worker {self.index} died at work") from None
        finally:
            alarm.cancel()
        if not handover.places or self._block is None:
            return handover.outcomes
        return await asyncio.to_thread(self._block.empty, handover)

    def kill(self) -> None:
        """End the process at once; harmless when it is gone."""
        if self._process is not None:
            self._process.kill()

    async def close(self) -> None:
        """End the process: an idle one by itself, any other is killed."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        self._close_calls()
        closing = asyncio.create_task(asyncio.to_thread(pool.shutdown, cancel_futures=True))
        patience_s = CLOSE_TIMEOUT_S if self.progress.stage == "ready" else 0.0
        await asyncio.wait({closing}, timeout=patience_s)
        if not closing.done():
            self.kill()
            await asyncio.wait({closing})
        self._detach()
        self._close_block()

    def mark_ready(self) -> None:
        """Note that the warm-up was answered."""
        self.progress = Progress(self.progress.pid, "ready", 1.0)

    async def _until_loaded(self, loading: asyncio.Future[Loaded]) -> Loaded:
        now_s = asyncio.get_running_loop().time
        try:
            while not loading.done():
                left_s = self._heard_s + LOAD_SILENCE_S - now_s()
                if left_s <= 0:
                    break
                await asyncio.wait({loading}, timeout=left_s)
            else:
                return loading.result()
        finally:
            # Where the wait was cancelled or given up: nobody is there to take what comes of it.
            loading.cancel()
        stage = self.progress.stage
        await self.close()
        raise WorkerLostError(f"silent while loading for {LOAD_SILENCE_S:g} s, at {stage!r}")

    def _spawn(self) -> Future[Loaded]:
        context = multiprocessing.get_context("spawn")
        self._detach()
        self._close_block()
        self._close_calls()
        self._reports, theirs = context.Pipe(duplex=False)
        self._block, self._calls = SharedBlock(), CallSocket()
        given = (self.spec, theirs, self._block, self._calls.theirs)
        self._pool = ProcessPoolExecutor(1, context, worker.initialize, given)
        self.alive = True
        others = set(multiprocessing.active_children())
        future = self._pool.submit(worker.warm_up)
        # None: it has ended already.
        self._process = next(iter(set(multiprocessing.active_children()) - others), None)
        # The child has its own copies by now; without ours, pipe and socket end with the child.
        theirs.close()
        self._calls.theirs.close()
        asyncio.get_running_loop().add_reader(self._reports.fileno(), self._read_reports)
        return future

    async def _open_calls(self) -> None:
        if self._pool is not None and self._calls is not None:
            await self._calls.open()
            self._pool.submit(worker.serve)

    def _kill_silent(self, limit_s: float) -> None:
        log.error("worker %d has been silent for %.0f s; killing it", self.index, limit_s)
        self.kill()

    def _read_reports(self) -> None:
        try:
            while self._reports is not None and self._reports.poll():
                report: Progress = self._reports.recv()
                self.progress = report
                self._heard_s = asyncio.get_running_loop().time()
        except (EOFError, OSError):
            self._detach()
            self._on_death()

    def _detach(self) -> None:
        self.alive = False
        if self._reports is not None:
            asyncio.get_running_loop().remove_reader(self._reports.fileno())
            self._reports.close()
            self._reports = None

    def _close_calls(self) -> None:
        if self._calls is not None:
            self._calls.close()
            self._calls = None

    def _close_block(self) -> None:
        if self._block is not None:
            self._block.close()
            self._block = None


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    # A process inherits what is blocked: until the worker ignores them, a Ctrl-C must not reach it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
