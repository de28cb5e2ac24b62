"""One load test from end to end: find out what is there, warm up, measure, search, report.

Where it sits: below the command and ``condense bench``; everything else of this package is a part
of it.

Design decisions

* What a backend of ours says about itself is used; one of anybody's needs none of it.
* One request alone comes first, with time to spare: it warms up what is warmed once, and tells the
  width where nobody said it.
* Between steps of the search one request at a time is sent until one is answered in time, so that a
  step does not inherit the queue of the one before.
* A search step lasts at least as long as it takes to see latency grow, and holds about a hundred
  requests where the rate allows.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

import numpy as np

from neural_condense_core.client.async_client import UNREACHABLE
from neural_condense_core.client.backend import AsyncBackendClient
from neural_condense_core.client.exchange import Question
from neural_condense_core.constants import HIDDEN_SIZES
from neural_condense_core.errors import BackendError, ConfigError, DeadlineError
from neural_condense_core.errors import NeuralCondenseError as OurError
from neural_condense_core.loadtest.arrivals import POOL, Contexts, poisson_arrivals
from neural_condense_core.loadtest.connections import CONNECTION, Connections
from neural_condense_core.loadtest.figures import Figures, figures_of
from neural_condense_core.loadtest.generator import Generator, Outcome
from neural_condense_core.loadtest.machine import describe_machine
from neural_condense_core.loadtest.plan import Plan, Report, Subject
from neural_condense_core.loadtest.remarks import remarks
from neural_condense_core.loadtest.replies import HTTP, Checker, most_tokens
from neural_condense_core.loadtest.search import Knee, find_knee
from neural_condense_core.scoring.texts import open_texts
from neural_condense_core.wire.arrays import limits_of
from neural_condense_core.wire.messages import Info, NotReady, Ready

FIRST_TIMEOUT_S = 60.0
STEP_REQUESTS = 100
MIN_STEP_S, MAX_STEP_S = 10.0, 30.0
STEP_WARM_UP_S = 2.0
SETTLE_S = 30.0
_NO_ROUTE = {f"{HTTP}404", f"{HTTP}405"}


class Listener:
    """Told how a load test goes; does nothing by itself."""

    def says(self, message: str) -> None:
        """Take a line for people."""

    def begins(self, name: str, n_requests: int) -> None:
        """Take the start of a run of so many requests."""

    def ends(self, outcome: Outcome) -> None:
        """Take the end of one request."""


async def run_load(plan: Plan, listener: Listener) -> Report:
    """Measure a backend.

    Parameters
    ----------
    plan : what to do
    listener : told how it goes

    Raises
    ------
    ConfigError
        The backend has no such route.
    BackendError
        It cannot be reached.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    subject = await _introduce(plan, listener)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    with _Load(plan, subject, listener) as load:
        first, width = await load.first()
        if first.code in _NO_ROUTE:
            raise ConfigError(
                f"{plan.url}{subject.api_path} answers HTTP {first.code.removeprefix(HTTP)}; give "
                "--api_path, or --target_model if it serves another model"
            )
        if first.code == CONNECTION:
            raise BackendError(
                f"{plan.url}{subject.api_path} did not answer; is the backend running there?",
                {"reason": UNREACHABLE},
            )
        if subject.hidden_size is None and width:
            subject = load.expect(width)
        outcomes = await load.measure_outcomes(plan.rate_rps, plan.duration_s, plan.warm_up_s)
        figures = figures_of(outcomes, plan.rate_rps, plan.duration_s, plan.tier.timeout_s)
        knee = await load.search(figures) if plan.finds_max else None
    share = (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)
    notes = tuple(remarks(plan, subject, figures, knee))
    machine = {**describe_machine(), "generator_cpu_share": round(share, 3)}
    return Report(plan, subject, figures, tuple(outcomes), knee, notes, machine, started_at)


async def _introduce(plan: Plan, listener: Listener) -> Subject:
    """Wait for a backend that says it is loading, and ask what it serves."""
    async with AsyncBackendClient(plan.url) as client:
        info = await _info(client, plan, listener)
    model = plan.target_model or (plan.tier.target_model if info is None else info.target_model)
    said = None if info is None or info.target_model != model else info.hidden_size
    return Subject(
        api_path=plan.api_path or ("/condense" if info is None else info.api_path),
        target_model=model,
        hidden_size=plan.hidden_size or said or HIDDEN_SIZES.get(model),
        condenser=None if info is None else info.condenser,
    )


async def _info(client: AsyncBackendClient, plan: Plan, listener: Listener) -> Info | None:
    try:
        await client.ready()
    except OurError as error:
        if isinstance(error, DeadlineError) or error.detail.get("reason") == UNREACHABLE:
            raise
        return None  # another's backend: it has no such route
    told: set[str] = set()

    def show(health: NotReady | Ready | None) -> None:
        if isinstance(health, NotReady) and health.stage not in told:
            told.add(health.stage)
            listener.says(f"waiting for the backend: {health.state}")

    await client.wait_ready(plan.wait_s, show)
    try:
        return await client.info()
    except OurError:
        return None


class _Load:
    """A backend under load; a context manager."""

    def __init__(self, plan: Plan, subject: Subject, listener: Listener) -> None:
        self._plan = plan
        self._subject = subject
        self._listener = listener
        self._limits = limits_of(plan.tier, subject.hidden_size)
        self._contexts = Contexts(
            plan.seed,
            plan.tier.max_context_chars,
            open_texts(plan.texts),
            is_full_length=plan.is_full_length,
            pool=_pool_size(plan),
        )
        self._n_runs = 0
        headers = self._question("-").headers()
        if plan.accept is not None:
            headers["Accept"] = plan.accept
        headers["Accept-Encoding"] = "identity"
        self._connections = Connections(
            plan.url.rstrip("/"), subject.api_path, headers, self._limits.max_bytes
        )
        self._checker = Checker()
        self._generator = Generator(
            self._connections,
            self._checker,
            lambda: self._question(self._contexts.draw()),
            plan.tier.timeout_s,
            plan.max_in_flight,
        )

    def __enter__(self) -> Self:
        self._checker.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._connections.close()
        self._checker.__exit__(*exc)

    def expect(self, hidden_size: int) -> Subject:
        """Ask this width of every reply from now on."""
        self._limits = replace(self._limits, hidden_size=hidden_size)
        self._subject = replace(self._subject, hidden_size=hidden_size)
        return self._subject

    async def first(self) -> tuple[Outcome, int]:
        """Send one request that does not count; return its outcome and the width of its reply."""
        timeout_s = max(FIRST_TIMEOUT_S, self._plan.tier.timeout_s)
        return await self._generator.ask(self._question(self._contexts.draw()), timeout_s)

    async def measure_outcomes(
        self, rate_rps: float, duration_s: float, warm_up_s: float
    ) -> list[Outcome]:
        """Send at a rate; return the outcomes after the warm-up, due from 0 on."""
        rng = np.random.default_rng([self._plan.seed, self._n_runs])
        self._n_runs += 1
        before = poisson_arrivals(rng, rate_rps, warm_up_s) if warm_up_s > 0 else np.empty(0)
        due = np.concatenate([before, warm_up_s + poisson_arrivals(rng, rate_rps, duration_s)])
        self._listener.begins(f"{rate_rps:.3g} requests a second", len(due))
        found = await self._generator.run(due.tolist(), self._listener.ends)
        return [
            replace(each, due_s=each.due_s - warm_up_s) for each in found if each.due_s >= warm_up_s
        ]

    async def search(self, start: Figures) -> Knee:
        """Find the highest rate that is served."""
        end_s = time.monotonic() + self._plan.search_s
        return await find_knee(
            start,
            self._step,
            max_rate_rps=self._plan.max_rate_rps,
            has_time=lambda: time.monotonic() < end_s,
        )

    async def _step(self, rate_rps: float) -> Figures:
        await self._settle()
        longest_s = min(MAX_STEP_S, self._plan.duration_s)
        duration_s = min(longest_s, max(MIN_STEP_S, STEP_REQUESTS / rate_rps))
        warm_up_s = min(STEP_WARM_UP_S, self._plan.warm_up_s)
        outcomes = await self.measure_outcomes(rate_rps, duration_s, warm_up_s)
        found = figures_of(outcomes, rate_rps, duration_s, self._plan.tier.timeout_s)
        told = "good" if found.is_pass else f"not good: {'; '.join(found.faults)}"
        self._listener.says(f"{rate_rps:.3g} requests a second: {told}")
        return found

    async def _settle(self) -> None:
        """Wait until the backend answers one request alone in time."""
        end_s = time.monotonic() + SETTLE_S
        while time.monotonic() < end_s:
            question = self._question(self._contexts.draw())
            outcome, _ = await self._generator.ask(question, self._plan.tier.timeout_s)
            if outcome.is_good:
                return
            await asyncio.sleep(0.5)

    def _question(self, context: str) -> Question:
        return Question(
            context,
            max_condensed_tokens=self._plan.tier.max_condensed_tokens,
            target_model=self._subject.target_model,
            limits=self._limits,
            estimate_tokens=most_tokens,
        )


def _pool_size(plan: Plan) -> int:
    if plan.finds_max:
        return POOL
    n_requests = plan.rate_rps * (plan.duration_s + plan.warm_up_s)
    return min(POOL, math.ceil(n_requests) + 2)
