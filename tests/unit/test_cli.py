"""The ``condense`` command: names, helps, spellings, and errors as exit codes."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import click
import pytest
import typer
from typer.testing import CliRunner

from neural_condense_core import cli
from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    NeuralCondenseError,
    TargetModelError,
)
from neural_condense_core.registry import import_target

RUNNER = CliRunner()
ROOT = Path(__file__).parents[2]


def run(*args: str):
    return RUNNER.invoke(cli.app, list(args))


def failing(kind: Annotated[str, typer.Option("--the_kind")] = "config") -> None:
    """Fail in some way."""
    errors = {
        "config": ConfigError("[a] flag is wrong"),
        "target": TargetModelError("no model"),
        "backend": BackendError("nobody there"),
        "short": NeuralCondenseError("fell short"),
    }
    raise errors[kind]


@pytest.fixture
def failing_command(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "models", cli.Entry(f"{__name__}:failing", "Fail."))
    monkeypatch.setattr(cli, "import_target", lambda target: failing)


def test_help_lists_all_commands():
    result = run("--help")
    assert result.exit_code == 0
    for name, entry in cli.COMMANDS.items():
        assert name in result.output
        assert entry.help[:30] in result.output


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = readme.partition("## The `condense` command")[2].partition("## How good")[0]
    assert set(re.findall(r"^condense ([a-z]+)", listed, re.MULTILINE)) == set(cli.COMMANDS)


def commands():
    """Yield every command and sub-command by its words."""

    def below(words, command):
        yield words
        for name, each in getattr(command, "commands", {}).items():
            yield from below((*words, name), each)

    for name in cli.COMMANDS:
        yield from below((name,), cli.load_command(name))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_is_for_users(words):
    """Sections of docstrings and places in the code are for programmers."""
    result = run(*words, "--help")
    assert result.exit_code == 0
    shown = click.unstyle(result.output)
    assert not re.search(r"\b(Raises|Parameters|Returns|Yields)\b|-{4,}|``", shown)
    assert not re.search(r"\b(ConfigError|ChainError|None|neural_condense_core)\b", shown)
    assert len(shown.splitlines()) > 5


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "neurons.miner"),
        ("-m", "neurons.validator"),
        ("services/miner_backend/serving/icae_app.py",),
        ("services/miner_backend/serving/pooled_app.py",),
        ("services/validator_backend/scoring/app.py",),
    ],
    ids=lambda words: words[-1],
)
def test_a_launchers_help_is_for_users(words):
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout
    assert not re.search(r"Raises|Parameters|Returns|-{6,}|``", click.unstyle(done.stdout))


def test_the_issue_s_commands_are_there():
    assert set(cli.COMMANDS) == {
        "text", "ask", "eval", "train", "pack", "serve", "models", "demo", "doctor", "register",
        "dev", "bench", "explain", "keys", "up", "corpus", "gateway", "dashboard", "loadtest",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_each_help_is_the_first_line_of_its_function(name):
    entry = cli.COMMANDS[name]
    function = import_target(entry.target)
    assert inspect.getdoc(function).splitlines()[0] == entry.help
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "--help" in result.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["servee"], "Did you mean 'serve'?"),
        (["--debugg"], "--debug"),
        (["models", "--jsn", "-"], "--json"),
        (["text", "a.txt"], "Missing option"),
        ([], "Usage"),
    ],
)
def test_wrong_usage_exits_2_and_suggests(args, said):
    result = run(*args)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    ("kind", "code"), [("config", 2), ("target", 3), ("backend", 3), ("short", 1)]
)
@pytest.mark.usefixtures("failing_command")
def test_an_error_of_ours_is_its_message_and_its_exit_code(kind, code):
    result = run("models", "--the_kind", kind)
    assert result.exit_code == code
    assert "error" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.usefixtures("failing_command")
def test_debug_shows_the_traceback_and_keeps_the_exit_code():
    result = run("--debug", "models")
    assert result.exit_code == 2
    assert "[a] flag is wrong" in result.stderr


@pytest.mark.usefixtures("failing_command")
@pytest.mark.parametrize("flag", ["--the_kind", "--the-kind"])
def test_options_may_be_spelt_either_way(flag):
    assert run("models", flag, "target").exit_code == 3


@pytest.mark.parametrize(
    "args",
    [
        ["text", "missing.txt", "-o", "out", "--json", "PATH"],
        ["text", "missing.txt", "-o", "PATH"],
        ["ask", "missing.txt", "why?", "--json", "PATH"],
        ["demo", "--file", "missing.txt", "--json", "PATH"],
        ["train", "missing.toml", "--json", "PATH"],
        ["eval", "--condensers", "stride", "--prose", "missing.parquet", "--json", "PATH"],
        ["eval", "--condensers", "stride", "--prose", "missing.parquet", "--markdown", "PATH"],
        ["models", "--json", "PATH"],
        ["doctor", "--json", "PATH"],
    ],
    ids=lambda args: f"{args[0]} {args[-2]}",
)
def test_where_it_will_write_is_checked_before_anything_else(args, tmp_path):
    path = str(tmp_path / "no" / "out.json")
    result = run(*(path if arg == "PATH" else arg for arg in args))
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert result.stderr.count("\n") == 1, "nothing was done before"


def test_help_loads_neither_torch_nor_the_commands():
    code = (
        "import sys\n"
        "sys.argv = ['condense', '--help']\n"
        "from neural_condense_core.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: condense" in done.stdout


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "neural_condense_core.cli", "servee"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Did you mean 'serve'?" in done.stderr
    assert done.stdout == ""
