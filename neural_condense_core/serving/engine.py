"""``Engine``: one queue, several workers, and who gets what when.

Where it sits: between the HTTP routes (``app.py``) and the worker processes (``replica.py``).
It knows nothing of HTTP.

Design decisions

* Pull, not push: a free worker's dispatcher takes the next batch; no timers, no idle load.
* A worker that dies is replaced, alone, after a pause that doubles. One that cannot load
  ``MAX_LOAD_FAILURES`` times in a row is given up; a wrong configuration is not tried again.
* What a lost worker had in hand is done once more, each context alone: the one that killed it
  takes no neighbour along twice.
* A request that is given up or late is dropped before a worker sees it. One that runs already is
  answered without waiting for it. Its worker is killed only when it hangs, which is well beyond the
  time limit: a slow batch that is on its way is cheaper than a worker that loads anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from neural_condense_core.errors import (
    ConfigError,
    DeadlineError,
    NeuralCondenseError,
    UnavailableError,
    UnknownModelError,
)
from neural_condense_core.serving.batching import Entry, TokenQueue
from neural_condense_core.serving.jobs import Answer, Job, Loaded, Outcome, WorkerSpec
from neural_condense_core.serving.replica import Replica, WorkerLostError
from neural_condense_core.serving.settings import READY_PATH
from neural_condense_core.serving.tokenizing import FrontTokenizer
from neural_condense_core.serving.worker import check_length
from neural_condense_core.wire.codec import Format

log = logging.getLogger(__name__)

MAX_LOAD_FAILURES = 4
BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
HANG_FACTOR = 2.0
"""A batch that takes this many time limits has outlived everyone who waited for it."""
MIN_HANG_S = 60.0
"""A batch that takes less is slow and not held to hang, however short the time limit."""

State = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True)
class Readiness:
    """Whether requests are taken.

    Parameters
    ----------
    state : where the backend is
    workers : how many workers can answer
    stage, done : of the worker that has come furthest in loading; done in [0, 1]
    elapsed_s : seconds in this state
    reason : why a worker was lost or given up, or None
    """

    state: State
    workers: int
    stage: str
    done: float
    elapsed_s: float
    reason: str | None


@dataclass(eq=False)
class _Waiting:
    """A job in the queue and who waits for its outcome."""

    job: Job
    outcome: asyncio.Future[Answer]
    lost_once: bool = False

    def resolve(self, outcome: Outcome) -> None:
        if self.outcome.done():
            return
        if isinstance(outcome, NeuralCondenseError):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class Engine:
    """The workers of one backend.

    Parameters
    ----------
    specs : one a worker
    max_queued_tokens, max_batch_tokens : bounds of the queue and of a padded batch, tokens
    timeout_s : seconds from a request's arrival to its answer
    hang_timeout_s : seconds after which a batch's worker is killed; None = ``HANG_FACTOR`` time
        limits and at least ``MIN_HANG_S``
    on_loaded : called with what the first worker to be ready has loaded
    on_misconfigured : called when no worker was ever ready and the configuration is why
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        *,
        max_queued_tokens: int,
        max_batch_tokens: int,
        timeout_s: float,
        hang_timeout_s: float | None = None,
        on_loaded: Callable[[Loaded], None] = lambda loaded: None,
        on_misconfigured: Callable[[ConfigError], None] = lambda error: None,
    ) -> None:
        self.specs = tuple(specs)
        self.timeout_s = timeout_s
        if hang_timeout_s is None:
            hang_timeout_s = max(HANG_FACTOR * timeout_s, MIN_HANG_S)
        self.hang_timeout_s = hang_timeout_s
        self.loaded: Loaded | None = None
        self._on_loaded = on_loaded
        self._on_misconfigured = on_misconfigured
        self._queue: TokenQueue[_Waiting] = TokenQueue(max_queued_tokens, max_batch_tokens)
        self._tokenizer = FrontTokenizer()
        self._more = asyncio.Event()
        self._replicas = [
            Replica(index, spec, self._more.set) for index, spec in enumerate(self.specs)
        ]
        self._in_hand: dict[int, list[Entry[_Waiting]]] = {}
        self._ready: set[int] = set()
        self._given_up: set[int] = set()
        self._reason: str | None = None
        self._draining = False
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._state: State = "loading"
        self._since_s = time.monotonic()

    def start(self) -> None:
        """Start the workers; returns at once."""
        self._since_s = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._serve(replica), name=f"worker {replica.index}")
            for replica in self._replicas
        ]

    def readiness(self) -> Readiness:
        """Return whether requests are taken, and if not, how far it is."""
        furthest = max((replica.progress for replica in self._replicas), key=lambda p: p.done)
        return Readiness(
            state=self._state,
            workers=len(self._ready),
            stage=furthest.stage,
            done=furthest.done,
            elapsed_s=round(time.monotonic() - self._since_s, 3),
            reason=self._reason,
        )

    def served(self) -> Loaded:
        """Return what is served.

        Raises
        ------
        UnavailableError
            No worker can answer: loading, draining or failed.
        """
        if self._state != "ready" or self.loaded is None:
            raise UnavailableError(
                f"the backend is {self._state}; see {READY_PATH}", {"state": self._state}
            )
        return self.loaded

    async def condense(
        self,
        context: str,
        reply: Format,
        *,
        deadline_s: float,
        target_model: str | None = None,
        ratio: float | None = None,
        max_condensed_tokens: int | None = None,
    ) -> Answer:
        """Condense one context, as long as any worker can answer; cancelling gives it up.

        Parameters
        ----------
        context : the text
        reply : how to write the answer
        deadline_s : when the answer is no longer wanted, on the event loop's clock
        target_model : the model it must be for; None = the served one
        ratio : compression ratio; None = the backend's own
        max_condensed_tokens : never exceeded; None = no limit

        Raises
        ------
        UnknownModelError
            Another target model is served.
        DeadlineError
            There was no answer in time.
        """
        served = self.served().target_model
        if target_model not in {None, served}:
            raise UnknownModelError(
                f"this backend serves {served!r} and no other target model",
                {"target_model": served},
            )
        self._open += 1
        self._idle.clear()
        try:
            async with asyncio.timeout_at(deadline_s):
                job, n_tokens = await self._job(context, reply, ratio, max_condensed_tokens)
                return await self._wait_for(job, n_tokens, deadline_s)
        except TimeoutError:
            raise DeadlineError(
                f"no answer within {self.timeout_s:g} s; send less at a time, or raise --timeout"
            ) from None
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def drain(self, timeout_s: float) -> bool:
        """Take no more requests and wait for those that were taken.

        Parameters
        ----------
        timeout_s : most seconds to wait

        Returns
        -------
        whether all were answered
        """
        self._draining = True
        self._update_state()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        return not self._open

    async def close(self) -> None:
        """End all workers; whoever still waits is told to retry."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._draining = True
        self._update_state()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for batch in (self._queue.clear(), *self._in_hand.values()):
            self._refuse(batch)
        await asyncio.gather(*(replica.close() for replica in self._replicas))
        self._tokenizer.close()

    async def _job(
        self, context: str, reply: Format, ratio: float | None, max_condensed_tokens: int | None
    ) -> tuple[Job, int]:
        counted = await self._tokenizer.count(context)
        limit = self.specs[0].max_context_tokens
        n_tokens = counted.n_tokens
        if isinstance(counted.context, str):
            # An upper bound only: the worker counts, and refuses what is too long before it
            # condenses anything.
            n_tokens = min(n_tokens, limit)
        check_length(n_tokens, limit)
        return Job(counted.context, reply, ratio, max_condensed_tokens), n_tokens

    async def _wait_for(self, job: Job, n_tokens: int, deadline_s: float) -> Answer:
        waiting = _Waiting(job, asyncio.get_running_loop().create_future())
        group = (job.ratio, job.max_condensed_tokens)
        entry = Entry(waiting, n_tokens, deadline_s, group)
        self._queue.put(entry)
        self._more.set()
        try:
            return await waiting.outcome
        finally:
            self._queue.discard(entry)

    async def _serve(self, replica: Replica) -> None:
        """Keep one worker at work: load, dispatch, replace."""
        load_failures = deaths = 0
        while True:
            try:
                loaded = await replica.load()
                await self._tokenizer.adopt(loaded)
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
            self._update_state()
            deaths = 1 if answered else deaths + 1
            await asyncio.sleep(backoff_s(deaths - 1))

    async def _dispatch(self, replica: Replica) -> int:
        """Hand batches to a worker until it is lost; return how many it answered."""
        answered = 0
        while replica.alive:
            now_s = asyncio.get_running_loop().time()
            batch = self._queue.take(now_s)
            if not batch:
                self._more.clear()
                await self._more.wait()
                continue
            jobs = [
                replace(entry.item.job, remaining_s=entry.deadline_s - now_s) for entry in batch
            ]
            self._in_hand[replica.index] = batch
            try:
                outcomes = await replica.run(jobs, self.hang_timeout_s)
            except WorkerLostError as lost:
                self._reason = lost.reason
                self._recover(batch)
                break
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                # Its message is withheld: it may quote a context.
                log.error("a batch of %d failed: %s", len(batch), type(error).__name__)
                failure = NeuralCondenseError("the batch failed on its way to a worker")
                outcomes = [failure] * len(batch)
            for entry, outcome in zip(batch, outcomes, strict=True):
                entry.item.resolve(outcome)
            answered += 1
        log.warning("worker %d is gone; replacing it", replica.index)
        return answered

    def _recover(self, batch: list[Entry[_Waiting]]) -> None:
        again = []
        for entry in batch:
            if entry.item.lost_once:
                entry.item.resolve(
                    UnavailableError("the worker died on this context twice; retry later")
                )
            else:
                entry.item.lost_once = True
                again.append(entry)
        self._queue.put_back(again)
        self._more.set()

    def _welcome(self, replica: Replica, loaded: Loaded) -> None:
        replica.mark_ready()
        self._ready.add(replica.index)
        self._reason = None
        first = self.loaded is None
        self.loaded = loaded
        self._update_state()
        if first:
            self._on_loaded(loaded)

    def _give_up(self, replica: Replica, lost: WorkerLostError) -> None:
        self._given_up.add(replica.index)
        self._update_state()
        if self._state == "failed":
            self._refuse(self._queue.clear())
            if self.loaded is None and isinstance(lost.cause, ConfigError):
                self._on_misconfigured(lost.cause)

    def _refuse(self, entries: list[Entry[_Waiting]]) -> None:
        for entry in entries:
            entry.item.resolve(
                UnavailableError("the backend lost its workers or shuts down; retry later")
            )

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


def backoff_s(failures: int) -> float:
    """Return the pause before the next attempt, seconds; none before the first."""
    return min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (failures - 1)) if failures > 0 else 0.0
