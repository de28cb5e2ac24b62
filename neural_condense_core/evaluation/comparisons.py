"""Rows beside other rows: the best baseline at equal length, the fall under a disturbance, seeds.

Where it sits: after all rows of an evaluation are there, before the report.

Design decisions

* The best baseline of a row is the best at *exactly* its number of condensed tokens, document by
  document, and never a query-aware one: that knows what will be asked.
* Two rows are compared on the same documents, drawn together: the interval of a difference is far
  narrower than those of the two rows let one guess, and may lie above zero where they overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.evaluation.metrics import Margin, Row
from neural_condense_core.scoring.recovery import bootstrap

UNDISTURBED = "none"

Interval = tuple[float, float] | None


def compared(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the rows, each with its best baseline and its fall beside it.

    Parameters
    ----------
    rows : of a whole evaluation
    seed : of the bootstrap
    """
    baselines: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        if row.condenser in BASELINES:
            baselines[_length_key(row)].append(row)
    plain = {_fall_key(row): row for row in rows if row.perturbation == UNDISTURBED}
    return [_beside(row, baselines, plain.get(_fall_key(row)), seed) for row in rows]


def _beside(
    row: Row, baselines: Mapping[Hashable, Sequence[Row]], plain: Row | None, seed: int
) -> Row:
    if row.budgets and row.condenser not in BASELINES:
        best = best_of(baselines.get(_length_key(row), ()))
        row = row if best is None else replace(row, best_baseline=_margin(row, best, seed))
    if plain is None or row.perturbation == UNDISTURBED:
        return row
    fall, interval = difference(plain, row, seed)
    return replace(row, fall=fall, fall_ci=interval)


def best_of(rows: Iterable[Row]) -> Row | None:
    """Return the row with the highest C, None if none has a C."""
    known = [row for row in rows if row.content_recovery is not None]
    return max(known, key=lambda row: row.content_recovery or 0.0, default=None)


def _margin(row: Row, best: Row, seed: int) -> Margin:
    found, interval = difference(row, best, seed)
    return Margin(best.condenser, best.content_recovery or 0.0, found, interval)


def difference(one: Row, other: Row, seed: int) -> tuple[float | None, Interval]:
    """Return by how much the C of one row is above another's, and the interval, paired.

    Returns
    -------
    None where a row has no C; without an interval where the rows are not of the same items, or
    the target model was another one
    """
    if one.content_recovery is None or other.content_recovery is None:
        return None, None
    found = one.content_recovery - other.content_recovery
    a, b = one.evidence, other.evidence
    if a is None or b is None or a.documents != b.documents:
        return found, None
    if not np.array_equal(a.spreads, b.spreads):
        return found, None
    return found, bootstrap(a.gains - b.gains, b.spreads, a.documents, seed, n_target=a.n_target)


def with_seeds(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows of the first run, each with the C of all runs.

    Parameters
    ----------
    runs : rows of one evaluation a seed, at least one
    """
    if len(runs) == 1:
        return list(runs[0])
    by_key = [_numbered(rows) for rows in runs]
    return [
        replace(
            row,
            c_by_seed=tuple(
                known[key].content_recovery if key in known else None for known in by_key
            ),
        )
        for key, row in by_key[0].items()
    ]


def _numbered(rows: Sequence[Row]) -> dict[Hashable, Row]:
    """Name rows by what they are of; a baseline at several lengths is counted up."""
    seen: dict[Hashable, int] = defaultdict(int)
    found: dict[Hashable, Row] = {}
    for row in rows:
        key = (*_place(row), row.condenser, row.positions, row.perturbation)
        found[key, seen[key]] = row
        seen[key] += 1
    return found


def _place(row: Row) -> tuple[Hashable, ...]:
    return (row.ratio, row.task, row.by, row.source)


def _length_key(row: Row) -> Hashable:
    return (*_place(row), row.positions, row.perturbation, row.budgets)


def _fall_key(row: Row) -> Hashable:
    return (*_place(row), row.condenser, row.positions, row.budgets)
