"""The model card of a checkpoint: what it is, and what an evaluation found, with that file's hash.

Where it sits: ``condense eval --from REPORT.json --card FOLDER`` writes ``README.md`` of a
checkpoint folder and the figures in its ``config.json``.

Design decisions

* Every figure comes from the report and every fact from ``config.json``; nothing is typed in.
* What a person wrote stands between two marks and stays when the card is written anew.
* Figures of a checkpoint that was trained further are gone with the old card: a card holds those of
  one report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neural_condense_core.condensers.checkpoints import (
    WEIGHTS_FILE,
    CheckpointConfig,
    read_config,
    write_config,
)
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation import break_even
from neural_condense_core.evaluation.break_even import Costs
from neural_condense_core.evaluation.html_report import findings
from neural_condense_core.evaluation.metrics import Row
from neural_condense_core.evaluation.report import Report, number, with_interval
from neural_condense_core.evaluation.report_file import read_report

CARD_FILE = "README.md"
OPENS, CLOSES = "<!-- notes -->", "<!-- /notes -->"
_TRAINED = ("trained_steps", "trained_context_tokens")
_KEPT = (*_TRAINED, "recipe")


def write_card(folder: Path, source: Path, notes: str | None = None) -> Path:
    """Write the model card of a checkpoint, and the figures into its ``config.json``.

    Parameters
    ----------
    folder : of the checkpoint
    source : JSON of an evaluation in which it stands under its name
    notes : markdown below the table of facts; None = what stands there already

    Returns
    -------
    the file that was written

    Raises
    ------
    ConfigError
        The report has no row of this checkpoint.
    """
    config = read_config(folder)
    report = read_report(source)
    rows = [row for row in report.rows if row.condenser == config.name and row.ratio is not None]
    if not rows:
        known = sorted({row.condenser for row in report.rows if row.ratio is not None})
        raise ConfigError(f"'{source}' has no row of {config.name!r}; it has {', '.join(known)}")
    quoted = source.name if source.is_absolute() else source.as_posix()
    measured = {key: config.measured[key] for key in _KEPT if key in config.measured} | {
        **_figures(rows),
        "command": report.command,
        "report": quoted,
        "report_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    config = replace(config, measured=measured)
    path = folder / CARD_FILE
    kept = _notes_in(path) if notes is None else notes.strip()
    lines = _card(config, report, rows, folder / WEIGHTS_FILE, kept)
    write_config(folder, config)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures of undisturbed rows over all items, by ratio and task."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.by == "all" and (row.positions, row.perturbation) == ("plain", "none"):
            figures: dict[str, Any] = {
                "content_recovery": _rounded(row.content_recovery),
                "ci": _rounded_all(row.ci),
                "recovery": _rounded(row.recovery),
                "n": row.n,
                "n_documents": row.n_documents,
            }
            if row.best_baseline is not None:
                best = row.best_baseline
                figures |= {
                    "best_baseline": best.condenser,
                    "above_best": _rounded(best.margin),
                    "above_best_ci": _rounded_all(best.margin_ci),
                }
            found.setdefault(f"{row.ratio:g}x", {})[row.task] = figures
    return found


def _card(
    config: CheckpointConfig, report: Report, rows: Sequence[Row], weights: Path, notes: str
) -> Iterator[str]:
    ratios = ", ".join(map(str, config.ratios))
    yield f"# {config.name}"
    yield ""
    yield f"Condensed tokens for `{config.target_model}`: ratios {ratios} in one checkpoint."
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in _facts(config, weights):
        yield f"| {name} | {value} |"
    yield from ("", OPENS, *([notes] if notes else []), CLOSES, "", "## Measured", "")
    yield from (f"- {line}" for line in findings(replace(report, rows=tuple(rows))))
    yield ""
    yield from _table(rows)
    yield ""
    yield "C = content recovery: 0 = says nothing about this text, 1 = as specific as the full one;"
    yield "above best = C less that of the best training-free baseline at as many tokens; fall = C"
    yield "undisturbed less C. Intervals are 95 %, over documents. R = recovery."
    yield from _costs(report.costs, config.name)
    yield from ("", "```", str(config.measured["command"]), "```", "")
    yield f"Report: `{config.measured['report']}`, sha256"
    yield f"`{config.measured['report_sha256']}`."


def _facts(config: CheckpointConfig, weights: Path) -> Iterator[tuple[str, str]]:
    yield "method", f"`{config.method}`"
    settings = ", ".join(f"{key} {value}" for key, value in config.config.items())
    if settings:
        yield "settings", settings
    steps, tokens = (config.measured.get(key) for key in _TRAINED)
    if isinstance(steps, int) and isinstance(tokens, int):
        yield "trained on", f"{tokens:,} context tokens in {steps:,} steps"
    if "recipe" in config.measured:
        yield "recipe", f"`{config.measured['recipe']}`"
    if weights.is_file():
        yield "size", f"{weights.stat().st_size / 1e6:.1f} MB"
        yield "weights", f"sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`"
    yield "width", f"{config.hidden_size} numbers a condensed token"
    yield "licence", config.licence or "not stated"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    head = ("task", "part", "ratio", "", "n", "C (95 %)", "above best", "fall", "R")
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        best = row.best_baseline
        marks = [row.positions, row.perturbation]
        cells = (
            row.task,
            row.source,
            f"{row.ratio:g}x",
            ", ".join(mark for mark in marks if mark not in {"plain", "none"}),
            str(row.n),
            with_interval(row.content_recovery, row.ci),
            with_interval(best.margin, best.margin_ci, signed=True) if best else "-",
            with_interval(row.fall, row.fall_ci),
            number(row.recovery),
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _costs(costs: Costs | None, name: str) -> Iterator[str]:
    rows = [row for row in costs.rows if row.condenser == name] if costs else []
    if costs is None or not rows:
        return
    yield from ("", "## Costs", "")
    machine = ", ".join(f"{key} {value}" for key, value in costs.machine.items())
    yield f"Medians of {costs.repeats} interleaved runs; {machine}. A use is one question to the"
    yield "first token of its answer."
    yield ""
    yield "| " + " | ".join(break_even.COLUMNS) + " |"
    yield "|" + "---|" * len(break_even.COLUMNS)
    for row in rows:
        yield "| " + " | ".join(break_even.cells(row)) + " |"


def _notes_in(path: Path) -> str:
    """Return what a person wrote into a card between the marks."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, opened, rest = text.partition(OPENS)
    inner, closed, _ = rest.partition(CLOSES)
    return inner.strip() if opened and closed else ""


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _rounded_all(values: tuple[float, float] | None) -> list[float] | None:
    return None if values is None else [round(value, 4) for value in values]
