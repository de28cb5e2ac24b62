"""The processes of a run; two of them take the steps of one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neural_condense_core.errors import ConfigError
from neural_condense_core.training.workers import Workers, alone, join_run


def test_rows_are_divided_evenly() -> None:
    assert [Workers(rank, 4, "cpu").own_rows(8) for rank in range(4)] == [
        slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)
    ]  # fmt: skip
    for batch in (6, 2):
        with pytest.raises(ConfigError, match="divided"):
            Workers(0, 4, "cpu").own_rows(batch)


def test_one_process_asks_nobody() -> None:
    workers = alone()
    numbers = torch.tensor([1.0, 2.0])
    assert workers.sum_numbers(numbers) is numbers
    assert (workers.any(True), workers.any(False), workers.is_first) == (True, False, True)
    workers.sum_gradients([torch.zeros(2)])
    workers.leave()


@pytest.mark.parametrize(
    ("variables", "message"),
    [({"RANK": "x"}, "whole numbers"), ({"RANK": "3", "WORLD_SIZE": "2"}, "RANK is 3")],
)
def test_a_launcher_that_contradicts_itself(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        join_run("cpu")


def run_all(line: list[str]) -> None:
    """Run a command and whatever it starts; nothing of it outlives a failure."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(
    tiny_llama: str, prose_file: Path, qa_file: Path, tmp_path: Path
) -> None:
    """The same recipe, the same losses: ``torchrun`` with gloo against a plain process."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f'name = "both"\nmethod = "pooled"\ntarget_model = "{tiny_llama}"\nsteps = 6\nbatch = 4\n'
        "warmup = 2\nstatistics_stretches = 5\ngap_share = 0.5\nkl_top_k = 16\nswap_weight = 0.5\n"
        "position_share = 0.5\n"
        "[swap_margins]\ncontinuation = 0.5\nreconstruction = 3.0\n"
        "[context_lengths]\n64 = 1\n[condenser]\nn_layers = 1\nlora_r = 4\n"
        "[objectives]\ncontinuation = 1\nreconstruction = 1\nanswer = 1\n"
    )
    launchers = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
                "2"],
    }  # fmt: skip
    curves = {}
    for name, launcher in launchers.items():
        out = tmp_path / name
        line = [*launcher, "-m", "neural_condense_core.training", str(recipe), "--prose",
                str(prose_file), "--qa", str(qa_file), "--out", str(out), "--dtype", "float32",
                "--device", "cpu", "--json", str(tmp_path / f"{name}.json")]  # fmt: skip
        run_all(line)
        log = [json.loads(row) for row in (out / "log.jsonl").read_text().splitlines()]
        curves[name] = [(row["objective"], row["ratio"], row["loss"], row["ce"]) for row in log]
    assert json.loads((tmp_path / "two.json").read_text())["processes"] == 2
    assert len(curves["two"]) == 6
    for one, two in zip(curves["one"], curves["two"], strict=True):
        assert one[:2] == two[:2]
        assert two[2:] == pytest.approx(one[2:], rel=1e-3)
