"""Reports read back: all of it, earlier versions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_fakes import report, row

from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation import report_file
from neural_condense_core.evaluation.report_file import parse_report, read_report

ADDED = (
    "by", "n_context", "bytes", "choice", "written", "best_baseline", "fall", "fall_ci",
    "c_by_seed",
)  # fmt: skip


def body_of(payload: Any) -> bytes:
    return json.dumps(payload).encode()


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(body_of(report().as_json()))
    assert read_report(path) == report()


def test_an_earlier_report_is_completed() -> None:
    rows = [row("pooled"), row("spans", content_recovery=0.3), row("stride", content_recovery=0.1)]
    old = report(rows=(*rows, row("pooled", source="tales"), row("full", None))).as_json()
    for name in ("tasks", "seeds", "hidden_size", "notes", "examples", "costs"):
        del old[name]
    for entry in old["rows"]:  # type: ignore[attr-defined]
        for name in ADDED:
            del entry[name]
    found = parse_report(body_of(old), "old.json")
    assert [entry.by for entry in found.rows] == ["all", "all", "all", "source", "all"]
    best = found.rows[0].best_baseline
    assert best is not None
    assert (best.condenser, best.margin, best.margin_ci) == ("spans", pytest.approx(0.1), None)
    assert found.tasks == ("answer",)
    # in its own place there is no baseline; a baseline and an end have none either
    assert [entry.best_baseline for entry in found.rows[1:]] == [None] * 4


def changed(**fields: Any) -> bytes:
    return body_of({**report().as_json(), **fields})


def with_row(**fields: Any) -> bytes:
    payload = report().as_json()
    first, *others = payload["rows"]  # type: ignore[misc]
    return body_of({**payload, "rows": [{**first, **fields}, *others]})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the whole of it"),
        (b"[]", "the whole of it"),
        (b"\xff\xfe", "the whole of it"),
        (changed(schema=2), "schema: "),
        (changed(rows=7), "rows: "),
        (with_row(n="many"), "rows.0.n: "),
        (with_row(ratio=-4), "rows.0.ratio: "),
        (with_row(by="colour"), "rows.0.by: "),
        (with_row(content_recovery=1e999), "rows.0.content_recovery: "),
        (changed(target="x" * 100_001), "target: "),
        (changed(costs={"machine": {}}), "costs.repeats: "),
        (changed(examples=[{}]), "examples.0.task: "),
    ],
)
def test_what_is_no_report_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_report(body, "some.json")
    assert says in caught.value.message
    assert "'some.json'" in caught.value.message


def test_files_that_cannot_be_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_report(tmp_path / "none.json")
    path = tmp_path / "large.json"
    path.write_bytes(b" " * 100)
    monkeypatch.setattr(report_file, "MAX_REPORT_BYTES", 99)
    with pytest.raises(ConfigError, match="larger than"):
        read_report(path)
