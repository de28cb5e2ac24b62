"""``condense eval``: ``--report``, ``--costs``, ``--from`` and ``--card``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from report_fakes import report
from typer.testing import CliRunner

from neural_condense_core.condensers.checkpoints import CheckpointConfig, write_config
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.evaluation.cli import evaluate

app = typer.Typer()
app.command()(evaluate)


def invoke(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report's file; from now on no model can be loaded."""
    monkeypatch.setitem(sys.modules, "neural_condense_core.llm.hf", None)  # type: ignore[arg-type]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report().as_json()), encoding="utf-8")
    return path


def test_a_report_is_shown_again_without_a_model(source: Path, tmp_path: Path) -> None:
    page, table = tmp_path / "page.html", tmp_path / "table.md"
    found = invoke("--from", source, "--report", page, "--markdown", table, "--json", "-")
    assert found.exit_code == 0, (found.output, found.exception)
    assert json.loads(found.stdout) == json.loads(source.read_text(encoding="utf-8"))
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert table.read_text(encoding="utf-8") == report().to_markdown()
    assert "What it costs on cpu" in found.stderr


def test_a_card_is_written_from_a_report(source: Path, tmp_path: Path) -> None:
    write_config(tmp_path, CheckpointConfig("pooled", "pooled", "tiny", 8, (4,)))
    found = invoke("--from", source, "--card", tmp_path)
    assert found.exit_code == 0, (found.output, found.exception)
    assert (tmp_path / "README.md").read_text(encoding="utf-8").startswith("# pooled\n")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "give --condensers NAMES to measure, or --from"),
        (["--condensers", "spans", "--card", "."], "--card goes with --from"),
        (["--condensers", "spans", "--report", "no/such/page.html"], "is not a folder"),
        (["--from", "SOURCE", "--report", "no/such/page.html"], "is not a folder"),
        (["--from", "none.json"], "No such file"),
    ],
)
def test_refusals_come_before_any_work(source: Path, flags: list[str], says: str) -> None:
    found = invoke(*(str(source) if flag == "SOURCE" else flag for flag in flags))
    assert isinstance(found.exception, NeuralCondenseError), found.output
    assert says in found.exception.message
    assert found.exception.exit_code == 2


def test_costs_are_measured_and_on_the_page(tiny_llama: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = invoke(
        "--condensers", "truncate-head", "--target", tiny_llama, "--limit", 2, "--lengths", 128,
        "--tasks", "counterfactual", "--greedy_limit", 0, "--dtype", "float32", "--costs",
        "--report", page, "--json", "-",
    )  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    payload = json.loads(found.stdout)
    (row,) = payload["costs"]["rows"]
    assert (row["condenser"], row["n_context"], row["n_condensed"]) == ("truncate-head", 128, 32)
    assert row["full_flops"] > row["use_flops"] > row["encode_flops"] == 0
    assert payload["command"].endswith("--costs")
    assert 'id="costs"' in page.read_text(encoding="utf-8")
