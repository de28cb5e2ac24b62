"""``Engine``: takes contexts, lets them in or not, and gives back replies.

Where it sits: between the HTTP routes (``app.py``) and the workers (``crew.py``). It knows nothing
of HTTP.

Design decisions

* What was condensed before is answered from the cache before anything else is done.
* A context's tokens are counted before it waits, so that the queue is bounded by what work it
  holds; a request that could not be answered in time is refused when it comes (``admission.py``).
* A request that is given up or late is dropped before a worker sees it. One that runs already is
  answered without waiting for it. Its worker is killed only when it hangs, which is well beyond the
  time limit: a slow batch that is on its way is cheaper than a worker that loads anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from neural_condense_core.errors import (
    ConfigError,
    DeadlineError,
    OverloadedError,
    UnavailableError,
    UnknownModelError,
)
from neural_condense_core.serving.admission import Admission, Load
from neural_condense_core.serving.batching import Entry, TokenQueue
from neural_condense_core.serving.cache import AnswerCache
from neural_condense_core.serving.crew import ENDED, Crew, Waiting
from neural_condense_core.serving.hands import MakeHand
from neural_condense_core.serving.jobs import Answer, Job, Loaded, WorkerSpec
from neural_condense_core.serving.metrics import Metrics
from neural_condense_core.serving.readiness import Readiness
from neural_condense_core.serving.replica import Replica
from neural_condense_core.serving.settings import READY_PATH
from neural_condense_core.serving.timings import Timings
from neural_condense_core.serving.tokenizing import FrontTokenizer
from neural_condense_core.serving.worker import check_length, warm_up_text
from neural_condense_core.wire.codec import REVISION_HEADER, Format

__all__ = ["Engine", "Readiness"]

HANG_FACTOR = 2.0
"""A batch that takes this many time limits has outlived everyone who waited for it."""
MIN_HANG_S = 60.0
"""A batch that takes less is slow and not held to hang, however short the time limit."""


class Engine:
    """The workers of one backend.

    Parameters
    ----------
    specs : one a worker
    max_queued_tokens, max_batch_tokens : bounds of the queue and of a padded batch, tokens
    max_brief_tokens : as in ``Admission``
    timeout_s : seconds from a request's arrival to its answer
    hang_timeout_s : seconds after which a batch's worker is killed; None = ``HANG_FACTOR`` time
        limits and at least ``MIN_HANG_S``
    on_loaded : called with what the first worker to be ready has loaded
    on_misconfigured : called when no worker was ever ready and the configuration is why
    make_hand : makes the workers
    cache : of answers; None = none. Closed with the engine
    metrics : is told what happens; None = nobody reads it
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        *,
        max_queued_tokens: int,
        max_batch_tokens: int,
        max_brief_tokens: int = 0,
        timeout_s: float,
        hang_timeout_s: float | None = None,
        on_loaded: Callable[[Loaded], None] = lambda loaded: None,
        on_misconfigured: Callable[[ConfigError], None] = lambda error: None,
        make_hand: MakeHand = Replica,
        cache: AnswerCache | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.specs = tuple(specs)
        self.timeout_s = timeout_s
        if hang_timeout_s is None:
            hang_timeout_s = max(HANG_FACTOR * timeout_s, MIN_HANG_S)
        self.hang_timeout_s = hang_timeout_s
        self.admission = Admission(max_batch_tokens, max_brief_tokens)
        self._cache = cache
        self._metrics = metrics or Metrics()
        self._queue: TokenQueue[Waiting] = TokenQueue(max_queued_tokens, max_batch_tokens)
        self._tokenizer = FrontTokenizer()
        self._crew = Crew(
            self.specs,
            self._queue,
            self.admission,
            self._metrics,
            make_hand=make_hand,
            hang_timeout_s=hang_timeout_s,
            adopt=self._adopt,
            on_loaded=on_loaded,
            on_misconfigured=on_misconfigured,
        )
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing: asyncio.Task[None] | None = None
        self._watch()

    @property
    def loaded(self) -> Loaded | None:
        """What the workers have loaded; None before the first has."""
        return self._crew.loaded

    def start(self) -> None:
        """Start the workers; returns at once."""
        self._crew.start()

    def readiness(self) -> Readiness:
        """Return whether requests are taken, and if not, how far it is."""
        return self._crew.readiness()

    def served(self) -> Loaded:
        """Return what is served.

        Raises
        ------
        UnavailableError
            No worker can answer: loading, silent, draining or failed.
        """
        state, loaded = self._crew.state, self._crew.loaded
        if state != "ready" or loaded is None:
            raise UnavailableError(f"the backend is {state}; see {READY_PATH}", {"state": state})
        return loaded

    async def condense(
        self,
        context: str,
        reply: Format,
        *,
        deadline_s: float,
        target_model: str | None = None,
        ratio: float | None = None,
        max_condensed_tokens: int | None = None,
        timings: Timings | None = None,
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
        timings : takes where the time went

        Raises
        ------
        UnknownModelError
            Another target model is served.
        DeadlineError
            There was no answer in time.
        """
        loaded = self.served()
        if target_model not in {None, loaded.target_model}:
            raise UnknownModelError(
                f"this backend serves {loaded.target_model!r} and no other target model",
                {"target_model": loaded.target_model},
            )
        timings = timings or Timings()
        wanted = Job("", reply, ratio, max_condensed_tokens)
        left_s = deadline_s - asyncio.get_running_loop().time()
        self._open += 1
        self._idle.clear()
        try:
            return await self._answer(context, wanted, deadline_s, timings)
        except TimeoutError:
            raise DeadlineError(
                f"no answer within {left_s:.3g} s; send less at a time, or allow more time"
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
        self._crew.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        return not self._open

    async def close(self) -> None:
        """End all workers; whoever still waits is told to retry."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._crew.close()
        self._tokenizer.close()
        if self._cache is not None:
            await asyncio.to_thread(self._cache.close)

    async def _answer(
        self, context: str, wanted: Job, deadline_s: float, timings: Timings
    ) -> Answer:
        cache, key = self._cache, b""
        revision = "" if self.loaded is None else self.loaded.revision
        # Without a revision nobody knows whether the same weights would answer.
        if cache is not None and revision:
            key = cache.key(
                context, wanted.ratio, wanted.max_condensed_tokens, wanted.reply, revision
            )
            found = await cache.find(key)
            timings.cache = "miss" if found is None else "hit"
            if found is not None:
                timings.n_tokens = found.n_context_tokens
                return found
        start_s = time.perf_counter()
        counted = self._tokenizer.count_now(context)
        if counted is None:
            async with asyncio.timeout_at(deadline_s):
                counted = await self._tokenizer.count(context)
        timings.tokenization_s = time.perf_counter() - start_s
        n_tokens = self._checked(counted.n_tokens, isinstance(counted.context, str))
        timings.n_tokens = n_tokens
        job = Job(counted.context, wanted.reply, wanted.ratio, wanted.max_condensed_tokens)
        answer = await self._wait_for(job, n_tokens, deadline_s, timings)
        timings.n_tokens = answer.n_context_tokens
        # A worker that was replaced while the weights' file changed is of another revision.
        if cache is not None and key and answer.headers.get(REVISION_HEADER) == revision:
            cache.keep(key, answer)
        return answer

    def _checked(self, n_tokens: int, is_bound: bool) -> int:
        limit = self.specs[0].max_context_tokens
        if is_bound:
            # An upper bound only: the worker counts, and refuses what is too long before it
            # condenses anything.
            n_tokens = min(n_tokens, limit)
        check_length(n_tokens, limit)
        return n_tokens

    async def _wait_for(
        self, job: Job, n_tokens: int, deadline_s: float, timings: Timings
    ) -> Answer:
        loop = asyncio.get_running_loop()
        waiting = Waiting(job, loop.create_future(), timings, time.perf_counter())
        entry = Entry(waiting, n_tokens, deadline_s, (job.ratio, job.max_condensed_tokens))
        self._admit(entry, loop.time())
        self._crew.wake()
        # Leaner than asyncio.timeout, which every request would pay for.
        alarm = loop.call_at(deadline_s, waiting.expire)
        try:
            return await waiting.outcome
        except TimeoutError:
            if not waiting.taken:
                self._metrics.dropped("expired")
            raise
        except asyncio.CancelledError:
            if not waiting.taken:
                self._metrics.dropped("abandoned")
            raise
        finally:
            alarm.cancel()
            self._queue.discard(entry)

    def _admit(self, entry: Entry[Waiting], now_s: float) -> None:
        """Put an entry into the queue.

        Raises
        ------
        OverloadedError
            The queue is full, or the answer would be late.
        UnavailableError
            The workers ended while its tokens were counted.
        """
        if self._crew.is_over:
            raise UnavailableError(ENDED)
        ahead = self._load(*self._queue.ahead_of(entry.deadline_s))
        self.admission.check(ahead, entry.n_tokens, entry.deadline_s - now_s)
        last_s = self._queue.last_deadline_s()
        if last_s is not None and last_s > entry.deadline_s:
            # It would go before others, which were let in because they could be answered in time.
            everything = self._load(len(self._queue), self._queue.n_tokens)
            self.admission.check(everything, entry.n_tokens, last_s - now_s)
        try:
            self._queue.put(entry)
        except OverloadedError as error:
            error.retry_after_s = self.admission.retry_after_s(ahead)
            raise

    def _load(self, n_entries: int, n_tokens: int) -> Load:
        in_hand_s, n_free = self._crew.in_hand()
        return Load(n_entries, n_tokens, in_hand_s, self._crew.n_responsive, n_free)

    async def _adopt(self, loaded: Loaded) -> None:
        """Take over what a worker loaded: its tokenizer, and how fast it was."""
        await self._tokenizer.adopt(loaded)
        if self.admission.pace.known:
            return
        for n_chars, taken_ms in sorted(loaded.warm_up_ms.items()):
            counted = await self._tokenizer.count(warm_up_text(n_chars))
            self.admission.pace.observe(counted.n_tokens, taken_ms / 1000)

    def _watch(self) -> None:
        watch = self._metrics.watch
        watch("queue_size", "Requests that wait", lambda: len(self._queue))
        watch("queue_tokens", "Tokens that wait", lambda: self._queue.n_tokens)
        watch("requests_open", "Requests in hand", lambda: self._open)
        watch("workers", "Workers there should be", lambda: len(self.specs))
        watch("workers_ready", "Workers that can answer", lambda: self._crew.n_responsive)
        watch("batch_token_budget", "Tokens a batch may have", lambda: self._queue.max_batch_tokens)
        if self._cache is not None:
            cache = self._cache
            watch("cache_bytes", "Bytes of answers in memory", lambda: cache.n_bytes)
