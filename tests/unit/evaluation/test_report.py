"""The report: JSON, markdown, tables on the terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from neural_condense_core.evaluation.comparisons import compared
from neural_condense_core.evaluation.metrics import Choice, Row
from neural_condense_core.evaluation.report import Report

BASE = Row(
    condenser="pooled", ratio=4.0, task="answer", source="all", positions="plain",
    perturbation="none", query_aware=False, n=3, n_documents=2, dropped=1, n_condensed=12.0,
    recovery=0.6, content_recovery=5 / 12, ci=(0.2, 0.6), loss=2.0, loss_none=3.0, loss_full=1.3,
    loss_other=2.8, loss_full_other=3.3, accuracy=0.2, greedy_accuracy=None, encode_ms=3.0,
    budgets=(10, 12, 14),
)  # fmt: skip


def baseline(name: str, c: float | None, **changes: Any) -> Row:
    return replace(BASE, condenser=name, content_recovery=c, **changes)


FULL = baseline("full", 1.0, ratio=None, n_condensed=None, budgets=(), ci=(1.0, 1.0))
ROWS = compared(
    (FULL, BASE, baseline("spans", 0.4), baseline("spans", 0.1, by="source", source="s1"),
     baseline("sentence-retrieval", 0.5, query_aware=True),
     baseline("pooled", float("nan"), perturbation="noise")), 0,
)  # fmt: skip
REPORT = Report("tiny", 0, 4, "float32", "condense eval --limit 4", tuple(ROWS))


def test_report_json() -> None:
    found = json.loads(json.dumps(REPORT.as_json(), allow_nan=False))
    assert list(found) == [
        "schema", "target", "seed", "limit", "dtype", "command", "tasks", "seeds", "hidden_size",
        "notes", "rows", "examples",
    ]  # fmt: skip
    assert found["seeds"] == [0]
    assert found["rows"][1]["best_baseline"]["condenser"] == "spans"
    assert found["schema"] == 1
    assert len(found["rows"]) == 6
    assert "budgets" not in found["rows"][0]
    assert found["rows"][0]["ratio"] is None
    assert found["rows"][0]["ci"] == [1.0, 1.0]
    assert found["rows"][5]["content_recovery"] is None


def test_report_markdown_shows_all_sources_with_the_best_baseline_beside() -> None:
    lines = REPORT.to_markdown().splitlines()
    assert lines[0] == "`condense eval --limit 4`"
    rows = [line for line in lines if line.startswith("| answer")]
    assert len(rows) == 5
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| pooled |" in rows[1]
    assert "| 0.40 spans |" in rows[1]
    assert "spans |" in rows[2]
    assert "0.40 spans" not in rows[2]
    assert "sentence-retrieval (query-aware) |" in rows[3]
    assert "pooled (noise) | 12.0 | -" in rows[4]


def test_report_tables_fit_a_terminal() -> None:
    tables = list(REPORT.to_tables())
    assert [table.title for table in tables] == [
        "answer at 4x (3 items, 1 dropped: the full text hardly helps)",
        "answer at 4x, in detail",
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables[0])
    text = console.export_text()
    assert "0.40 spans" in text
    assert "…" not in text


@pytest.mark.parametrize("task", ["answer", "reconstruction"])
def test_only_reconstruction_shows_accuracies(task: str) -> None:
    rows = tuple(replace(row, task=task, greedy_accuracy=0.5) for row in REPORT.rows)
    headers = [column.header for column in next(replace(REPORT, rows=rows).to_tables()).columns]
    assert ("greedy" in headers) == (task == "reconstruction")


DETAILED = replace(
    BASE,
    choice=Choice(4, 4, 0.5, 0.25, 0.75, 0.5, (0.1, 0.9)),
    written={"n": 2, "f1": 0.3, "exact_match": float("nan")},
)


def test_details_and_parts_have_tables_of_their_own() -> None:
    rows = (FULL, DETAILED, replace(BASE, by="length", source="1024"))
    report = replace(REPORT, rows=rows, notes=("icae does not offer ratio 4",))
    main, details, parts = report.to_tables()
    assert main.title == "answer at 4x (3 items, 1 dropped: the full text hardly helps)"
    assert [column.header for column in details.columns] == [
        "condenser", "choice", "none", "full", "share (95 %)", "F1",
    ]  # fmt: skip
    assert [column.header for column in parts.columns][:3] == ["by", "part", "condenser"]
    text = report.to_markdown()
    assert "| answer | 4x | 3 | pooled | 0.50 | 0.25 | 0.75 | 0.50 (0.10 to 0.90) | 0.30 |" in text
    assert "| answer | 4x | 3 | length | 1024 | pooled |" in text
    assert text.endswith("- icae does not offer ratio 4\n")
    assert report.as_json()["rows"][1]["written"]["exact_match"] is None  # type: ignore[index]
