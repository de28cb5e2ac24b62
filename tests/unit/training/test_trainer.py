"""The loop: it learns, repeats by seed, and resumes exactly."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from neural_condense_core.cli import app
from neural_condense_core.condensers.checkpoints import load_condenser, read_config
from neural_condense_core.errors import CheckpointError, ConfigError, DivergedError
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.objectives import Batch
from neural_condense_core.training.trainer import StepReport, Trainer


@pytest.fixture(params=["pooled", "icae"])
def recipe(request: pytest.FixtureRequest, tiny_llama: str) -> Recipe:
    return Recipe(
        name="tiny",
        method=request.param,
        target_model=tiny_llama,
        condenser={"n_layers": 1, "lora_r": 4, "lora_alpha": 8},
        steps=6,
        batch=2,
        warmup=2,
        statistics_stretches=5,
        imitation_steps=1,
        swap_weight=0.5,
        swap_margins={"reconstruction": 3.0},
        ratios={4: 0.5, 8: 0.5},
        objectives={"continuation": 0.4, "reconstruction": 0.4, "answer": 0.2},
    )


def run(trainer: Trainer, minutes: float | None = None) -> list[StepReport]:
    steps: list[StepReport] = []
    trainer.train(minutes, steps.append)
    return steps


def curve(steps: list[StepReport]) -> list[tuple[int, str, int, float]]:
    return [(s.step, s.objective, s.ratio, s.ce) for s in steps]


def test_a_resumed_run_goes_on_exactly(
    recipe: Recipe, prose_file: Path, qa_file: Path, tmp_path: Path
) -> None:
    def trainer(out: str) -> Trainer:
        return Trainer(recipe, prose_file, qa_file, tmp_path / out, dtype="float32")

    whole = trainer("whole")
    steps = run(whole)
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6]

    first = trainer("parts")
    stopped: list[StepReport] = []

    def stop_after_three(step: StepReport) -> None:
        stopped.append(step)
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.train(None, stop_after_three)
    second = trainer("parts")
    second.resume()
    assert curve(stopped + run(second)) == curve(steps)
    for name, tensor in whole.condenser.trained_state().items():
        assert torch.equal(tensor, second.condenser.trained_state()[name]), name


def test_training_lowers_the_loss(recipe: Recipe, prose_file: Path, tmp_path: Path) -> None:
    """A stretch of text that repeats is learned by heart in thirty steps."""
    longer = replace(
        recipe,
        imitation_steps=0,
        steps=30,
        objectives={"reconstruction": 1.0},
        ratios={4: 1.0},
        lr_head=3e-3,
    )
    steps = run(Trainer(longer, prose_file, None, tmp_path, dtype="float32"))
    first, last = (sum(s.ce for s in part) / 5 for part in (steps[:5], steps[-5:]))
    assert last < first - 0.1


def test_no_minutes_means_no_step_and_a_state(
    recipe: Recipe, prose_file: Path, qa_file: Path, tmp_path: Path
) -> None:
    assert run(Trainer(recipe, prose_file, qa_file, tmp_path, dtype="float32"), minutes=0) == []
    assert (tmp_path / "state.safetensors").is_file()


def test_a_state_of_another_recipe_is_refused(
    recipe: Recipe, prose_file: Path, qa_file: Path, tmp_path: Path
) -> None:
    run(Trainer(recipe, prose_file, qa_file, tmp_path, dtype="float32"), minutes=0)
    other = Trainer(replace(recipe, seed=1), prose_file, qa_file, tmp_path, dtype="float32")
    with pytest.raises(CheckpointError, match="another recipe"):
        other.resume()
    nowhere = Trainer(recipe, prose_file, qa_file, tmp_path / "none", dtype="float32")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        nowhere.resume()


def test_missing_data_is_named(recipe: Recipe, prose_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--prose"):
        Trainer(recipe, None, None, tmp_path)
    with pytest.raises(ConfigError, match="--qa"):
        Trainer(recipe, prose_file, None, tmp_path)


def test_what_cannot_be_trained_is_refused(
    recipe: Recipe, prose_file: Path, qa_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot be trained"):
        Trainer(replace(recipe, method="stride"), prose_file, qa_file, tmp_path)


def test_the_command_writes_a_checkpoint_that_loads(
    tiny_llama: str, prose_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        f'name = "mine"\nmethod = "pooled"\ntarget_model = "{tiny_llama}"\nsteps = 2\nbatch = 1\n'
        "statistics_stretches = 5\n"
        "[condenser]\nn_layers = 1\nlora_r = 2\n[objectives]\ncontinuation = 1.0\n"
    )
    out = tmp_path / "out"
    line = ["train", str(path), "--prose", str(prose_file), "--out", str(out), "--dtype", "float32"]
    done = CliRunner().invoke(app, [*line, "--json", "-"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["finished"]) == (2, True)
    assert summary["context_tokens"] == 2 * 256
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    condenser = load_condenser(summary["checkpoint"], dtype="float32")
    assert condenser.ratios == (1, 4)
    assert read_config(Path(summary["checkpoint"])).measured["trained_steps"] == 2
    refused = CliRunner().invoke(app, line)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    for flag in ("--resume", "--overwrite"):
        again = CliRunner().invoke(app, [*line, flag])
        assert again.exit_code == 0, again.output


def test_sigterm_ends_the_step_and_keeps_the_state(
    tiny_llama: str, prose_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        f'name = "mine"\nmethod = "pooled"\ntarget_model = "{tiny_llama}"\nsteps = 50\nbatch = 1\n'
        "statistics_stretches = 5\n[condenser]\nn_layers = 1\nlora_r = 2\n"
        "[objectives]\ncontinuation = 1.0\n"
    )
    update = torch.optim.AdamW.step

    def interrupted(self: torch.optim.AdamW, *args: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return update(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    out = tmp_path / "out"
    line = ["train", str(path), "--prose", str(prose_file), "--out", str(out), "--dtype", "float32"]
    done = CliRunner().invoke(app, [*line, "--json", "-"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["finished"]) == (1, False)
    with safe_open(out / "state.safetensors", framework="pt") as state:
        assert state.metadata()["step"] == "1"


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_change(
    recipe: Recipe, prose_file: Path, qa_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(recipe, prose_file, qa_file, tmp_path, dtype="float32")
    before = {name: tensor.clone() for name, tensor in trainer.condenser.trained_state().items()}
    honest = trainer._loss

    def poisoned(batch: Batch, ratio: int) -> tuple[torch.Tensor, float]:
        loss, nats = honest(batch, ratio)
        return loss * float("nan"), nats

    monkeypatch.setattr(trainer, "_loss", poisoned)
    with pytest.raises(DivergedError, match="step 1"):
        run(trainer)
    for name, tensor in trainer.condenser.trained_state().items():
        assert torch.equal(tensor, before[name])


def test_a_ratio_or_length_that_is_not_offered_is_refused_at_once(
    recipe: Recipe, prose_file: Path, qa_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="ratio 3"):
        Trainer(replace(recipe, ratios={3: 1.0}), prose_file, qa_file, tmp_path)
    with pytest.raises(ConfigError, match="512"):
        Trainer(replace(recipe, context_lengths={512: 1.0}), prose_file, qa_file, tmp_path)


def test_the_seed_decides_the_start(
    recipe: Recipe, prose_file: Path, qa_file: Path, tmp_path: Path
) -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        trainer = Trainer(
            replace(recipe, seed=seed), prose_file, qa_file, tmp_path, dtype="float32"
        )
        return trainer.condenser.trained_state()

    one, same, other = start(1), start(1), start(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one if "lora_A" in name)
