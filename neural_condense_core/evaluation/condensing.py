"""Condensing for an evaluation: every distinct context once, at equal length, and how long it took.

Where it sits: the evaluation makes one ``Condensing`` a method and ratio and uses it for all tasks.

Design decisions

* Tasks that ask about the same contexts share what was condensed; a query-aware method shares only
  what was condensed for the same query, and condenses the other document for the same query as its
  own.
* Milliseconds are taken one document at a time, each after a run of another one of its length:
  the first run of a shape pays for compiling kernels. Both are the document with its tokens in an
  order that no run before had, in the whole evaluation: of a document that was seen before, a
  method would only find what it, or another method, has kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.scoring.recovery import Floats
from neural_condense_core.tokens import CondensedTokens

BATCH = 16
TIMED_DOCUMENTS = 8


@dataclass(frozen=True)
class Request:
    """One condensation: a context, for a query, to a length."""

    context: tuple[int, ...]
    query: str | None
    n_condensed: int


@dataclass(frozen=True, eq=False)
class Condensed:
    """Tokens of each item's own context and of its other one.

    Parameters
    ----------
    own, other : one an item
    encode_ms : (n_items,) milliseconds of an item's own context, NaN where it was not timed
    """

    own: list[CondensedTokens]
    other: list[CondensedTokens]
    encode_ms: Floats


class Condensing:
    """One method at one ratio, over the tasks of an evaluation.

    Parameters
    ----------
    method : the condenser
    ratio : compression ratio
    query_of : what a query-aware method is told of an item
    clock : seconds
    orders : draws the orders in which timed documents are run
    """

    def __init__(
        self,
        method: Condenser,
        ratio: float,
        query_of: Callable[[Probe], str],
        clock: Callable[[], float],
        orders: np.random.Generator,
    ) -> None:
        self.method = method
        self.ratio = ratio
        self._query_of = query_of
        self._clock = clock
        self._orders = orders
        self._made: dict[Request, CondensedTokens] = {}
        self._ms: dict[Request, float] = {}

    def condense(
        self, probes: Sequence[Probe], others: Sequence[int], budgets: Sequence[int]
    ) -> Condensed:
        """Condense each item's own context and its other one.

        Parameters
        ----------
        others : per item which item's context stands in as the other one
        budgets : per item how many tokens its context becomes
        """

        def request(asking: int, holding: int) -> Request:
            query = self._query_of(probes[asking]) if self.method.query_aware else None
            return Request(probes[holding].context_ids, query, budgets[holding])

        own = [request(i, i) for i in range(len(probes))]
        other = [request(i, holding) for i, holding in enumerate(others)]
        distinct = sorted(dict.fromkeys([*own, *other]), key=lambda r: len(r.context))
        missing = [request for request in distinct if request not in self._made]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            self._made.update(zip(batch, self._run(batch), strict=True))
        if missing:
            self._time(missing)
        ms = [self._ms.get(request, np.nan) for request in own]
        return Condensed(
            [self._made[r] for r in own], [self._made[r] for r in other], np.array(ms, float)
        )

    def _time(self, requests: Sequence[Request]) -> None:
        for request in requests[:: max(1, len(requests) // TIMED_DOCUMENTS)]:
            warm_up, timed = (
                replace(request, context=tuple(self._orders.permutation(request.context).tolist()))
                for _ in range(2)
            )
            self._run([warm_up])
            start = self._clock()
            self._run([timed])
            self._ms[request] = 1000 * (self._clock() - start)

    def _run(self, requests: Sequence[Request]) -> list[CondensedTokens]:
        """Condense a batch.

        Raises
        ------
        ConfigError
            The condenser made another number of tokens than it promised, so that nothing could be
            compared at equal length.
        """
        method = self.method
        contexts = [request.context for request in requests]
        queries = [request.query for request in requests if request.query is not None] or None
        if isinstance(method, BudgetedCondenser):
            # condensers of a fixed number of tokens may make more of a short context than it has
            budgets = [min(request.n_condensed, len(request.context)) for request in requests]
            return method.condense_to(contexts, budgets, queries=queries)
        made = method.condense(contexts, self.ratio, queries=queries)
        for request, tokens in zip(requests, made, strict=True):
            if tokens.n_condensed_tokens != request.n_condensed:
                raise ConfigError(
                    f"{method.name} made {tokens.n_condensed_tokens} condensed tokens of "
                    f"{len(request.context)} at ratio {self.ratio:g} "
                    f"and promised {request.n_condensed}"
                )
        return made


def promised(condenser: Condenser, probes: Sequence[Probe], ratio: float) -> tuple[int, ...]:
    """Return how many tokens a condenser makes of each item's context."""
    return tuple(condenser.n_condensed_tokens(len(probe.context_ids), ratio) for probe in probes)
