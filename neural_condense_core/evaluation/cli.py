"""The command ``condense eval``.

Design decisions

* What is wrong with the command line is found before a model is loaded or a file read; a missing
  checkpoint before anything is measured.
* Progress and the table go to stderr; with ``--json -`` stdout holds the JSON and nothing else.
* The command in the report is put together from the options, so that it can be repeated.
* Heavy imports happen inside the functions: ``condense --help`` loads none.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.errors import ConfigError
from neural_condense_core.registry import suggest

if TYPE_CHECKING:
    from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
    from neural_condense_core.evaluation.evaluator import Progress
    from neural_condense_core.evaluation.report import Report
    from neural_condense_core.scoring.judge import Task

DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Options:
    """A checked command line; fields as the flags of the same name."""

    condensers: tuple[str, ...]
    ratios: tuple[float, ...] = (4.0,)
    prose: Path | None = None
    qa: Path | None = None
    target: str | None = None
    tasks: tuple[Task, ...] | None = None
    limit: int = 64
    seed: int = 0
    positions: tuple[str, ...] = ("plain",)
    perturb: tuple[str, ...] = ()
    greedy_limit: int = 16
    dtype: str = "auto"
    device: str = "cpu"

    @property
    def command(self) -> str:
        """The line that repeats the evaluation; options at their defaults are left out."""
        words = ["condense", "eval"]
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if name in _ALWAYS or value != default:
                text = ",".join(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
                words += [] if value is None else [f"--{name}", text]
        return shlex.join(words)


_ALWAYS = ("condensers", "ratios", "limit", "seed")
_DEFAULTS = {name: field.default for name, field in Options.__dataclass_fields__.items()}


def evaluate(
    condensers: Annotated[
        str, typer.Option(help="Names, checkpoint folders or module:Class, with commas.")
    ],
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
        typer.Option(help="Of continuation, answer, reconstruction; default: all possible."),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Most items a task.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same items.")] = 0,
    json: Annotated[
        str | None, typer.Option(metavar="PATH", help="Write the report as JSON; - = stdout.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as markdown.")] = None,
    positions: Annotated[str, typer.Option(help="Of plain, explicit, with commas.")] = "plain",
    perturb: Annotated[
        str | None, typer.Option(help="Of noise, int8, with commas; beside undisturbed rows.")
    ] = None,
    greedy_limit: Annotated[
        int,
        typer.Option(
            "--greedy_limit",
            min=0,
            help="Reconstruction items that the model also writes by itself.",
        ),
    ] = 16,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda:0, ...")] = "cpu",
) -> None:
    """Measure condensers beside every training-free baseline at equal length."""
    from neural_condense_core.evaluation.evaluator import POSITIONS
    from neural_condense_core.evaluation.perturbation import PERTURBATIONS
    from neural_condense_core.evaluation.tasks import TASKS

    options = Options(
        condensers=_words("--condensers", condensers),
        ratios=_ratios(ratios),
        prose=prose,
        qa=qa,
        target=target,
        tasks=None if tasks is None else cast("tuple[Task, ...]", _chosen("--tasks", tasks, TASKS)),
        limit=limit,
        seed=seed,
        positions=_chosen("--positions", positions, POSITIONS),
        perturb=_chosen("--perturb", perturb, PERTURBATIONS) if perturb else (),
        greedy_limit=greedy_limit,
        dtype=_chosen("--dtype", dtype, DTYPES)[0],
        device=device,
    )
    check_writable(json)
    check_writable(markdown)
    _check_files(options)
    with _progress() as progress:
        report = run(options, progress)
    _publish(report, json, markdown)


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
    from neural_condense_core.evaluation.evaluator import EvaluationConfig, Evaluator
    from neural_condense_core.evaluation.report import Report
    from neural_condense_core.evaluation.tasks import build_items

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
    evaluator = Evaluator(
        target,
        condensers,
        cast("Sequence[BudgetedCondenser]", baselines),
        EvaluationConfig(
            options.ratios,
            options.positions,
            tuple(dict.fromkeys(("none", *options.perturb))),
            options.seed,
            options.greedy_limit,
        ),
        progress=progress,
    )
    evaluator.check()
    items = build_items(
        target, options.tasks, options.prose, options.qa, limit=options.limit, seed=options.seed
    )
    return Report(
        target=target.name,
        seed=options.seed,
        limit=options.limit,
        dtype=str(target.dtype).removeprefix("torch."),
        command=options.command,
        rows=tuple(evaluator.run(items)),
    )


def _name_apart(specs: Sequence[str], condensers: Sequence[Condenser]) -> None:
    """Call condensers of one name (folders of one name, say) as the command line does."""
    names = [condenser.name for condenser in condensers]
    while shared := {name for name in names if names.count(name) > 1}:
        names = [spec if name in shared else name for spec, name in zip(specs, names, strict=True)]
    for condenser, name in zip(condensers, names, strict=True):
        condenser.name = name


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _words(flag: str, text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise ConfigError(f"{flag} is empty")
    return found


def _chosen(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    found = _words(flag, text)
    for word in found:
        if word not in known:
            hint = suggest(word, known)
            raise ConfigError(f"{flag}: unknown {word!r}.{hint} Known: {', '.join(known)}")
    return found


def _ratios(text: str) -> tuple[float, ...]:
    found = []
    for word in _words("--ratios", text):
        try:
            ratio = float(word.removesuffix("x"))
        except ValueError:
            raise ConfigError(f"--ratios: {word!r} is not a number") from None
        if not 1 <= ratio <= 1024:
            raise ConfigError(f"--ratios: {word} is not from 1 to 1024")
        found.append(ratio)
    return tuple(found)


def _check_files(options: Options) -> None:
    if options.prose is None and options.qa is None:
        raise ConfigError("give --prose FILE.parquet, --qa FILE.parquet or both")
    for path in (options.prose, options.qa):
        if path is not None and not path.is_file():
            raise ConfigError(f"no such file: {path}")


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


def _publish(report: Report, json: str | None, markdown: Path | None) -> None:
    from neural_condense_core.evaluation.report import LEGEND

    console = messages()
    for table in report.to_tables():
        console.print(table)
    console.print(LEGEND)
    if markdown is not None:
        markdown.write_text(report.to_markdown(), encoding="utf-8")
    write_json(json, report.as_json())
