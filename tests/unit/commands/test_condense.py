"""``condense text`` and ``condense ask`` on a tiny random model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from neural_condense_core.cli import app
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors

RUNNER = CliRunner()
TEXT = "The hare ran past the tortoise and slept under a tree until noon."


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_text_writes_condensed_tokens_and_figures(story, tmp_path, tiny_llama):
    out = tmp_path / "out.safetensors"
    result = RUNNER.invoke(
        app,
        ["text", story, "-o", str(out), "--condenser", "truncate-head", "--target", tiny_llama,
         "--ratio", "2", "--json", "-"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    body = out.read_bytes()
    tokens = from_safetensors(body, Limits(max_bytes=1 << 20, max_tokens=1000))
    assert tokens.n_condensed_tokens == 33
    assert {key: figures[key] for key in figures if key != "ms"} == {
        "schema": 1,
        "source": story,
        "output": str(out),
        "condenser": "truncate-head",
        "target_model": tiny_llama,
        "n_context_tokens": len(TEXT),
        "n_condensed_tokens": 33,
        "hidden_size": 64,
        "compression_ratio": len(TEXT) / 33,
        "bytes": len(body),
    }
    assert "33 condensed" in result.stderr.replace("\n", " ")


def test_text_reads_stdin(tmp_path, tiny_llama):
    out = tmp_path / "out.safetensors"
    result = RUNNER.invoke(
        app,
        ["text", "-", "-o", str(out), "--condenser", "stride", "--target", tiny_llama],
        input=TEXT,
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert out.stat().st_size > 0


def test_text_writes_bytes_to_stdout(story, tmp_path, tiny_llama):
    args = ["text", story, "--condenser", "stride", "--target", tiny_llama]
    out, figures = tmp_path / "out.safetensors", tmp_path / "figures.json"
    assert RUNNER.invoke(app, [*args, "-o", str(out)]).exit_code == 0
    result = RUNNER.invoke(app, [*args, "-o", "-", "--json", str(figures)])
    assert result.exit_code == 0, result.output
    assert result.stdout_bytes == out.read_bytes()
    assert json.loads(figures.read_text())["output"] == "-"
    assert "bytes in stdout" in result.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--condenser", "truncate-haed"], "truncate-head"),
        (["--ratio", "0.5"], "ratio must be at least 1"),
        (["-o", "/dev/null/x"], "cannot write"),
        (["-o", "-", "--json", "-"], "cannot share stdout"),
    ],
)
def test_text_refuses_what_it_cannot_do(story, tmp_path, tiny_llama, flags, said):
    result = RUNNER.invoke(
        app,
        ["text", story, "-o", str(tmp_path / "o"), "--condenser", "truncate-head", "--target",
         tiny_llama, *flags],
    )  # fmt: skip
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")


def test_ask_prints_the_answer_alone(story, tiny_llama):
    result = RUNNER.invoke(
        app,
        ["ask", story, "Who slept?", "--condenser", "head-tail", "--target", tiny_llama,
         "--max_new_tokens", "4"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) <= 5


def test_ask_compares_three_contexts(story, tiny_llama):
    result = RUNNER.invoke(
        app,
        ["ask", story, "Who slept?", "--condenser", "head-tail", "--target", tiny_llama,
         "--compare", "--max-new-tokens", "4", "--json", "-"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = {row["name"]: row for row in found["answers"]}
    assert [row["n_tokens"] for row in rows.values()] == [0, len(TEXT), 17]
    assert list(rows) == ["none", "full", "head-tail"]
    empty = rows["none"]["n_prompt_tokens"]
    assert [row["n_prompt_tokens"] - empty for row in rows.values()] == [0, len(TEXT), 17]
    assert rows["full"]["condense_ms"] is None
    assert rows["head-tail"]["condense_ms"] > 0
    assert all(row["answer_ms"] > 0 for row in rows.values())
    assert "head-tail" in result.stderr


def test_ask_leaves_out_a_full_text_that_does_not_fit(tmp_path, tiny_llama):
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 33, encoding="utf-8")  # 2,145 tokens; the model has 2,048 positions
    result = RUNNER.invoke(
        app,
        ["ask", str(path), "Who slept?", "--condenser", "head-tail", "--target", tiny_llama,
         "--compare", "--max-new-tokens", "4", "--json", "-"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["answers"]
    assert [row["name"] for row in rows] == ["none", "head-tail"]
    assert "The full text does not fit" in result.stderr
    assert "of 2,048; no answer from it" in result.stderr


def test_ask_gives_query_aware_methods_the_question(story, tiny_llama):
    result = RUNNER.invoke(
        app,
        ["ask", story, "Who slept?", "--condenser", "sentence-retrieval", "--target", tiny_llama,
         "--max_new_tokens", "2"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--refine_steps", "1"], "stride+refine=1"),
        (["--refine_ms", "50"], "stride+refine=50ms"),
    ],
)
def test_refinement_is_asked_for_by_flag(story, tmp_path, tiny_llama, flags, name):
    common = [story, "--condenser", "stride", "--target", tiny_llama, "--json", "-", *flags]
    result = RUNNER.invoke(app, ["text", *common, "-o", str(tmp_path / "out.safetensors")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["condenser"] == name
    asked = RUNNER.invoke(app, ["ask", common[0], "Who slept?", *common[1:]])
    assert asked.exit_code == 0, asked.output
    assert [each["name"] for each in json.loads(asked.stdout)["answers"]] == [name]


def test_refinement_by_two_measures_is_refused(story, tmp_path):
    result = RUNNER.invoke(
        app,
        ["text", story, "-o", str(tmp_path / "out"), "--refine_steps", "1", "--refine_ms", "9"],
    )
    assert result.exit_code == 2
    assert "not both" in " ".join(result.output.split())
