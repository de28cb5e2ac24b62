"""The evaluation: condensers x ratios x tasks, each beside every baseline at equal length.

Where it sits: between the items (``tasks.py``) and the report; every number comes from the judge
that scores miners.

Design decisions

* What does not depend on a condenser (``none``, ``full``, the full text of another document) is
  measured once a task.
* Query-aware methods are left out of ``reconstruction``, which asks nothing.
* A baseline is run at the very number of tokens that the compared condenser made of each document,
  once for each such list of numbers: condensers of equal length share their baselines.
* A query-aware method condenses the other document for the same query as its own.
* A row's name says which method it is of: names that stand for two methods are refused.
* Milliseconds are taken one document at a time, each after a run of another one of its length:
  the first run of a shape pays for compiling kernels. Both are the document with its tokens in an
  order that no run before had, in the whole evaluation: of a document that was seen before, a
  method would only find what it, or another method, has kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
from neural_condense_core.condensers.registry import BASELINES, QUERY_AWARE_BASELINES
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.metrics import Row, Variant, greedy_accuracy, rows_of
from neural_condense_core.evaluation.perturbation import perturb
from neural_condense_core.llm.base import Segment, TargetLLM, TokenIds, as_segment
from neural_condense_core.llm.prompt import CONTINUE_INSTRUCTION
from neural_condense_core.scoring.judge import (
    Item,
    Reference,
    Score,
    Task,
    derangement,
    judge,
    measure_reference,
)
from neural_condense_core.scoring.recovery import Floats
from neural_condense_core.tokens import CondensedTokens

POSITIONS = ("plain", "explicit")
ENDS_OF_THE_SCALE = ("none", "full")
"""Names of the rows without a condenser."""
TRAINING_FREE = (*BASELINES, *QUERY_AWARE_BASELINES)
BATCH = 16
TIMED_DOCUMENTS = 8

Progress = Callable[[str, int, int], None]
"""Called with what was done, how many steps are done, and how many there are."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What to compare.

    Parameters
    ----------
    ratios : compression ratios
    positions : of ``POSITIONS``
    perturbations : of ``PERTURBATIONS``
    seed : of the swapped documents, noise, intervals, and the documents that are timed
    greedy_limit : reconstruction items that the model also writes by itself, the slow part;
        0 = none
    """

    ratios: tuple[float, ...] = (4.0,)
    positions: tuple[str, ...] = ("plain",)
    perturbations: tuple[str, ...] = ("none",)
    seed: int = 0
    greedy_limit: int = 16


@dataclass(frozen=True)
class _Request:
    """One condensation: a context, for a query, to a length."""

    context: tuple[int, ...]
    query: str | None
    n_condensed: int


@dataclass(frozen=True, eq=False)
class _Condensed:
    """Tokens of each item's own context and of its other one."""

    own: list[CondensedTokens]
    other: list[CondensedTokens]
    encode_ms: float


class Evaluator:
    """Runs an evaluation.

    Parameters
    ----------
    target : the model that reads
    condensers : what is compared, at least one; each by a name of its own
    baselines : what each is compared with, at its own length
    config : ratios and variants
    progress : told of each step
    clock : seconds, for ``encode_ms``
    """

    def __init__(
        self,
        target: TargetLLM,
        condensers: Sequence[Condenser],
        baselines: Sequence[BudgetedCondenser],
        config: EvaluationConfig,
        *,
        progress: Progress = lambda label, done, total: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.target = target
        self.condensers = condensers
        self.baselines = baselines
        self.config = config
        self._progress = progress
        self._clock = clock
        self._orders = np.random.default_rng(config.seed)
        self._done = 0
        self._total = 0

    def check(self) -> None:
        """Refuse what cannot be compared, before anything is measured.

        Raises
        ------
        ConfigError
            A condenser does not offer a ratio, is for another target model, or bears the name of
            another one or of a baseline.
        """
        self._check_names()
        for condenser in self.condensers:
            if condenser.target_model != self.target.name:
                raise ConfigError(
                    f"{condenser.name} condenses for {condenser.target_model!r}, "
                    f"not for {self.target.name!r}"
                )
            for ratio in self.config.ratios:
                if condenser.ratios is not None and ratio not in condenser.ratios:
                    offered = ", ".join(f"{offer:g}" for offer in condenser.ratios)
                    raise ConfigError(
                        f"{condenser.name} does not offer ratio {ratio:g}; it offers {offered}"
                    )

    def _check_names(self) -> None:
        kinds = {baseline.name: type(baseline) for baseline in self.baselines}
        names = [condenser.name for condenser in self.condensers]
        for name, condenser in zip(names, self.condensers, strict=True):
            if names.count(name) > 1:
                raise ConfigError(f"two condensers are called {name!r}; rename one of them")
            if name in ENDS_OF_THE_SCALE or (
                name in TRAINING_FREE
                and not isinstance(condenser, kinds.get(name, BudgetedCondenser))
            ):
                raise ConfigError(
                    f"a trained condenser is called {name!r}, as other rows of the result are; "
                    "rename its folder"
                )

    def run(self, items_by_task: Mapping[Task, Sequence[Item]]) -> list[Row]:
        """Evaluate every condenser at every ratio on every task."""
        self.check()
        methods = len(self.condensers) * (1 + len(self.baselines))
        self._done, self._total = 0, len(items_by_task) * (1 + len(self.config.ratios) * methods)
        rows = []
        for task, items in items_by_task.items():
            rows += self._run_task(task, items)
        return rows

    def _run_task(self, task: Task, items: Sequence[Item]) -> list[Row]:
        others = derangement(
            [item.document for item in items], [item.source for item in items], self.config.seed
        )
        reference = measure_reference(
            self.target, items, [items[other].context_ids for other in others]
        )
        rows = self._ends_of_the_scale(items, reference)
        self._step(f"{task}: none, full")
        for ratio in self.config.ratios:
            seen: set[tuple[str, tuple[int, ...]]] = set()
            for condenser in self.condensers:
                budgets = _promised(condenser, items, ratio)
                for method in (condenser, *self.baselines):
                    key = (method.name, budgets)
                    if key not in seen and not (method.query_aware and task == "reconstruction"):
                        seen.add(key)
                        condensed = self._condense(method, items, others, ratio, budgets)
                        rows += self._judged(method, items, ratio, condensed, reference)
                    self._step(f"{task}: {method.name} at {ratio:g}x")
        return rows

    def _ends_of_the_scale(self, items: Sequence[Item], reference: Reference) -> list[Row]:
        scores = (
            Score(reference.none, reference.none, reference),
            Score(reference.full, reference.full_other, reference),
        )
        texts: list[Segment | None] = [TokenIds(item.context_ids) for item in items]
        nothing: list[Segment | None] = [None] * len(items)
        return [
            row
            for name, score, contexts in zip(
                ENDS_OF_THE_SCALE, scores, (nothing, texts), strict=True
            )
            for row in rows_of(
                items,
                score,
                Variant(name),
                self._greedy(items, contexts, reference),
                self.config.seed,
            )
        ]

    def _judged(
        self,
        method: Condenser,
        items: Sequence[Item],
        ratio: float,
        condensed: _Condensed,
        reference: Reference,
    ) -> list[Row]:
        plain = Variant(
            method.name,
            ratio,
            query_aware=method.query_aware,
            n_condensed=tuple(tokens.n_condensed_tokens for tokens in condensed.own),
            encode_ms=condensed.encode_ms,
        )
        rows = []
        for variant in self._variants(plain, condensed):
            own, other = (
                [perturb(tokens, variant.perturbation, self.config.seed) for tokens in side]
                for side in (condensed.own, condensed.other)
            )
            explicit = variant.positions == "explicit"
            score = judge(self.target, items, own, other, reference, explicit_positions=explicit)
            segments = [as_segment(tokens, explicit_positions=explicit) for tokens in own]
            greedy = self._greedy(items, segments, reference)
            rows += rows_of(items, score, variant, greedy, self.config.seed)
        return rows

    def _variants(self, plain: Variant, condensed: _Condensed) -> Iterator[Variant]:
        placed = all(tokens.positions is not None for tokens in condensed.own)
        for positions in self.config.positions:
            if positions == "plain" or placed:
                for perturbation in self.config.perturbations:
                    yield replace(plain, positions=positions, perturbation=perturbation)

    def _greedy(
        self, items: Sequence[Item], contexts: Sequence[Segment | None], reference: Reference
    ) -> Floats | None:
        chosen = np.flatnonzero(reference.kept)[: self.config.greedy_limit]
        if items[0].task != "reconstruction" or not len(chosen):
            return None
        found = np.full(len(items), np.nan)
        found[chosen] = greedy_accuracy(
            self.target, [items[i] for i in chosen], [contexts[i] for i in chosen]
        )
        return found

    def _condense(
        self,
        method: Condenser,
        items: Sequence[Item],
        others: Sequence[int],
        ratio: float,
        budgets: Sequence[int],
    ) -> _Condensed:
        """Condense each item's own context and its other one, every distinct one once."""

        def request(asking: int, holding: int) -> _Request:
            query = self._query(items[asking]) if method.query_aware else None
            return _Request(items[holding].context_ids, query, budgets[holding])

        own = [request(i, i) for i in range(len(items))]
        other = [request(i, holding) for i, holding in enumerate(others)]
        distinct = sorted(dict.fromkeys([*own, *other]), key=lambda r: len(r.context))
        made: dict[_Request, CondensedTokens] = {}
        for start in range(0, len(distinct), BATCH):
            batch = distinct[start : start + BATCH]
            made.update(zip(batch, _condensed(method, batch, ratio), strict=True))
        encode_ms = self._encode_ms(
            method, distinct[:: max(1, len(distinct) // TIMED_DOCUMENTS)], ratio
        )
        return _Condensed([made[r] for r in own], [made[r] for r in other], encode_ms)

    def _encode_ms(self, method: Condenser, requests: Sequence[_Request], ratio: float) -> float:
        times = []
        for request in requests:
            warm_up, timed = (
                replace(request, context=tuple(self._orders.permutation(request.context).tolist()))
                for _ in range(2)
            )
            _condensed(method, [warm_up], ratio)
            start = self._clock()
            _condensed(method, [timed], ratio)
            times.append(1000 * (self._clock() - start))
        return statistics.median(times)

    def _query(self, item: Item) -> str:
        """Return what a query-aware method is told: the question, or the text that goes on."""
        return item.question or self.target.decode(item.bridge_ids).strip() or CONTINUE_INSTRUCTION

    def _step(self, label: str) -> None:
        self._done += 1
        self._progress(label, self._done, self._total)


def _promised(condenser: Condenser, items: Sequence[Item], ratio: float) -> tuple[int, ...]:
    return tuple(condenser.n_condensed_tokens(len(item.context_ids), ratio) for item in items)


def _condensed(
    method: Condenser, requests: Sequence[_Request], ratio: float
) -> list[CondensedTokens]:
    """Condense a batch.

    Raises
    ------
    ConfigError
        The condenser made another number of tokens than it promised, so that nothing could be
        compared at equal length.
    """
    contexts = [request.context for request in requests]
    queries = [request.query for request in requests if request.query is not None] or None
    if isinstance(method, BudgetedCondenser):
        # condensers of a fixed number of tokens may make more of a short context than it has
        budgets = [min(request.n_condensed, len(request.context)) for request in requests]
        return method.condense_to(contexts, budgets, queries=queries)
    made = method.condense(contexts, ratio, queries=queries)
    for request, tokens in zip(requests, made, strict=True):
        if tokens.n_condensed_tokens != request.n_condensed:
            raise ConfigError(
                f"{method.name} made {tokens.n_condensed_tokens} condensed tokens of "
                f"{len(request.context)} at ratio {ratio:g} and promised {request.n_condensed}"
            )
    return made
