"""A report read back from its JSON, checked.

Where it sits: ``condense eval --from REPORT.json`` and the pictures of the documents begin here.

Design decisions

* The file may be anybody's: its size is bounded, every field is checked, and texts in it are only
  ever shown.
* A report of an earlier version has fewer fields. What can be known is filled in: what a row is
  restricted by, and the best baseline at its number of tokens; the rest stays unknown.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.break_even import costs_of
from neural_condense_core.evaluation.metrics import ALL_SOURCES, By, Choice, Margin, Row
from neural_condense_core.evaluation.report import SCHEMA, Report

MAX_REPORT_BYTES = 1 << 26

Text = Annotated[str, Field(max_length=100_000)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Interval = tuple[float, float] | None


class _Checked(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


class _Margin(_Checked):
    condenser: Text
    content_recovery: float
    margin: float | None
    margin_ci: Interval


class _Choice(_Checked):
    n: Count
    n_choices: Count
    accuracy: float
    accuracy_none: float
    accuracy_full: float
    share: float | None
    ci: Interval


class _Row(_Checked):
    condenser: Text
    ratio: Positive | None
    task: Text
    source: Text
    positions: Text
    perturbation: Text
    query_aware: bool
    n: Count
    n_documents: Count
    dropped: Count
    n_condensed: float | None
    recovery: float | None
    content_recovery: float | None
    ci: Interval
    loss: float | None
    loss_none: float | None
    loss_full: float | None
    loss_other: float | None
    loss_full_other: float | None
    accuracy: float | None
    greedy_accuracy: float | None
    encode_ms: float | None
    by: Literal["all", "source", "length", "depth", "kind"] | None = None
    n_context: float | None = None
    bytes: float | None = None
    choice: _Choice | None = None
    written: dict[str, float | None] | None = None
    best_baseline: _Margin | None = None
    fall: float | None = None
    fall_ci: Interval = None
    c_by_seed: tuple[float | None, ...] | None = None

    def as_row(self) -> Row:
        """Return the row that the JSON was written from."""
        by: By = self.by or ("all" if self.source == ALL_SOURCES else "source")
        flat: dict[str, Any] = dict(self)
        best = Margin(**dict(self.best_baseline)) if self.best_baseline else None
        choice = Choice(**dict(self.choice)) if self.choice else None
        return Row(**{**flat, "by": by, "best_baseline": best, "choice": choice})


class _Reply(_Checked):
    condenser: Text
    ratio: Positive | None
    text: Text
    f1: float | None


class _Example(_Checked):
    task: Text
    source: Text
    document: Text
    n_context: Count
    context: Text
    question: Text
    gold: Text
    replies: tuple[_Reply, ...]


class _CostRow(_Checked):
    condenser: Text
    ratio: Positive
    n_context: Annotated[int, Field(ge=1)]
    n_condensed: Annotated[int, Field(ge=1)]
    bytes: Count
    encode_ms: Annotated[float, Field(ge=0)]
    use_ms: Annotated[float, Field(ge=0)]
    full_ms: Positive
    encode_flops: Count
    use_flops: Count
    full_flops: Annotated[int, Field(ge=1)]


class _Costs(_Checked):
    machine: dict[Text, str | int | float]
    repeats: Count
    n_prompt: Count
    rows: tuple[_CostRow, ...]


class _Report(_Checked):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    target: Text
    seed: Count
    limit: Count
    dtype: Text
    command: Text
    rows: tuple[_Row, ...]
    tasks: tuple[Text, ...] = ()
    seeds: tuple[Count, ...] = ()
    hidden_size: Count = 0
    examples: tuple[_Example, ...] = ()
    notes: tuple[Text, ...] = ()
    costs: _Costs | None = None


def read_report(path: Path) -> Report:
    """Read a report.

    Parameters
    ----------
    path : JSON as ``condense eval --json`` writes it

    Raises
    ------
    ConfigError
        The file cannot be read, is too large, or is no such JSON.
    """
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_REPORT_BYTES >> 20} MiB")
        body = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from error
    return parse_report(body, str(path))


def parse_report(body: bytes, name: str) -> Report:
    """Return the report that a JSON text holds.

    Parameters
    ----------
    body : of the file
    name : for messages

    Raises
    ------
    ConfigError
        It is no report of this schema; the message names the first field that is wrong.
    """
    try:
        found = _Report.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole of it"
        raise ConfigError(
            f"'{name}' is no report of 'condense eval --json' (schema {SCHEMA}): "
            f"{where}: {first['msg']}"
        ) from error
    rows = [row.as_row() for row in found.rows]
    return Report(
        target=found.target,
        seed=found.seed,
        limit=found.limit,
        dtype=found.dtype,
        command=found.command,
        rows=tuple(_completed(rows)),
        tasks=found.tasks or tuple(dict.fromkeys(row.task for row in rows)),
        seeds=found.seeds,
        hidden_size=found.hidden_size,
        examples=tuple(
            cast("dict[str, object]", e.model_dump(mode="json")) for e in found.examples
        ),
        notes=found.notes,
        costs=costs_of(found.costs.model_dump()) if found.costs else None,
    )


def _completed(rows: list[Row]) -> list[Row]:
    """Put the best baseline at equal length beside rows of a report that has none anywhere."""
    if any(row.best_baseline for row in rows):
        return rows
    return [_beside(row, rows) for row in rows]


def _beside(row: Row, rows: list[Row]) -> Row:
    own = row.content_recovery
    if own is None or row.ratio is None or row.query_aware or row.condenser in BASELINES:
        return row
    place = _place(row)
    known = [
        (other.content_recovery, other.condenser)
        for other in rows
        if other.condenser in BASELINES
        and _place(other) == place
        and other.content_recovery is not None
    ]
    if not known:
        return row
    c, name = max(known)
    return replace(row, best_baseline=Margin(name, c, own - c, None))


def _place(row: Row) -> tuple[object, ...]:
    return (
        row.task, row.ratio, row.by, row.source, row.positions, row.perturbation, row.n_condensed,
    )  # fmt: skip
