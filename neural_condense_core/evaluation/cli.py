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

from collections.abc import Iterator
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
from neural_condense_core.evaluation.session import run

if TYPE_CHECKING:
    from neural_condense_core.evaluation.evaluator import Progress
    from neural_condense_core.evaluation.probes import TaskName
    from neural_condense_core.evaluation.report import Report


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
    baselines: Annotated[
        str | None,
        typer.Option(help="Training-free methods to compare with, with commas; default: all."),
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
    from neural_condense_core.evaluation.evaluator import POSITIONS, TRAINING_FREE
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
        baselines=None if baselines is None else chosen("--baselines", baselines, TRAINING_FREE),
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
