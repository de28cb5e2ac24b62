"""One evaluation from its options to its report: what ``condense eval`` does, without a terminal.

``cli.py`` and ``__main__.py`` are two ways to give the options. Heavy imports happen inside the
functions, so that what is wrong with a line is told at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.options import Options

if TYPE_CHECKING:
    from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
    from neural_condense_core.evaluation.break_even import Costs
    from neural_condense_core.evaluation.evaluator import Evaluator, Progress
    from neural_condense_core.evaluation.metrics import Row
    from neural_condense_core.evaluation.report import Report
    from neural_condense_core.llm.base import TargetLLM
    from neural_condense_core.llm.hf import HFTarget


def run(options: Options, progress: Progress = lambda label, done, total: None) -> Report:
    """Run an evaluation.

    Parameters
    ----------
    options : what to compare on what
    progress : told of each step

    Raises
    ------
    ConfigError
        A file, ratio or task does not fit; a missing checkpoint is one too.
    """
    from neural_condense_core.condensers.checkpoints import load_condenser, resolve
    from neural_condense_core.evaluation.comparisons import with_seeds
    from neural_condense_core.evaluation.evaluator import TRAINING_FREE
    from neural_condense_core.evaluation.report import Report

    for spec in options.condensers:
        resolve(spec)
    from neural_condense_core.llm.hf import load_target  # seconds to import, a typo costs none

    device, dtype = options.device, options.dtype

    def loaded(spec: str, target: str | None) -> Condenser:
        return load_condenser(spec, target, device=device, dtype=dtype)

    condensers = [loaded(spec, options.target) for spec in options.condensers]
    names = [condenser.target_model for condenser in condensers]
    if len(set(names)) > 1:
        raise ConfigError(
            f"the condensers are for different target models ({', '.join(sorted(set(names)))}); "
            "evaluate those of one at a time"
        )
    _name_apart(options.condensers, condensers)
    # the same positional arguments as in the condensers: one cached model for all
    target = load_target(names[0], device, dtype)
    compared = TRAINING_FREE if options.baselines is None else options.baselines
    baselines = [loaded(name, target.name) for name in compared]
    evaluators = [
        _evaluator(options, seed, target, condensers, baselines, progress)
        for seed in options.all_seeds
    ]
    for evaluator in evaluators:
        evaluator.check()
    runs = [_run(evaluator, options) for evaluator in evaluators]
    rows = with_seeds(runs)
    return Report(
        target=target.name,
        seed=options.seed,
        limit=options.limit,
        dtype=str(target.dtype).removeprefix("torch."),
        command=options.command,
        rows=tuple(rows),
        tasks=tuple(dict.fromkeys(row.task for row in rows)),
        seeds=options.all_seeds,
        hidden_size=target.hidden_size,
        examples=tuple(evaluators[0].examples.as_json()),
        notes=(*evaluators[0].notes, *_left_out(compared)),
        costs=_costs(options, target, condensers, progress) if options.costs else None,
    )


def _left_out(compared: Sequence[str]) -> Iterator[str]:
    """Say which baselines were not asked for: the best of fewer is easier to beat."""
    from neural_condense_core.evaluation.evaluator import TRAINING_FREE

    if missing := [name for name in TRAINING_FREE if name not in compared]:
        yield f"not compared with {', '.join(missing)}: the best baseline is the best of the others"


def _costs(
    options: Options, target: HFTarget, condensers: Sequence[Condenser], progress: Progress
) -> Costs:
    from neural_condense_core.evaluation.costs import LENGTHS, Grid, measure_costs

    grid = Grid(options.ratios, options.lengths or LENGTHS, seed=options.seed)
    return measure_costs(target, condensers, grid, time.perf_counter, progress)


def _evaluator(
    options: Options,
    seed: int,
    target: HFTarget,
    condensers: Sequence[Condenser],
    baselines: Sequence[Condenser],
    progress: Progress,
) -> Evaluator:
    from neural_condense_core.evaluation.evaluator import OTHER_DTYPE, EvaluationConfig, Evaluator
    from neural_condense_core.llm.hf import load_target

    elsewhere: TargetLLM | None = None
    if OTHER_DTYPE in options.perturb:
        other = "float32" if str(target.dtype) == "torch.bfloat16" else "bfloat16"
        elsewhere = load_target(target.name, options.device, other)
    return Evaluator(
        target,
        condensers,
        cast("Sequence[BudgetedCondenser]", baselines),
        EvaluationConfig(
            options.ratios,
            options.positions,
            tuple(dict.fromkeys(("none", *options.perturb))),
            seed,
            options.greedy_limit,
            options.examples,
        ),
        elsewhere=elsewhere,
        progress=progress,
    )


def _run(evaluator: Evaluator, options: Options) -> list[Row]:
    from neural_condense_core.evaluation.tasks import ItemsConfig, build_items

    items = ItemsConfig(
        options.tasks,
        options.prose,
        options.qa,
        options.limit,
        evaluator.config.seed,
        options.lengths,
    )
    return evaluator.run(build_items(evaluator.target, items))


def _name_apart(specs: Sequence[str], condensers: Sequence[Condenser]) -> None:
    """Call condensers of one name (folders of one name, say) as the command line does."""
    names = [condenser.name for condenser in condensers]
    while shared := {name for name in names if names.count(name) > 1}:
        names = [spec if name in shared else name for spec, name in zip(specs, names, strict=True)]
    for condenser, name in zip(condensers, names, strict=True):
        condenser.name = name
