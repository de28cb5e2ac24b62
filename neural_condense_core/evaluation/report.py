"""The result of an evaluation as JSON, as a markdown table and as tables on the terminal.

Design decisions

* JSON holds every row, every source and every variant; the tables show what a person compares:
  all sources together, each condenser with the best baseline at its length beside it.
* A number that does not exist is null in JSON and a dash in tables, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.evaluation.metrics import ALL_SOURCES, Row, best_baseline

SCHEMA = 1
COLUMNS = (
    "condenser",
    "tokens",
    "C (95 %)",
    "best baseline C",
    "R",
    "loss",
    "top-1",
    "greedy",
    "ms",
)
LEGEND = (
    "C = content recovery, R = recovery (0 = no context, 1 = full text). Best baseline = highest C "
    "of the training-free methods at exactly as many tokens. Loss in nats per target token. "
    "Query-aware methods know what will be asked."
)
_UNMARKED = ("plain", "none")


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
    """

    target: str
    seed: int
    limit: int
    dtype: str
    command: str
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON-ready values; numbers that are not finite are None."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "seed": self.seed,
            "limit": self.limit,
            "dtype": self.dtype,
            "command": self.command,
            "rows": [
                {name: _finite(value) for name, value in row.as_json().items()} for row in self.rows
            ],
        }

    def to_markdown(self) -> str:
        """Return the rows over all sources as one markdown table, with command and legend."""
        columns = ("task", "ratio", "n", *COLUMNS)
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in self._shown():
            ratio = "" if row.ratio is None else f"{row.ratio:g}x"
            cells = (row.task, ratio, str(row.n), *self._cells(row))
            lines.append("| " + " | ".join(cells) + " |")
        about = f"Target {self.target} ({self.dtype}), seed {self.seed}. {LEGEND}"
        return "\n".join([f"`{self.command}`", "", *lines, "", about, ""])

    def to_tables(self) -> Iterator[Table]:
        """Yield a table for the terminal for each task and ratio, ``none`` and ``full`` in each."""
        shown = self._shown()
        groups = dict.fromkeys((row.task, row.ratio) for row in shown if row.ratio is not None)
        for task, ratio in groups:
            rows = [row for row in shown if row.task == task and row.ratio in {None, ratio}]
            kept = f"{rows[0].n} items, {rows[0].dropped} dropped: the full text hardly helps"
            table = Table(title=f"{task} at {ratio:g}x ({kept})")
            hidden = set() if task == "reconstruction" else {"top-1", "greedy"}
            for column in COLUMNS:
                if column not in hidden:
                    left = column == "condenser"
                    table.add_column(column, justify="left" if left else "right", no_wrap=left)
            for row in rows:
                cells = dict(zip(COLUMNS, self._cells(row), strict=True))
                table.add_row(*(cell for name, cell in cells.items() if name not in hidden))
            yield table

    def _shown(self) -> list[Row]:
        return [row for row in self.rows if row.source == ALL_SOURCES]

    def _cells(self, row: Row) -> tuple[str, ...]:
        known = "query-aware" if row.query_aware else "none"
        marks = [mark for mark in (known, row.positions, row.perturbation) if mark not in _UNMARKED]
        best = None if row.condenser in BASELINES else best_baseline(self.rows, row)
        low_high = "" if row.ci is None else f" ({row.ci[0]:.2f} to {row.ci[1]:.2f})"
        return (
            f"{row.condenser} ({', '.join(marks)})" if marks else row.condenser,
            _number(row.n_condensed, 1),
            _number(row.content_recovery) + low_high,
            f"{_number(best.content_recovery)} {best.condenser}" if best else "-",
            _number(row.recovery),
            _number(row.loss, 3),
            _number(row.accuracy),
            _number(row.greedy_accuracy),
            _number(row.encode_ms, 1),
        )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
