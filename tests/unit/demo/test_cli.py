"""Flags of ``condense demo``, and how the backends are started."""

from __future__ import annotations

import sys

import pytest

from neural_condense_core.demo import flow
from neural_condense_core.demo.cli import parse_backends
from neural_condense_core.demo.flow import specified_backends
from neural_condense_core.demo.processes import Backend
from neural_condense_core.errors import ConfigError


def test_the_specification_s_command_lines(tmp_path, monkeypatch):
    folder = tmp_path / flow.LAUNCHERS
    folder.mkdir(parents=True)
    for name in ("icae_app.py", "pooled_app.py"):
        (folder / name).touch()
    monkeypatch.setattr(flow, "ROOT", tmp_path)
    flags = "--port {port} --devices 1 --workers_per_device 1"
    assert [" ".join(backend.argv[1:]) for backend in specified_backends(None)] == [
        f"services/miner_backend/serving/icae_app.py {flags}",
        f"services/miner_backend/serving/pooled_app.py {flags}",
    ]
    assert specified_backends("m")[0].argv[-2:] == ("--target_model", "m")


def test_without_a_source_tree_the_command_serves(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "ROOT", tmp_path)
    found = specified_backends(None)
    assert [backend.name for backend in found] == ["icae", "pooled"]
    assert found[0].argv[:6] == (
        sys.executable, "-m", "neural_condense_core.cli", "serve", "--condenser", "icae",
    )  # fmt: skip


def test_own_backends():
    found = parse_backends(["a=run 'two words' {port}", "b=x --p={port}"], None)
    assert found == [
        Backend("a", ("run", "two words", "{port}")),
        Backend("b", ("x", "--p={port}")),
    ]


@pytest.mark.parametrize(
    "specs", [["a"], ["=run {port}"], ["a=run"], ["a=x {port}", "a=y {port}"], ["full=x {port}"]]
)
def test_bad_backends_are_refused(specs):
    with pytest.raises(ConfigError, match="--backend"):
        parse_backends(specs, None)
