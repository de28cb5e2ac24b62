"""The result of an evaluation as JSON, as markdown tables and as tables on the terminal.

Design decisions

* JSON holds every row, every source and every variant; the tables show what a person compares:
  all items together, each condenser with the best baseline at its length beside it, then the
  compared condensers source by source, length by length.
* A number that does not exist is null in JSON and a dash in tables, never 0; a column without any
  number is left out on the terminal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.evaluation.break_even import Costs
from neural_condense_core.evaluation.metrics import ALL_SOURCES, Row

SCHEMA = 1
LEGEND = (
    "C = content recovery, R = recovery (0 = no context, 1 = full text). Best baseline = highest C "
    "of the training-free methods at exactly as many tokens; above best = C less that, "
    "its interval paired by document. Fall = C undisturbed less C. Loss in nats per target token. "
    "Query-aware methods know what will be asked."
)
DETAILS_LEGEND = (
    "Choice = share of items whose right choice is the likeliest, without a context, behind the "
    "full text and here; share = (here - none) / (full - none). F1, exact match, ROUGE-L, BLEU and "
    "what is recalled are of texts that the model wrote by itself."
)
_UNMARKED = ("plain", "none")

Column = tuple[str, Callable[[Row], str]]


@dataclass(frozen=True)
class Report:
    """One evaluation.

    Parameters
    ----------
    target : name of the target model
    seed : of items, swapped documents and intervals
    limit : most items a task
    dtype : the target model's, ``"bfloat16"`` for example
    command : the line that repeats it
    rows : of all tasks
    tasks : their names
    seeds : all that were run, the first is that of the rows
    hidden_size : width of a condensed token
    examples : JSON-ready, what was asked and what the model wrote
    notes : what was left out and why
    costs : what condensing and reading cost here, if that was measured
    """

    target: str
    seed: int
    limit: int
    dtype: str
    command: str
    rows: tuple[Row, ...]
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    hidden_size: int = 0
    examples: tuple[dict[str, object], ...] = ()
    notes: tuple[str, ...] = ()
    costs: Costs | None = None

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON-ready values; numbers that are not finite are None."""
        found: dict[str, object] = {
            "schema": SCHEMA,
            "target": self.target,
            "seed": self.seed,
            "limit": self.limit,
            "dtype": self.dtype,
            "command": self.command,
            "tasks": list(self.tasks),
            "seeds": list(self.seeds or (self.seed,)),
            "hidden_size": self.hidden_size,
            "notes": list(self.notes),
            "rows": [_finite(row.as_json()) for row in self.rows],
            "examples": [_finite(example) for example in self.examples],
        }
        return found if self.costs is None else {**found, "costs": self.costs.as_json()}

    def to_markdown(self) -> str:
        """Return the command, the rows over all items, then details and parts, and the legend."""
        shown = self.shown()
        about = f"Target {self.target} ({self.dtype}), seed {self.seed}. {LEGEND}"
        parts = [f"`{self.command}`", "", *_markdown(_PLACE + COLUMNS, shown), "", about, ""]
        detailed = [row for row in shown if row.choice or row.written]
        if detailed:
            head = (*_PLACE, NAME)
            parts += [*_markdown(head + filled(DETAILS, detailed), detailed), "", DETAILS_LEGEND]
            parts += [""]
        by_part = self.by_part()
        if by_part:
            columns = (*_PLACE, *PART, *COLUMNS)
            parts += ["By source, length, depth and kind:", "", *_markdown(columns, by_part), ""]
        return "\n".join([*parts, *(f"- {note}" for note in self.notes), *[""][: len(self.notes)]])

    def to_tables(self) -> Iterator[Table]:
        """Yield tables for the terminal, for each task and ratio, ``none`` and ``full`` in each."""
        shown = self.shown()
        groups = dict.fromkeys((row.task, row.ratio) for row in shown if row.ratio is not None)
        for task, ratio in groups:
            rows = [row for row in shown if row.task == task and row.ratio in {None, ratio}]
            kept = f"{rows[0].n} items, {rows[0].dropped} dropped: the full text hardly helps"
            columns = tuple(column for column in COLUMNS if column not in _COMPARED)
            if task != "reconstruction":
                columns = tuple(column for column in columns if column[0] not in _COPIED)
            yield _table(f"{task} at {ratio:g}x ({kept})", filled(columns, rows), rows)
            details = filled((*_COMPARED, *DETAILS), rows)
            detailed = [row for row in rows if filled(details, [row])]
            if details:
                yield _table(f"{task} at {ratio:g}x, in detail", (NAME, *details), detailed)
            parts = [row for row in self.by_part() if (row.task, row.ratio) == (task, ratio)]
            if parts:
                columns = (*PART, NAME, *filled(PARTS, parts))
                yield _table(f"{task} at {ratio:g}x, part by part", columns, parts)

    def shown(self) -> list[Row]:
        """Return the rows over all items."""
        return [row for row in self.rows if row.source == ALL_SOURCES]

    def by_part(self) -> list[Row]:
        """Return the rows of compared condensers over a part of the items."""
        return [
            row
            for row in self.rows
            if row.by != "all"
            and row.ratio is not None
            and row.condenser not in BASELINES
            and not row.query_aware
        ]


def _named(row: Row) -> str:
    known = "query-aware" if row.query_aware else "none"
    marks = [mark for mark in (known, row.positions, row.perturbation) if mark not in _UNMARKED]
    return f"{row.condenser} ({', '.join(marks)})" if marks else row.condenser


def _best(row: Row) -> str:
    best = row.best_baseline
    return f"{number(best.content_recovery)} {best.condenser}" if best else "-"


def _above_best(row: Row) -> str:
    best = row.best_baseline
    return with_interval(best.margin, best.margin_ci, signed=True) if best else "-"


def _choice(name: str) -> Callable[[Row], str]:
    return lambda row: number(getattr(row.choice, name, None))


def _share(row: Row) -> str:
    return with_interval(row.choice.share, row.choice.ci) if row.choice else "-"


def _written(name: str, digits: int = 2) -> Callable[[Row], str]:
    return lambda row: number((row.written or {}).get(name), digits)


NAME: Column = ("condenser", _named)
_PLACE: tuple[Column, ...] = (
    ("task", lambda row: row.task),
    ("ratio", lambda row: "" if row.ratio is None else f"{row.ratio:g}x"),
    ("n", lambda row: str(row.n)),
)
PART: tuple[Column, ...] = (("by", lambda row: row.by), ("part", lambda row: row.source))
COLUMNS: tuple[Column, ...] = (
    NAME,
    ("tokens", lambda row: number(row.n_condensed, 1)),
    ("C (95 %)", lambda row: with_interval(row.content_recovery, row.ci)),
    ("best baseline C", _best),
    ("above best", _above_best),
    ("fall", lambda row: number(row.fall)),
    ("R", lambda row: number(row.recovery)),
    ("loss", lambda row: number(row.loss, 3)),
    ("top-1", lambda row: number(row.accuracy)),
    ("greedy", lambda row: number(row.greedy_accuracy)),
    ("ms", lambda row: number(row.encode_ms, 1)),
)
DETAILS: tuple[Column, ...] = (
    ("choice", _choice("accuracy")),
    ("none", _choice("accuracy_none")),
    ("full", _choice("accuracy_full")),
    ("share (95 %)", _share),
    ("F1", _written("f1")),
    ("exact", _written("exact_match")),
    ("ROUGE-L", _written("rouge_l")),
    ("BLEU", _written("bleu", 1)),
    ("prefix", _written("exact_prefix", 1)),
    ("numbers", _written("numbers_recalled")),
    ("names", _written("names_recalled")),
)


_COMPARED = tuple(column for column in COLUMNS if column[0] in {"above best", "fall"})
"""On the terminal these stand in a table of their own, for the width of it."""
_COPIED = ("top-1", "greedy")
PARTS: tuple[Column, ...] = (
    ("n", lambda row: str(row.n)),
    *(column for column in COLUMNS if column[0] in {"C (95 %)", "best baseline C", "R"}),
    *(column for column in DETAILS if column[0] in {"choice", "share (95 %)", "F1"}),
)


def filled(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Return the columns in which some row has something."""
    return tuple(column for column in columns if any(column[1](row) != "-" for row in rows))


def _markdown(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    yield "| " + " | ".join(name for name, _ in columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(cell(row) for _, cell in columns) + " |"


def _table(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    table = Table(title=title)
    for name, _ in columns:
        left = name in {"condenser", "by", "part"}
        table.add_column(name, justify="left" if left else "right", no_wrap=name == "condenser")
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table


def with_interval(
    value: float | None, interval: tuple[float, float] | None, *, signed: bool = False
) -> str:
    """Return a figure with its 95 % interval behind it."""
    sign = "+" if signed and value is not None and value >= 0 else ""
    low_high = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return sign + number(value) + low_high


def number(value: float | None, digits: int = 2) -> str:
    """Return a figure as text, a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
