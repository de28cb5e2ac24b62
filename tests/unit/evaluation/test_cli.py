"""``condense eval`` end to end on a tiny random model, and what it refuses."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.condensers.registry import BASELINES, QUERY_AWARE_BASELINES
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.evaluation import session
from neural_condense_core.evaluation.cli import evaluate
from neural_condense_core.evaluation.options import Options
from neural_condense_core.scoring import judge

FIELDS = [
    "condenser", "ratio", "task", "source", "positions", "perturbation", "query_aware", "n",
    "n_documents", "dropped", "n_condensed", "recovery", "content_recovery", "ci", "loss",
    "loss_none", "loss_full", "loss_other", "loss_full_other", "accuracy", "greedy_accuracy",
    "encode_ms", "by", "n_context", "bytes", "choice", "written", "best_baseline", "fall",
    "fall_ci", "c_by_seed",
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
        "--prose", prose_file, "--qa", qa_file, "--limit", 4, "--greedy_limit", 0, "--tasks",
        "continuation,answer,reconstruction", "--dtype", "float32", "--json", "-", "--markdown",
        table,
    )  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    return found, table


def test_stdout_holds_the_json_and_nothing_else(outcome: tuple[Any, Path]) -> None:
    found = json.loads(outcome[0].stdout)
    assert list(found) == [
        "schema", "target", "seed", "limit", "dtype", "command", "tasks", "seeds", "hidden_size",
        "notes", "rows", "examples",
    ]  # fmt: skip
    assert found["tasks"] == ["continuation", "answer", "reconstruction"]
    assert (found["hidden_size"], found["seeds"], found["examples"]) == (64, [0], [])
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


def test_baselines_that_were_left_out_are_told(tiny_llama: str) -> None:
    line = ("--condensers", "stride", "--target", tiny_llama, "--limit", 2, "--greedy_limit", 0,
            "--json", "-")  # fmt: skip
    found = invoke(*line, "--baselines", "spans, head-tail")
    assert found.exit_code == 0, (found.output, found.exception)
    report = json.loads(found.stdout)
    names = {row["condenser"] for row in report["rows"]}
    assert names == {"none", "full", "stride", "spans", "head-tail"}
    assert "--baselines spans,head-tail" in report["command"]
    (note,) = report["notes"]
    assert "not compared with truncate-head, truncate-tail, " in note
    assert " spans" not in note
    wrong = invoke(*line, "--baselines", "span")
    assert isinstance(wrong.exception, NeuralCondenseError)
    assert "Did you mean 'spans'" in str(wrong.exception)


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


def test_markdown_repeats_the_rows_over_all_sources(outcome: tuple[Any, Path]) -> None:
    rows = json.loads(outcome[0].stdout)["rows"]
    text = outcome[1].read_text(encoding="utf-8")
    first = text.partition("\n\nTarget ")[0]
    assert first.count("\n| ") - 1 == sum(row["source"] == "all" for row in rows)


def pooled_checkpoint(folder: Path, target: str) -> Path:
    """Write a checkpoint of an untrained ``pooled``, which is a selection of spans."""
    config = {"n_layers": 1, "lora_r": 2, "lora_alpha": 4}
    made = PooledCondenser.create(LoadOptions(target, dtype="float32"), config)
    made.save(folder, folder.name, (2, 4))
    return folder


@pytest.fixture(scope="module")
def two_of_one_name(
    tiny_llama: str, prose_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("checkpoints")
    specs = [str(pooled_checkpoint(root / side / "mine", tiny_llama)) for side in "ab"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "MIN_GAP", -math.inf)  # a random model hardly uses its context
        found = invoke(
            "--condensers", ",".join(specs), "--ratios", 4, "--prose", prose_file, "--tasks",
            "continuation", "--limit", 4, "--dtype", "float32", "--json", "-",
        )  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    return specs, json.loads(found.stdout)["rows"]


def test_a_checkpoint_stands_beside_every_baseline_at_its_length(
    two_of_one_name: tuple[list[str], list[dict[str, Any]]],
) -> None:
    specs, rows = two_of_one_name
    rows = [row for row in rows if row["source"] == "all"]
    assert [row["condenser"] for row in rows] == [
        "none", "full", specs[0], *BASELINES, *QUERY_AWARE_BASELINES, specs[1],
    ]  # fmt: skip
    assert [row["n_condensed"] for row in rows] == [None, None, *[64] * (len(rows) - 2)]
    assert {row["n"] for row in rows} == {4}
    assert len({(row["loss_none"], row["loss_full"]) for row in rows}) == 1
    assert all(row["encode_ms"] > 0 for row in rows[2:])


def test_folders_of_one_name_are_told_apart_by_their_paths(
    two_of_one_name: tuple[list[str], list[dict[str, Any]]],
) -> None:
    specs, rows = two_of_one_name
    for spec in specs:
        assert [row["source"] for row in rows if row["condenser"] == spec] == [
            "all", "books", "manuals",
        ]  # fmt: skip
    first, second = (
        [
            {name: value for name, value in row.items() if name not in {"condenser", "encode_ms"}}
            for row in rows
            if row["condenser"] == spec
        ]
        for spec in specs
    )
    assert first == second


@pytest.mark.parametrize(
    ("specs", "names", "expected"),
    [
        (["pooled", "icae"], ["pooled-fast", "icae"], ["pooled-fast", "icae"]),
        (["a/x", "b/x", "icae"], ["x", "x", "icae"], ["a/x", "b/x", "icae"]),
        (["spans", "a/spans"], ["spans", "spans"], ["spans", "a/spans"]),
        (["x", "y", "a/x"], ["y", "y", "x"], ["x", "y", "a/x"]),
    ],
)
def test_names_that_collide_become_the_command_lines(
    specs: list[str], names: list[str], expected: list[str]
) -> None:
    condensers: list[Any] = [SimpleNamespace(name=name) for name in names]
    session._name_apart(specs, condensers)
    assert [condenser.name for condenser in condensers] == expected


def test_a_checkpoint_that_is_called_like_a_baseline_is_refused(
    tiny_llama: str, prose_file: Path, tmp_path: Path
) -> None:
    folder = pooled_checkpoint(tmp_path / "spans", tiny_llama)
    error = fails("--condensers", folder, "--prose", prose_file, "--dtype", "float32")
    assert "a trained condenser is called 'spans'" in error.message
    assert error.exit_code == 2


def test_a_published_file_is_evaluated_by_its_path(
    prose_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "MIN_GAP", -math.inf)
    golden = Path(__file__).resolve().parents[2] / "golden" / "icae_v2"
    found = invoke(
        "--condensers", golden / "icae.safetensors", "--target", golden / "base", "--prose",
        prose_file, "--tasks", "continuation", "--limit", 2, "--dtype", "float32", "--json", "-",
    )  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    rows = {row["condenser"]: row for row in json.loads(found.stdout)["rows"]}
    # 256 tokens are one span, whose 128 memory tokens are all there
    assert rows["icae"]["n_condensed"] == rows["truncate-tail"]["n_condensed"] == 128


def fails(*args: object) -> NeuralCondenseError:
    found = invoke(*args)
    assert isinstance(found.exception, NeuralCondenseError), found.output
    return found.exception


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tasks", "nedle"], "Did you mean 'needle'"),
        (["--lengths", "256,x"], "'x' is not a whole number from 1"),
        (["--lengths", "0"], "'0' is not a whole number from 1"),
        (["--seeds", "1,-1"], "'-1' is not a whole number from 0"),
        (["--seeds", ",".join(map(str, range(17)))], "at most 16"),
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
        session.run(Options(condensers=("stride", "random"), prose=prose_file))


def test_without_a_file_generated_tasks_run_and_seeds_repeat_them(
    tiny_llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "MIN_GAP", -math.inf)
    found = invoke(
        "--condensers", "truncate-head", "--target", tiny_llama, "--limit", 4, "--seeds", "3,1",
        "--greedy_limit", 1, "--examples", 1, "--perturb", "dtype", "--dtype", "float32", "--json",
        "-",
    )  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    report = json.loads(found.stdout)
    assert (report["tasks"], report["seeds"], report["seed"]) == (["counterfactual"], [3, 1], 3)
    assert "--seeds 3,1 --perturb dtype --greedy_limit 1 --examples 1" in report["command"]
    (example,) = report["examples"]
    assert [reply["condenser"] for reply in example["replies"]] == ["none", "full", "truncate-head"]
    row, moved = (
        row
        for row in report["rows"]
        if (row["condenser"], row["source"]) == ("truncate-head", "all")
    )
    assert row["c_by_seed"][0] == row["content_recovery"]
    assert len(row["c_by_seed"]) == 2
    assert (row["choice"]["n"], row["choice"]["n_choices"], row["written"]["n"]) == (4, 4, 1)
    assert moved["perturbation"] == "dtype"
    assert moved["loss"] == pytest.approx(row["loss"], abs=0.1)
    assert moved["loss"] != row["loss"]


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
    several = Options(condensers=("a",), seed=3, seeds=(3, 4), lengths=(512, 1024))
    assert several.command.endswith("--limit 64 --seed 3 --seeds 3,4 --lengths 512,1024")
