"""``condense eval`` end to end on a tiny random model, and what it refuses."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from neural_condense_core.condensers.registry import BASELINES, QUERY_AWARE_BASELINES
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.evaluation import cli
from neural_condense_core.evaluation.cli import Options, evaluate

FIELDS = [
    "condenser", "ratio", "task", "source", "positions", "perturbation", "query_aware", "n",
    "n_documents", "dropped", "n_condensed", "recovery", "content_recovery", "ci", "loss",
    "loss_none", "loss_full", "loss_other", "loss_full_other", "accuracy", "greedy_accuracy",
    "encode_ms",
]  # fmt: skip

app = typer.Typer()
app.command()(evaluate)


def invoke(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def outcome(
    tiny_llama: str, prose_file: Path, qa_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    table = tmp_path_factory.mktemp("report") / "table.md"
    found = invoke(
        "--condensers", "head-tail", "--ratios", "4,8", "--target", tiny_llama,
        "--prose", prose_file, "--qa", qa_file, "--limit", 4, "--greedy_limit", 0,
        "--dtype", "float32", "--json", "-", "--markdown", table,
    )  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    return found, table


def test_stdout_holds_the_json_and_nothing_else(outcome: tuple[Any, Path]) -> None:
    found = json.loads(outcome[0].stdout)
    assert list(found) == ["schema", "target", "seed", "limit", "dtype", "command", "rows"]
    assert (found["schema"], found["seed"], found["limit"]) == (1, 0, 4)
    assert found["dtype"] == "float32"
    assert found["command"].startswith("condense eval --condensers head-tail --ratios 4,8 --prose ")
    assert all(list(row) == FIELDS for row in found["rows"])
    assert "content recovery" in outcome[0].stderr


def test_every_baseline_stands_beside_at_each_ratio_and_task(outcome: tuple[Any, Path]) -> None:
    rows = json.loads(outcome[0].stdout)["rows"]
    for task in ("continuation", "answer", "reconstruction"):
        for ratio in (4, 8):
            names = [
                row["condenser"]
                for row in rows
                if (row["task"], row["ratio"], row["source"]) == (task, ratio, "all")
            ]
            wanted = {*BASELINES, *(QUERY_AWARE_BASELINES if task != "reconstruction" else ())}
            assert sorted(names) == sorted(wanted)
    ends = [(row["task"], row["condenser"]) for row in rows if row["ratio"] is None]
    assert len(ends) == len(rows) - len([row for row in rows if row["ratio"]])
    assert {name for _, name in ends} == {"none", "full"}


def test_rows_agree_with_themselves(outcome: tuple[Any, Path]) -> None:
    for row in json.loads(outcome[0].stdout)["rows"]:
        assert row["n"] + row["dropped"] <= 4
        if not row["n"]:
            assert row["loss"] is None
            continue
        gap = row["loss_none"] - row["loss_full"]
        assert gap >= 0.1 - 1e-6
        assert math.isclose(row["recovery"], (row["loss_none"] - row["loss"]) / gap, abs_tol=1e-6)
        if row["content_recovery"] is not None:
            wanted = (row["loss_other"] - row["loss"]) / (row["loss_full_other"] - row["loss_full"])
            assert math.isclose(row["content_recovery"], wanted, rel_tol=1e-6, abs_tol=1e-6)
        if row["task"] == "continuation" and row["ratio"]:
            assert row["n_condensed"] == 256 / row["ratio"]


def test_the_model_writes_reconstructions_by_itself(tiny_llama: str) -> None:
    from neural_condense_core.evaluation.metrics import greedy_accuracy
    from neural_condense_core.llm.base import TokenIds
    from neural_condense_core.llm.hf import load_target
    from neural_condense_core.scoring.judge import Item

    target = load_target(tiny_llama, "cpu", "float32")
    ids = tuple(target.tokenize("a river"))
    item = Item("reconstruction", "d", "s", ids, ids)
    found = greedy_accuracy(target, [item, item], [TokenIds(ids), None])
    assert found.shape == (2,)
    assert np.all((found >= 0) & (found <= 1))


def test_markdown_repeats_the_rows_over_all_sources(outcome: tuple[Any, Path]) -> None:
    rows = json.loads(outcome[0].stdout)["rows"]
    text = outcome[1].read_text(encoding="utf-8")
    assert text.count("\n| ") - 1 == sum(row["source"] == "all" for row in rows)


def fails(*args: object) -> NeuralCondenseError:
    found = invoke(*args)
    assert isinstance(found.exception, NeuralCondenseError), found.output
    return found.exception


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "give --prose"),
        (["--prose", "none.parquet"], "no such file"),
        (["--qa", "none.parquet"], "no such file"),
        (["--prose", "FILE", "--tasks", "anser"], "Did you mean 'answer'"),
        (["--prose", "FILE", "--ratios", "4,x"], "'x' is not a number"),
        (["--prose", "FILE", "--ratios", "0.5"], "from 1 to 1024"),
        (["--prose", "FILE", "--ratios", "nan"], "from 1 to 1024"),
        (["--prose", "FILE", "--positions", "explicite"], "Did you mean 'explicit'"),
        (["--prose", "FILE", "--perturb", "int4"], "Did you mean 'int8'"),
        (["--prose", "FILE", "--dtype", "float16"], "--dtype: unknown 'float16'"),
        (["--prose", "FILE", "--json", "no/such/folder.json"], "is not a folder"),
        (["--prose", "FILE", "--markdown", "no/such/folder.md"], "is not a folder"),
        (["--prose", "FILE", "--condensers", ","], "--condensers is empty"),
        (["--prose", "FILE", "--condensers", "head-tial"], "Did you mean 'head-tail'"),
    ],
)
def test_refusals_come_before_any_model_is_loaded(
    prose_file: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], says: str
) -> None:
    monkeypatch.setitem(sys.modules, "neural_condense_core.llm.hf", None)  # type: ignore[arg-type]
    args = [str(prose_file) if flag == "FILE" else flag for flag in flags]
    error = fails(*(() if "--condensers" in args else ("--condensers", "head-tail")), *args)
    assert says in error.message
    assert error.exit_code == 2


def test_a_missing_checkpoint_is_an_error_and_never_an_untrained_condenser(
    prose_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from neural_condense_core.condensers import checkpoints

    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    error = fails("--condensers", "pooled", "--prose", prose_file)
    assert "no trained weights" in error.message
    assert error.exit_code == 2


@pytest.mark.parametrize("flags", [["--limit", "1"], ["--limt", "4"], ["--seed", "-1"]])
def test_wrong_flags_are_usage_errors(prose_file: Path, flags: list[str]) -> None:
    found = invoke("--condensers", "head-tail", "--prose", prose_file, *flags)
    assert found.exit_code == 2


def test_condensers_of_different_targets_are_refused(
    monkeypatch: pytest.MonkeyPatch, prose_file: Path
) -> None:
    from neural_condense_core.condensers import checkpoints
    from neural_condense_core.errors import ConfigError

    class Loaded:
        def __init__(self, spec: str) -> None:
            self.target_model = f"model of {spec}"

    monkeypatch.setattr(checkpoints, "load_condenser", lambda spec, *_, **__: Loaded(spec))
    with pytest.raises(ConfigError, match="different target models"):
        cli.run(Options(condensers=("stride", "random"), prose=prose_file))


def test_command_repeats_the_evaluation() -> None:
    options = Options(
        condensers=("pooled", "icae"),
        ratios=(4.0, 2.5),
        prose=Path("my file.parquet"),
        tasks=("answer",),
        perturb=("noise", "int8"),
    )
    assert options.command == (
        "condense eval --condensers pooled,icae --ratios 4,2.5 --prose 'my file.parquet' "
        "--tasks answer --limit 64 --seed 0 --perturb noise,int8"
    )
    assert Options(condensers=("a",)).command == (
        "condense eval --condensers a --ratios 4 --limit 64 --seed 0"
    )
