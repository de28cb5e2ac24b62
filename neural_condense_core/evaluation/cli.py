"""The command ``condense eval``.

Design decisions

* What is wrong with the command line is found before a model is loaded or a file read; a missing
  checkpoint before anything is measured.
* Progress and the table go to stderr; with ``--json -`` stdout holds the JSON and nothing else.
* ``--from`` shows, and never measures; it loads no model.
* Without a file the generated tasks run: the command needs no data to be tried.
* Heavy imports happen inside the functions: ``condense --help`` loads none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from neural_condense_core.console import check_writable, messages, write_bytes, write_json
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.options import (
    DTYPES,
    MAX_LENGTH,
    Options,
    check_files,
    chosen,
    integers,
    ratios_of,
    seeds_of,
    words,
)

if TYPE_CHECKING:
    from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
    from neural_condense_core.evaluation.break_even import Costs
    from neural_condense_core.evaluation.evaluator import Evaluator, Progress
    from neural_condense_core.evaluation.metrics import Row
    from neural_condense_core.evaluation.probes import TaskName
    from neural_condense_core.evaluation.report import Report
    from neural_condense_core.llm.base import TargetLLM
    from neural_condense_core.llm.hf import HFTarget


def evaluate(
    condensers: Annotated[
        str | None, typer.Option(help="Names, checkpoint folders or module:Class, with commas.")
    ] = None,
    ratios: Annotated[str, typer.Option(help="Compression ratios, with commas.")] = "4",
    prose: Annotated[Path | None, typer.Option(help="Parquet: source, title, text.")] = None,
    qa: Annotated[
        Path | None, typer.Option(help="Parquet: source, group, context, question, answers.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Target model; default: the first condenser's own.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Of continuation, answer, cloze, reconstruction, recall, needle, counterfactual; "
            "default: the first two as the files allow, the last without a file."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Most items a task.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same items.")] = 0,
    seeds: Annotated[
        str | None, typer.Option(help="Repeat it all with these seeds, with commas.")
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="Context tokens of needle and continuation, with commas."),
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="PATH", help="Write the report as JSON; - = stdout.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as markdown.")] = None,
    positions: Annotated[str, typer.Option(help="Of plain, explicit, with commas.")] = "plain",
    perturb: Annotated[
        str | None,
        typer.Option(help="Of noise, int8, dtype, with commas; beside undisturbed rows."),
    ] = None,
    greedy_limit: Annotated[
        int,
        typer.Option(
            "--greedy_limit",
            min=0,
            help="Items a task that the model also writes for by itself.",
        ),
    ] = 16,
    examples: Annotated[
        int, typer.Option(min=0, help="Of those, how many the JSON tells with their texts.")
    ] = 3,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda:0, ...")] = "cpu",
    costs: Annotated[
        bool,
        typer.Option(
            "--costs", help="Also time condensing and reading, --lengths or 128 to 1,024."
        ),
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--report", help="Write one page with plots, as HTML.")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="With --from: write the model card of this checkpoint folder."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Measure nothing; read the JSON of an evaluation."),
    ] = None,
) -> None:
    """Measure condensers beside every training-free baseline at equal length."""
    from neural_condense_core.evaluation.evaluator import POSITIONS
    from neural_condense_core.evaluation.perturbation import PERTURBATIONS
    from neural_condense_core.evaluation.tasks import TASKS

    if source is not None:
        _publish_again(source, _Places(json, markdown, html), card)
        return
    given = None if tasks is None else chosen("--tasks", tasks, TASKS)
    all_seeds = () if seeds is None else seeds_of(seeds)
    options = Options(
        condensers=_to_measure(condensers, card),
        ratios=ratios_of(ratios),
        prose=prose,
        qa=qa,
        target=target,
        tasks=cast("tuple[TaskName, ...] | None", given),
        limit=limit,
        seed=all_seeds[0] if all_seeds else seed,
        seeds=all_seeds,
        lengths=None if lengths is None else integers("--lengths", lengths, 1, MAX_LENGTH),
        positions=chosen("--positions", positions, POSITIONS),
        perturb=chosen("--perturb", perturb, PERTURBATIONS) if perturb else (),
        greedy_limit=greedy_limit,
        examples=examples,
        dtype=chosen("--dtype", dtype, DTYPES)[0],
        device=device,
        costs=costs,
    )
    places = _Places(json, markdown, html)
    places.check()
    check_files(options)
    with _progress() as progress:
        report = run(options, progress)
    _publish(report, places)


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
    from neural_condense_core.condensers.registry import BASELINES, QUERY_AWARE_BASELINES
    from neural_condense_core.evaluation.comparisons import with_seeds
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
    baselines = [loaded(name, target.name) for name in (*BASELINES, *QUERY_AWARE_BASELINES)]
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
        notes=tuple(evaluators[0].notes),
        costs=_costs(options, target, condensers, progress) if options.costs else None,
    )


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


def _to_measure(condensers: str | None, card: Path | None) -> tuple[str, ...]:
    """Return the names to measure.

    Raises
    ------
    ConfigError
        There are none, or a card is asked for, which is written from a report's file.
    """
    if condensers is None:
        raise ConfigError("give --condensers NAMES to measure, or --from REPORT.json to show")
    if card is not None:
        raise ConfigError("--card goes with --from REPORT.json: a card quotes that file's hash")
    return words("--condensers", condensers)


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = messages()
    if not console.is_terminal:  # a bar would show nothing until the end

        def line(label: str, done: int, total: int) -> None:
            console.print(f"{done} of {total}: {label}", soft_wrap=True)

        yield line
        return
    bar = Bar(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("loading", total=None)
        yield lambda label, done, total: bar.update(
            task, description=label, completed=done, total=total
        )


@dataclass(frozen=True)
class _Places:
    """Where a report goes."""

    json: str | None
    markdown: Path | None
    html: Path | None

    def check(self) -> None:
        for place in (self.json, self.markdown, self.html):
            check_writable(place)


def _publish(report: Report, places: _Places) -> None:
    from neural_condense_core.evaluation.report import LEGEND

    console = messages()
    for table in report.to_tables():
        console.print(table)
    console.print(LEGEND)
    if report.costs is not None:
        console.print(report.costs.to_table())
    for note in report.notes:
        console.print(note)
    if places.markdown is not None:
        write_bytes(str(places.markdown), report.to_markdown().encode())
    if places.html is not None:
        from neural_condense_core.evaluation.html_report import to_html

        write_bytes(str(places.html), to_html(report).encode())
    write_json(places.json, report.as_json())


def _publish_again(source: Path, places: _Places, card: Path | None) -> None:
    """Publish a report that was written before; what was measured is in its file."""
    from neural_condense_core.evaluation.report_file import read_report

    places.check()
    _publish(read_report(source), places)
    if card is not None:
        from neural_condense_core.evaluation.model_card import write_card

        messages().print(f"Wrote {write_card(card, source)}", markup=False, soft_wrap=True)
