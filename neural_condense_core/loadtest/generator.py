"""The open loop: requests leave when they are due, whatever became of those before.

Where it sits: between ``arrivals.py``, which planned them, and ``figures.py``, which counts.

Design decisions

* Latency counts from the moment at which a request was due, not from when it was sent: a generator
  that waits for a slow backend would otherwise hide the very delay it is there to measure.
* Requests in flight are capped so that memory is; one that is due beyond the cap is an error of its
  own code. The loop never closes silently.
* A request's deadline is the tier's timeout after it was due; then its connection is closed.
* Every request ends as an ``Outcome``, never as an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neural_condense_core.client.exchange import Question
from neural_condense_core.errors import BackendError
from neural_condense_core.loadtest.connections import CONNECTION, Connections, Reply
from neural_condense_core.loadtest.replies import MALFORMED, NOT_SENT, OK, TIMEOUT, Checker

HEAD_START_S = 0.05
QUEUE_HEADER = "x-queue-time"
INFERENCE_HEADER = "x-inference-time"
CACHE_HEADER = "x-condense-cache"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Parameters
    ----------
    due_s : when it was due, seconds from the start of the run
    code : ``"ok"`` or why not
    lag_s : how much later than that the generator came to it
    latency_s : from when it was due to the last byte of its reply; None without a whole reply
    n_chars : of its context
    n_condensed : rows of a valid reply
    queue_s, inference_s : what the backend says of itself; None where it does not
    is_cached : whether the backend says that it had the answer already
    """

    due_s: float
    code: str
    lag_s: float = 0.0
    latency_s: float | None = None
    n_chars: int = 0
    n_condensed: int = 0
    queue_s: float | None = None
    inference_s: float | None = None
    is_cached: bool = False

    @property
    def is_good(self) -> bool:
        """Whether a valid reply came within the timeout."""
        return self.code == OK


@dataclass(frozen=True)
class Generator:
    """Sends requests to one backend and checks what comes back.

    Parameters
    ----------
    connections : to the backend
    checker : of replies
    draw : makes the next request
    timeout_s : from when a request is due
    max_in_flight : requests that may be under way at once
    """

    connections: Connections
    checker: Checker
    draw: Callable[[], Question]
    timeout_s: float
    max_in_flight: int

    async def run(
        self, due_s: Sequence[float], on_outcome: Callable[[Outcome], None]
    ) -> list[Outcome]:
        """Send every request when it is due; return once each has its outcome.

        Parameters
        ----------
        due_s : ascending, seconds from the start
        on_outcome : told each as it ends

        Returns
        -------
        by the time they were due
        """
        loop = asyncio.get_running_loop()
        start_s = loop.time() + HEAD_START_S
        found: list[Outcome] = []
        under_way: set[asyncio.Task[None]] = set()

        def end(outcome: Outcome) -> None:
            found.append(outcome)
            on_outcome(outcome)

        async with asyncio.TaskGroup() as group:
            for at_s in map(float, due_s):
                await asyncio.sleep(start_s + at_s - loop.time())
                if len(under_way) >= self.max_in_flight:
                    end(Outcome(at_s, NOT_SENT, loop.time() - start_s - at_s))
                    continue
                task = group.create_task(self._one(start_s, at_s, end))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        return sorted(found, key=lambda outcome: outcome.due_s)

    async def ask(self, question: Question, timeout_s: float) -> tuple[Outcome, int]:
        """Send one request now; return its outcome and the width of its reply, 0 if not valid."""
        loop = asyncio.get_running_loop()
        return await self._settle(question, loop.time(), 0.0, timeout_s)

    async def _one(self, start_s: float, at_s: float, end: Callable[[Outcome], None]) -> None:
        outcome, _ = await self._settle(self.draw(), start_s + at_s, at_s, self.timeout_s)
        end(outcome)

    async def _settle(
        self, question: Question, due: float, at_s: float, timeout_s: float
    ) -> tuple[Outcome, int]:
        n_chars = len(question.context)
        lag_s = asyncio.get_running_loop().time() - due
        try:
            async with asyncio.timeout_at(due + timeout_s):
                reply = await self.connections.post(question.body())
        except TimeoutError:
            return Outcome(at_s, TIMEOUT, lag_s, n_chars=n_chars), 0
        except BackendError as error:
            reason = str(error.detail.get("reason"))
            code = reason if reason == CONNECTION else f"{MALFORMED}{reason}"
            return Outcome(at_s, code, lag_s, n_chars=n_chars), 0
        if reply.done_s > due + timeout_s:
            return Outcome(at_s, TIMEOUT, lag_s, n_chars=n_chars), 0
        checked = await self.checker.check(question, reply)
        outcome = Outcome(
            at_s,
            checked.code,
            lag_s,
            reply.done_s - due,
            n_chars,
            checked.n_condensed,
            _seconds(reply, QUEUE_HEADER),
            _seconds(reply, INFERENCE_HEADER),
            reply.headers.get(CACHE_HEADER) == "hit",
        )
        return outcome, checked.hidden_size


def _seconds(reply: Reply, header: str) -> float | None:
    """Return a header's milliseconds as seconds, None where it says nothing of use."""
    text = reply.headers.get(header, "")
    if not text.replace(".", "", 1).isdecimal() or len(text) > 16:
        return None
    return float(text) / 1000
