"""The code, the entry point and the commands of docs/adding_a_condenser.md do what it says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from neural_condense_core.client.backend import BackendClient
from neural_condense_core.condensers.base import Condenser
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.registry import METHODS
from neural_condense_core.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding_a_condenser.md"
SPEC = "my_module:MyCondenser"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """Write the page's class as the page says, importable."""
    (code,) = blocks("python")
    (tmp_path / "my_module.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_module", None)


@pytest.fixture
def condenser(my_module, tiny_llama) -> Condenser:
    return load_condenser(SPEC, tiny_llama, dtype="float32")


def test_the_class_condenses(condenser):
    texts = ["Any text at all.", "x", "\U0001f600 \n" * 200]
    contexts = [condenser.tokenize(text) for text in texts]
    batch = condenser.condense(contexts, 4)
    for ids, tokens in zip(contexts, batch, strict=True):
        assert tokens.n_condensed_tokens == condenser.n_condensed_tokens(len(ids), 4)
        assert (tokens.n_context_tokens, tokens.checkpoint) == (len(ids), SPEC)
        assert (np.diff(tokens.positions) > 0).all()
        (alone,) = condenser.condense([ids], 4)
        np.testing.assert_array_equal(tokens.embeds, alone.embeds)


def test_the_class_keeps_the_whole_text_at_ratio_one(condenser):
    ids = condenser.tokenize("Any text at all.")
    (tokens,) = condenser.condense([ids], 1)
    np.testing.assert_array_equal(tokens.embeds, condenser.target.embed(ids))


def test_the_class_refuses_what_the_page_says(condenser):
    for contexts, ratio in (([[]], 4), ([[5]], 0.5)):
        with pytest.raises(RequestError):
            condenser.condense(contexts, ratio)


def test_the_class_is_about_thirty_lines():
    (code,) = blocks("python")
    body = code[code.index("class ") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 30


def test_the_entry_point_makes_a_name(my_module, tiny_llama):
    (declaration,) = blocks("toml")
    ((group, names),) = tomllib.loads(declaration)["project"]["entry-points"].items()
    info = my_module / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in names.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    assert "my-condenser" in METHODS.names()
    assert load_condenser("my-condenser", tiny_llama, dtype="float32").name == "my-condenser"


def start(folder: Path, *argv: str) -> subprocess.Popen[str]:
    """Start ``condense`` in a folder, as the page does."""
    return subprocess.Popen(
        [sys.executable, "-m", "neural_condense_core.cli", *argv],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", str(ROOT)])},
    )  # fmt: skip


def run(folder: Path, *argv: str) -> tuple[int, str, str]:
    process = start(folder, *argv)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def commands() -> dict[str, str]:
    """Return the page's ``condense`` lines by sub-command; of two the first."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("condense "):
            found.setdefault(line.split()[1], line)
    return found


@pytest.mark.parametrize("command", commands())
def test_the_commands_have_these_options(tmp_path, command):
    code, out, err = run(tmp_path, command, "--help")
    assert code == 0, err
    known = {flag.replace("_", "-") for flag in re.findall(r"--?[a-z][\w-]*", out)}
    asked = {word for word in shlex.split(commands()[command]) if word.startswith("-")}
    assert {flag.replace("_", "-") for flag in asked} <= known


def test_the_text_command_runs_the_class(my_module, tiny_llama):
    (my_module / "README.md").write_text("A text of some length, to be condensed. " * 20)
    line = shlex.split(commands()["text"])[1:]
    code, _, err = run(my_module, *line, "--target", tiny_llama)
    assert code == 0, err
    tokens = load_file(my_module / "readme.safetensors")
    assert (200, 64) in [tensor.shape for tensor in tokens.values()]


def test_the_serve_command_serves_the_class(my_module, tiny_llama, condenser):
    text = "A text of some length, to be condensed. " * 20
    line = shlex.split(commands()["serve"])[1:]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line[line.index("--port") + 1] = str(port)
    server = start(my_module, *line, "--target_model", tiny_llama, "--dtype", "float32")
    try:
        with BackendClient(f"http://127.0.0.1:{port}") as backend:
            backend.wait_ready(120)
            found = backend.condense(text, ratio=4)
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    finally:
        server.kill()
    (expected,) = condenser.condense([condenser.tokenize(text)], 4)
    assert (found.n_context_tokens, found.n_condensed_tokens) == (800, 200)
    np.testing.assert_allclose(found.embeds, expected.embeds, atol=1e-3)
