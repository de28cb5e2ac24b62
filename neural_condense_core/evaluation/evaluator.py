"""The evaluation: condensers x ratios x tasks, each beside every baseline at equal length.

Where it sits: between the items (``tasks.py``) and the report; every number comes from the judge
that scores miners.

Design decisions

* What does not depend on a condenser (``none``, ``full``, the full text of another document) is
  measured once a task.
* One method at one ratio runs through all tasks before the next one does: tasks share what it made
  of their contexts, and no more is kept than one method's tokens.
* Query-aware methods are left out where the text is to be repeated, which asks nothing.
* A baseline is run at the very number of tokens that the compared condenser made of each document,
  once for each such list of numbers: condensers of equal length share their baselines.
* A condenser that lacks some of the ratios is left out at those, and the report says so.
* A row's name says which method it is of: names that stand for two methods are refused.
* For the disturbance ``dtype`` a second target model reads the same tokens; the same items count,
  and its own ends of the scale stand beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
from neural_condense_core.condensers.registry import BASELINES, QUERY_AWARE_BASELINES
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.comparisons import compared
from neural_condense_core.evaluation.condensing import Condensed, Condensing, promised
from neural_condense_core.evaluation.examples import Examples
from neural_condense_core.evaluation.metrics import Outcome, Row, Variant, rows_of
from neural_condense_core.evaluation.perturbation import perturb
from neural_condense_core.evaluation.probes import Probe, TaskName
from neural_condense_core.evaluation.reading import Ends, Reading, Segments, read, read_ends
from neural_condense_core.evaluation.written import Reply, is_written, write
from neural_condense_core.llm.base import TargetLLM, TokenIds, as_segment
from neural_condense_core.llm.prompt import CONTINUE_INSTRUCTION
from neural_condense_core.scoring.judge import Mask, Score, derangement

POSITIONS = ("plain", "explicit")
ENDS_OF_THE_SCALE = ("none", "full")
"""Names of the rows without a condenser."""
TRAINING_FREE = (*BASELINES, *QUERY_AWARE_BASELINES)
OTHER_DTYPE = "dtype"

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
    greedy_limit : items a task that the model also writes for by itself, the slow part; 0 = none
    examples : of those, how many are told in full
    """

    ratios: tuple[float, ...] = (4.0,)
    positions: tuple[str, ...] = ("plain",)
    perturbations: tuple[str, ...] = ("none",)
    seed: int = 0
    greedy_limit: int = 16
    examples: int = 3


@dataclass(eq=False)
class _Study:
    """A task under evaluation: its items, what is swapped, the ends of the scale, rows so far."""

    task: TaskName
    probes: Sequence[Probe]
    others: list[int]
    ends: Ends
    ends_elsewhere: Ends | None
    rows: list[Row] = field(default_factory=list)
    seen: set[tuple[str, float, tuple[int, ...]]] = field(default_factory=set)

    @property
    def kept(self) -> Mask:
        return self.ends.reference.kept

    @property
    def asks_nothing(self) -> bool:
        return self.probes[0].task == "reconstruction"


class Evaluator:
    """Runs an evaluation.

    Parameters
    ----------
    target : the model that reads
    condensers : what is compared, at least one; each by a name of its own
    baselines : what each is compared with, at its own length
    config : ratios and variants
    elsewhere : the same model in another dtype, for the disturbance ``dtype``
    progress : told of each step
    clock : seconds, for ``encode_ms``

    Attributes
    ----------
    examples : what the model wrote behind no context, the full text and the compared condensers
    notes : what was left out and why
    """

    def __init__(
        self,
        target: TargetLLM,
        condensers: Sequence[Condenser],
        baselines: Sequence[BudgetedCondenser],
        config: EvaluationConfig,
        *,
        elsewhere: TargetLLM | None = None,
        progress: Progress = lambda label, done, total: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.target = target
        self.condensers = condensers
        self.baselines = baselines
        self.config = config
        self.examples = Examples(target, config.examples)
        self.notes: list[str] = []
        self._elsewhere = elsewhere
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
            A condenser offers none of the ratios, is for another target model, has another
            tokenizer than that, or bears the name of another one or of a baseline; or no second
            target model is there for ``dtype``.
        """
        self._check_names()
        for condenser in self.condensers:
            if condenser.target_model != self.target.name:
                raise ConfigError(
                    f"{condenser.name} condenses for {condenser.target_model!r}, "
                    f"not for {self.target.name!r}"
                )
            if not condenser.reads_target_tokens:
                raise ConfigError(
                    f"{condenser.name} tokenizes otherwise than {self.target.name}, so it cannot "
                    "be compared at equal numbers of tokens"
                )
            if not any(_offers(condenser, ratio) for ratio in self.config.ratios):
                ratios = ", ".join(f"{ratio:g}" for ratio in self.config.ratios)
                offered = ", ".join(f"{offer:g}" for offer in condenser.ratios or ())
                raise ConfigError(
                    f"{condenser.name} does not offer ratio {ratios}; it offers {offered}"
                )
        if OTHER_DTYPE in self.config.perturbations and self._elsewhere is None:
            raise ConfigError(f"the disturbance {OTHER_DTYPE!r} needs the target in another dtype")

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

    def run(self, probes_by_task: Mapping[TaskName, Sequence[Probe]]) -> list[Row]:
        """Evaluate every condenser at every ratio on every task; rows come task by task."""
        self.check()
        pairs = list(self._pairs())
        methods = 1 + len(self.baselines)
        self._done, self._total = 0, len(probes_by_task) * (1 + len(pairs) * methods)
        studies = [self._study(task, probes) for task, probes in probes_by_task.items()]
        for ratio, condenser in pairs:
            for method in (condenser, *self.baselines):
                condensing = Condensing(method, ratio, self._query, self._clock, self._orders)
                for study in studies:
                    self._run(study, condenser, condensing)
                    self._step(f"{study.task}: {method.name} at {ratio:g}x")
        return compared([row for study in studies for row in study.rows], self.config.seed)

    def _pairs(self) -> Iterator[tuple[float, Condenser]]:
        for ratio in self.config.ratios:
            for condenser in self.condensers:
                if _offers(condenser, ratio):
                    yield ratio, condenser
                else:
                    self.notes.append(f"{condenser.name} does not offer ratio {ratio:g}")

    def _study(self, task: TaskName, probes: Sequence[Probe]) -> _Study:
        others = derangement(
            [probe.document for probe in probes],
            [probe.swap_group for probe in probes],
            self.config.seed,
        )
        texts = [probes[other].context_ids for other in others]
        elsewhere = self._elsewhere if OTHER_DTYPE in self.config.perturbations else None
        study = _Study(
            task,
            probes,
            others,
            read_ends(self.target, probes, texts),
            read_ends(elsewhere, probes, texts) if elsewhere else None,
        )
        for name, reading, contexts in (
            ("none", study.ends.none, [None] * len(probes)),
            ("full", study.ends.full, [TokenIds(probe.context_ids) for probe in probes]),
        ):
            self._record(study, Variant(name), reading, contexts, shown=True)
        self._step(f"{task}: none, full")
        return study

    def _run(self, study: _Study, condenser: Condenser, condensing: Condensing) -> None:
        method = condensing.method
        budgets = promised(condenser, study.probes, condensing.ratio)
        key = (method.name, condensing.ratio, budgets)
        if key in study.seen or (method.query_aware and study.asks_nothing):
            return
        study.seen.add(key)
        condensed = condensing.condense(study.probes, study.others, budgets)
        plain = Variant(
            method.name,
            condensing.ratio,
            query_aware=method.query_aware,
            n_condensed=tuple(tokens.n_condensed_tokens for tokens in condensed.own),
            hidden_size=self.target.hidden_size,
            encode_ms=tuple(condensed.encode_ms.tolist()),
        )
        for variant in self._variants(plain, condensed):
            own, other = (
                [
                    as_segment(
                        perturb(tokens, variant.perturbation, self.config.seed),
                        explicit_positions=variant.positions == "explicit",
                    )
                    for tokens in side
                ]
                for side in (condensed.own, condensed.other)
            )
            reader = self._reader(variant)
            reading = read(reader, study.probes, own, other)
            untouched = (variant.positions, variant.perturbation) == ("plain", "none")
            shown = untouched and method in self.condensers
            self._record(study, variant, reading, own, shown=shown)

    def _variants(self, plain: Variant, condensed: Condensed) -> Iterator[Variant]:
        placed = all(tokens.positions is not None for tokens in condensed.own)
        for positions in self.config.positions:
            if positions == "plain" or placed:
                for perturbation in self.config.perturbations:
                    yield replace(plain, positions=positions, perturbation=perturbation)

    def _reader(self, variant: Variant) -> TargetLLM:
        if variant.perturbation == OTHER_DTYPE and self._elsewhere is not None:
            return self._elsewhere
        return self.target

    def _record(
        self,
        study: _Study,
        variant: Variant,
        reading: Reading,
        contexts: Segments,
        *,
        shown: bool,
    ) -> None:
        elsewhere = variant.perturbation == OTHER_DTYPE
        ends = study.ends_elsewhere if elsewhere and study.ends_elsewhere else study.ends
        score = Score(reading.losses, reading.other, ends.reference)
        replies = self._written(study, contexts, self._reader(variant))
        outcome = Outcome(score, reading.hits, ends, study.kept, replies)
        study.rows += rows_of(study.task, study.probes, outcome, variant, self.config.seed)
        if shown:
            self.examples.add(study.task, study.probes, replies, variant)

    def _written(self, study: _Study, contexts: Segments, reader: TargetLLM) -> dict[int, Reply]:
        chosen = np.flatnonzero(study.kept)[: self.config.greedy_limit].tolist()
        if not chosen or not is_written(study.probes[0]):
            return {}
        replies = write(reader, [study.probes[i] for i in chosen], [contexts[i] for i in chosen])
        return dict(zip(chosen, replies, strict=True))

    def _query(self, probe: Probe) -> str:
        """Return what a query-aware method is told: the question, or the text that goes on."""
        written = self.target.decode(probe.bridge_ids).strip()
        return probe.question or written or CONTINUE_INSTRUCTION

    def _step(self, label: str) -> None:
        self._done += 1
        self._progress(label, self._done, self._total)


def _offers(condenser: Condenser, ratio: float) -> bool:
    return condenser.ratios is None or ratio in condenser.ratios
