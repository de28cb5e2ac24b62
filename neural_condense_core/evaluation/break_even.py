"""When condensing pays: the arithmetic on measured costs, and their JSON.

Where it sits: ``costs.py`` measures, the page and the table show; nothing here loads torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from rich.table import Table

Unit = Literal["ms", "flops"]

UNITS: tuple[Unit, ...] = ("ms", "flops")


def uses_until_paid(once: float, use: float, full: float) -> int | None:
    """Return the fewest uses after which condensing has taken less than reading the full text.

    Parameters
    ----------
    once : cost of condensing a text
    use : cost of a use of the condensed text
    full : cost of a use of the full text

    Returns
    -------
    k with ``once + k * use < k * full``, at least 1; None if no k has
    """
    if use >= full:
        return None
    return math.floor(once / (full - use)) + 1


@dataclass(frozen=True)
class CostRow:
    """What one condenser costs at one ratio and context length.

    Parameters
    ----------
    bytes : of a context's condensed tokens as float16
    encode_ms, encode_flops : of condensing once
    use_ms, use_flops : from the prompt to the first token behind the condensed tokens
    full_ms, full_flops : the same behind the full text
    """

    condenser: str
    ratio: float
    n_context: int
    n_condensed: int
    bytes: int
    encode_ms: float
    use_ms: float
    full_ms: float
    encode_flops: int
    use_flops: int
    full_flops: int

    def once(self, unit: Unit) -> float:
        """Return the cost of condensing."""
        return self.encode_ms if unit == "ms" else self.encode_flops

    def use(self, unit: Unit) -> float:
        """Return the cost of a use behind condensed tokens."""
        return self.use_ms if unit == "ms" else self.use_flops

    def full(self, unit: Unit) -> float:
        """Return the cost of a use behind the full text."""
        return self.full_ms if unit == "ms" else self.full_flops

    def share(self, unit: Unit) -> float:
        """Return condensing and one use, relative to one use of the full text."""
        return (self.once(unit) + self.use(unit)) / self.full(unit)

    def uses(self, unit: Unit) -> int | None:
        """Return at which use condensing pays; None if never."""
        return uses_until_paid(self.once(unit), self.use(unit), self.full(unit))

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON-ready values, with what follows from it."""
        return {
            **asdict(self),
            "bytes_per_token": self.bytes / self.n_condensed,
            **{f"share_{unit}": self.share(unit) for unit in UNITS},
            **{f"break_even_{unit}": self.uses(unit) for unit in UNITS},
        }


@dataclass(frozen=True)
class Costs:
    """Measured costs.

    Parameters
    ----------
    machine : what they were measured on
    repeats : rounds that the medians are over
    n_prompt : tokens of the prompt around a context
    rows : one a condenser, ratio and length
    """

    machine: dict[str, Any]
    repeats: int
    n_prompt: int
    rows: tuple[CostRow, ...]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        return {
            "machine": self.machine,
            "repeats": self.repeats,
            "n_prompt": self.n_prompt,
            "rows": [row.as_json() for row in self.rows],
            "pays_from": [
                {
                    "condenser": name,
                    "ratio": ratio,
                    **{unit: pays_from(rows, unit) for unit in UNITS},
                }
                for (name, ratio), rows in self.by_setting()
            ],
        }

    def by_setting(self) -> Iterator[tuple[tuple[str, float], list[CostRow]]]:
        """Yield (condenser, ratio) with its rows, shortest context first."""
        settings = dict.fromkeys((row.condenser, row.ratio) for row in self.rows)
        for setting in settings:
            rows = [row for row in self.rows if (row.condenser, row.ratio) == setting]
            yield setting, sorted(rows, key=lambda row: row.n_context)

    def to_table(self) -> Table:
        """Return a table for the terminal."""
        table = Table(title=f"What it costs on {self.machine['device']}, medians")
        table.add_column("condenser", no_wrap=True)
        for name in COLUMNS:
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(row.condenser, *cells(row))
        return table


COLUMNS = (
    "ratio", "context", "tokens", "encode ms", "use ms", "full ms", "1 use / full", "in FLOPs",
    "pays at use", "in FLOPs", "bytes",
)  # fmt: skip


def cells(row: CostRow) -> tuple[str, ...]:
    """Return a row's texts, one for each of ``COLUMNS``."""
    return (
        f"{row.ratio:g}x",
        str(row.n_context),
        str(row.n_condensed),
        *(f"{value:.1f}" for value in (row.encode_ms, row.use_ms, row.full_ms)),
        *(f"{100 * row.share(unit):.0f} %" for unit in UNITS),
        *(str(row.uses(unit) or "never") for unit in UNITS),
        str(row.bytes),
    )


def pays_from(rows: Sequence[CostRow], unit: Unit) -> int | None:
    """Return the context length from which on the first use already pays, None if none does.

    Parameters
    ----------
    rows : of one condenser and ratio; longer contexts than theirs are not judged
    """
    found = None
    for row in sorted(rows, key=lambda row: -row.n_context):
        if row.uses(unit) != 1:
            break
        found = row.n_context
    return found


def costs_of(raw: dict[str, Any]) -> Costs:
    """Return costs from their JSON; what follows from the figures is computed anew.

    Parameters
    ----------
    raw : checked by the caller to hold the fields of ``CostRow`` with their types
    """
    names = [field.name for field in fields(CostRow)]
    rows = tuple(CostRow(**{name: row[name] for name in names}) for row in raw["rows"])
    return Costs(dict(raw["machine"]), raw["repeats"], raw["n_prompt"], rows)
