"""``Crew``: the workers of one backend, and who gives them what.

Where it sits: under ``Engine``, which takes requests and fills the queue; over ``Hand``, which is
one worker wherever it runs.

Design decisions

* Pull, not push: a free worker's dispatcher takes the next batch; no timers, no idle load.
* A worker that dies is replaced, alone, after a pause that doubles. One that cannot load
  ``MAX_LOAD_FAILURES`` times in a row is given up; a wrong configuration is not tried again.
* What a lost worker had in hand is done once more, each context alone: the one that killed it
  takes no neighbour along twice. So is a batch that did not fit into memory, and the next ones are
  smaller.
* A worker that has been silent for half of the time after which it is killed no longer counts as
  ready: whoever chooses among backends should not wait for the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from neural_condense_core.errors import (
    ConfigError,
    NeuralCondenseError,
    UnavailableError,
)
from neural_condense_core.serving.admission import Admission
from neural_condense_core.serving.batching import Entry, TokenQueue
from neural_condense_core.serving.hands import Hand, MakeHand
from neural_condense_core.serving.jobs import (
    Answer,
    BatchTooLargeError,
    Job,
    Loaded,
    Outcome,
    WorkerSpec,
)
from neural_condense_core.serving.metrics import Metrics
from neural_condense_core.serving.readiness import Readiness, State
from neural_condense_core.serving.replica import WorkerLostError
from neural_condense_core.serving.timings import Timings

log = logging.getLogger(__name__)

MAX_LOAD_FAILURES = 4
BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
SILENT_SHARE = 0.5
ENDED = "the backend lost its workers or shuts down; retry later"


@dataclass(eq=False)
class Waiting:
    """A job in the queue and who waits for its outcome.

    Parameters
    ----------
    job : for a worker
    outcome : what becomes of it
    timings : takes how long it waited and was worked on
    queued_s : when it was put into the queue, on the performance counter
    taken : whether a worker was given it
    lost_once : whether that worker was lost with it
    """

    job: Job
    outcome: asyncio.Future[Answer]
    timings: Timings
    queued_s: float
    taken: bool = False
    lost_once: bool = False

    def expire(self) -> None:
        """Tell whoever still waits that it is too late."""
        if not self.outcome.done():
            self.outcome.set_exception(TimeoutError())

    def resolve(self, outcome: Outcome) -> None:
        """Answer whoever still waits."""
        if self.outcome.done():
            return
        if isinstance(outcome, NeuralCondenseError):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


@dataclass(frozen=True, eq=False)
class _InHand:
    """A batch with a worker: since when, and how long it is expected to take."""

    batch: list[Entry[Waiting]]
    start_s: float
    expected_s: float


class Crew:
    """Workers that serve one queue.

    Parameters
    ----------
    specs : one a worker
    queue : what waits for them
    admission : is told how fast they are
    metrics : is told of batches and losses
    make_hand : makes the workers
    hang_timeout_s : seconds after which a batch's worker is killed
    adopt : awaited with what a worker loaded, before it counts as ready
    on_loaded : called with what the first worker to be ready has loaded
    on_misconfigured : called when no worker was ever ready and the configuration is why
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        queue: TokenQueue[Waiting],
        admission: Admission,
        metrics: Metrics,
        *,
        make_hand: MakeHand,
        hang_timeout_s: float,
        adopt: Callable[[Loaded], Awaitable[None]],
        on_loaded: Callable[[Loaded], None],
        on_misconfigured: Callable[[ConfigError], None],
    ) -> None:
        self.hang_timeout_s = hang_timeout_s
        self.loaded: Loaded | None = None
        self.is_over = False
        self._queue = queue
        self._admission = admission
        self._metrics = metrics
        self._adopt = adopt
        self._on_loaded = on_loaded
        self._on_misconfigured = on_misconfigured
        self._more = asyncio.Event()
        self._replicas = [
            make_hand(index, spec, self._more.set) for index, spec in enumerate(specs)
        ]
        self._in_hand: dict[int, _InHand] = {}
        self._ready: set[int] = set()
        self._given_up: set[int] = set()
        self._reason: str | None = None
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._state: State = "loading"
        self._since_s = time.monotonic()

    def start(self) -> None:
        """Start the workers; returns at once."""
        self._since_s = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._serve(replica), name=f"worker {replica.index}")
            for replica in self._replicas
        ]

    def wake(self) -> None:
        """Say that something waits in the queue."""
        self._more.set()

    @property
    def state(self) -> State:
        """Where the workers are; ``"loading"`` too where all that are there are silent."""
        if self._state == "ready" and self._in_hand and not self.n_responsive:
            return "loading"
        return self._state

    @property
    def n_responsive(self) -> int:
        """How many workers have loaded and not fallen silent."""
        before_s = time.perf_counter() - SILENT_SHARE * self.hang_timeout_s
        if any(each.start_s < before_s for each in self._in_hand.values()):
            return len(self._ready) - len(self._silent())
        return len(self._ready)

    def in_hand(self) -> tuple[float, int]:
        """Return the seconds until all is done that workers have, and how many have nothing."""
        now_s = time.perf_counter()
        batches = self._in_hand.values()
        left_s = sum(max(0.0, each.expected_s - (now_s - each.start_s)) for each in batches)
        return left_s, len(self._ready) - len(self._in_hand)

    def readiness(self) -> Readiness:
        """Return whether requests are taken, and if not, how far it is."""
        furthest = max((replica.progress for replica in self._replicas), key=lambda p: p.done)
        silent = self._silent()
        reason = self._reason
        if silent:
            longest_s = max(silent.values())
            reason = f"{len(silent)} of the workers silent, for {longest_s:.0f} s at most"
        return Readiness(
            state=self.state,
            workers=len(self._ready) - len(silent),
            stage=furthest.stage,
            done=furthest.done,
            elapsed_s=round(time.monotonic() - self._since_s, 3),
            reason=reason,
            total=len(self._replicas),
        )

    def drain(self) -> None:
        """Say that no more requests are taken; what waits is still worked on."""
        self._draining = True
        self._update_state()

    async def close(self) -> None:
        """End all workers; whoever still waits is told to retry."""
        self.drain()
        self.is_over = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for batch in (self._queue.clear(), *(each.batch for each in self._in_hand.values())):
            refuse(batch)
        await asyncio.gather(*(replica.close() for replica in self._replicas))

    def _silent(self) -> dict[int, float]:
        if not self._in_hand:
            return {}
        now_s = time.perf_counter()
        limit_s = SILENT_SHARE * self.hang_timeout_s
        taken_s = {index: now_s - each.start_s for index, each in self._in_hand.items()}
        return {index: s for index, s in taken_s.items() if s > limit_s and index in self._ready}

    async def _serve(self, replica: Hand) -> None:
        """Keep one worker at work: load, dispatch, replace."""
        load_failures = deaths = 0
        while True:
            try:
                loaded = await replica.load()
                await self._adopt(loaded)
            except WorkerLostError as lost:
                load_failures += 1
                log.error("worker %d did not start: %s", replica.index, lost.reason)
                self._reason = lost.reason
                if isinstance(lost.cause, ConfigError) or load_failures == MAX_LOAD_FAILURES:
                    self._give_up(replica, lost)
                    return
                await asyncio.sleep(backoff_s(load_failures))
                continue
            load_failures = 0
            self._welcome(replica, loaded)
            answered = await self._dispatch(replica)
            self._ready.discard(replica.index)
            self._metrics.worker_restarts.inc()
            self._update_state()
            deaths = 1 if answered else deaths + 1
            await asyncio.sleep(backoff_s(deaths - 1))

    async def _dispatch(self, replica: Hand) -> int:
        """Hand batches to a worker until it is lost; return how many it answered."""
        answered = 0
        while replica.alive:
            batch = self._queue.take(asyncio.get_running_loop().time())
            if not batch:
                self._more.clear()
                await self._more.wait()
                continue
            n_tokens = sum(entry.n_tokens for entry in batch)
            start_s = time.perf_counter()
            held = _InHand(batch, start_s, self._admission.pace.seconds(n_tokens))
            self._in_hand[replica.index] = held
            try:
                outcomes = await self._run(replica, batch, start_s)
            except WorkerLostError as lost:
                self._reason = lost.reason
                self._recover(batch)
                self._in_hand.pop(replica.index, None)
                break
            self._settle(batch, outcomes, n_tokens, time.perf_counter() - start_s)
            self._in_hand.pop(replica.index, None)
            answered += 1
        log.warning("worker %d is gone; replacing it", replica.index)
        return answered

    async def _run(
        self, replica: Hand, batch: list[Entry[Waiting]], start_s: float
    ) -> Sequence[Outcome] | None:
        """Return a batch's outcomes; None where it did not fit into memory.

        Raises
        ------
        WorkerLostError
            The worker is gone, and the batch with it.
        """
        now_s = asyncio.get_running_loop().time()
        jobs = []
        for entry in batch:
            waiting = entry.item
            waiting.taken = True
            waiting.timings.queue_s += start_s - waiting.queued_s
            job = waiting.job
            left_s = entry.deadline_s - now_s
            jobs.append(Job(job.context, job.reply, job.ratio, job.max_condensed_tokens, left_s))
        try:
            return await replica.run(jobs, self.hang_timeout_s)
        except WorkerLostError:
            raise
        except BatchTooLargeError:
            return None
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            # Its message is withheld: it may quote a context.
            log.error("a batch of %d failed: %s", len(batch), type(error).__name__)
            failure = NeuralCondenseError("the batch failed on its way to a worker")
            return [failure] * len(batch)

    def _settle(
        self,
        batch: list[Entry[Waiting]],
        outcomes: Sequence[Outcome] | None,
        n_tokens: int,
        seconds: float,
    ) -> None:
        for entry in batch:
            entry.item.timings.inference_s += seconds
        if outcomes is None:
            self._shrink(batch)
            return
        self._admission.pace.observe(n_tokens, seconds)
        self._metrics.batch(len(batch), n_tokens, seconds)
        self._admission.budget.regain()
        self._queue.max_batch_tokens = self._admission.max_batch_tokens
        for entry, outcome in zip(batch, outcomes, strict=True):
            entry.item.resolve(outcome)

    def _shrink(self, batch: list[Entry[Waiting]]) -> None:
        self._metrics.out_of_memory.inc()
        self._admission.budget.shrink(len(batch) * max(entry.n_tokens for entry in batch))
        self._queue.max_batch_tokens = self._admission.max_batch_tokens
        log.warning(
            "a batch of %d contexts did not fit into memory; batches have at most %d tokens now",
            len(batch),
            self._queue.max_batch_tokens,
        )
        self._again(batch)

    def _recover(self, batch: list[Entry[Waiting]]) -> None:
        again = []
        for entry in batch:
            if entry.item.lost_once:
                entry.item.resolve(
                    UnavailableError("the worker died on this context twice; retry later")
                )
            else:
                entry.item.lost_once = True
                again.append(entry)
        self._again(again)

    def _again(self, entries: list[Entry[Waiting]]) -> None:
        now_s = time.perf_counter()
        for entry in entries:
            entry.item.queued_s = now_s
        self._queue.put_back(entries)
        self._more.set()

    def _welcome(self, replica: Hand, loaded: Loaded) -> None:
        replica.mark_ready()
        self._ready.add(replica.index)
        self._reason = None
        first = self.loaded is None
        self.loaded = loaded
        self._update_state()
        if first:
            self._on_loaded(loaded)

    def _give_up(self, replica: Hand, lost: WorkerLostError) -> None:
        self._given_up.add(replica.index)
        self._update_state()
        if self._state == "failed":
            self.is_over = True
            refuse(self._queue.clear())
            if self.loaded is None and isinstance(lost.cause, ConfigError):
                self._on_misconfigured(lost.cause)

    def _update_state(self) -> None:
        state: State = "loading"
        if self._draining:
            state = "draining"
        elif self._ready:
            state = "ready"
        elif len(self._given_up) == len(self._replicas):
            state = "failed"
        if state != self._state:
            self._state, self._since_s = state, time.monotonic()


def refuse(entries: list[Entry[Waiting]]) -> None:
    """Tell all who wait that they will not be answered."""
    for entry in entries:
        entry.item.resolve(UnavailableError(ENDED))


def backoff_s(failures: int) -> float:
    """Return the pause before the next attempt, seconds; none before the first."""
    return min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (failures - 1)) if failures > 0 else 0.0
