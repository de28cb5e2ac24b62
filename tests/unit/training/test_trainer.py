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
from neural_condense_core.training.batches import Batch
from neural_condense_core.training.config import Recipe, Stage
from neural_condense_core.training.schedule import StepPlan
from neural_condense_core.training.sources import DataFiles
from neural_condense_core.training.trainer import (
    RunSettings,
    StepReport,
    Trainer,
    compile_layers,
)
from neural_condense_core.training.workers import Workers


@pytest.fixture(params=["pooled", "icae"])
def recipe(request: pytest.FixtureRequest, tiny_recipe: Recipe) -> Recipe:
    """Every flag on."""
    return replace(
        tiny_recipe,
        method=request.param,
        imitation_steps=1,
        micro_batch=1,
        curriculum=(2,),
        curriculum_share=0.4,
        gap_share=0.5,
        kl_top_k=8,
        swap_weight=0.5,
        swap_margins={"reconstruction": 3.0},
        robust_share=0.5,
        position_share=0.5,
        generated_share=0.5,
        generated_pool=20,
        head_warmup=2,
        stages=(Stage(0.7, {"reconstruction": 1.0}),),
    )


def trainer_of(recipe: Recipe, files: DataFiles, out: Path) -> Trainer:
    return Trainer(recipe, files, out, settings=RunSettings("float32"))


def run(trainer: Trainer, minutes: float | None = None) -> list[StepReport]:
    steps: list[StepReport] = []
    trainer.train(minutes, steps.append)
    return steps


def curve(steps: list[StepReport]) -> list[tuple[int, str, int, float]]:
    return [(s.step, s.objective, s.ratio, s.ce) for s in steps]


def test_a_resumed_run_goes_on_exactly(recipe: Recipe, files: DataFiles, tmp_path: Path) -> None:
    def trainer(out: str) -> Trainer:
        return trainer_of(recipe, files, tmp_path / out)

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


def test_training_lowers_the_loss(tiny_recipe: Recipe, prose_file: Path, tmp_path: Path) -> None:
    """A stretch of text that repeats is learned by heart in thirty steps."""
    longer = replace(
        tiny_recipe,
        steps=30,
        objectives={"reconstruction": 1.0},
        ratios={4: 1.0},
        lr_head=3e-3,
    )
    steps = run(trainer_of(longer, DataFiles(prose_file), tmp_path))
    first, last = (sum(s.ce for s in part) / 5 for part in (steps[:5], steps[-5:]))
    assert last < first - 0.1


def test_a_scaled_residual_is_written_and_training_could_go_on(
    tiny_recipe: Recipe, prose_file: Path, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, residual_scale=0.5, objectives={"reconstruction": 1.0})
    trainer = trainer_of(recipe, DataFiles(prose_file), tmp_path)
    run(trainer)
    before = {name: tensor.clone() for name, tensor in trainer.condenser.trained_state().items()}
    trainer.save_checkpoint(tmp_path / "made")
    with safe_open(tmp_path / "made" / "condenser.safetensors", "pt") as written:
        for name, tensor in before.items():
            assert torch.equal(trainer.condenser.trained_state()[name], tensor), name
            share = 0.5 if name in {"down.weight", "down.bias"} else 1.0
            found = written.get_tensor(name)
            assert torch.equal(found, (tensor * share).to(found.dtype)), name
    assert before["down.weight"].abs().max() > 0


def test_no_minutes_means_no_step_and_a_state(
    recipe: Recipe, files: DataFiles, tmp_path: Path
) -> None:
    assert run(trainer_of(recipe, files, tmp_path), minutes=0) == []
    assert (tmp_path / "state.safetensors").is_file()


def test_a_state_of_another_recipe_is_refused(
    recipe: Recipe, files: DataFiles, tmp_path: Path
) -> None:
    run(trainer_of(recipe, files, tmp_path), minutes=0)
    other = trainer_of(replace(recipe, seed=1), files, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        other.resume()
    nowhere = trainer_of(recipe, files, tmp_path / "none")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        nowhere.resume()


def test_what_cannot_be_trained_is_refused(
    tiny_recipe: Recipe, files: DataFiles, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot be trained"):
        trainer_of(replace(tiny_recipe, method="stride"), files, tmp_path)
    with pytest.raises(ConfigError, match="at ratio 1 pooled has nothing to learn"):
        trainer_of(replace(tiny_recipe, curriculum=(1, 2)), files, tmp_path)
    with pytest.raises(ConfigError, match="divided among 3 processes"):
        Trainer(tiny_recipe, files, tmp_path, workers=Workers(0, 3, "cpu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, of its own
def test_compiled_layers_take_the_same_steps(
    tiny_recipe: Recipe, tiny_models: dict[str, str], files: DataFiles, tmp_path: Path
) -> None:
    recipe = replace(
        tiny_recipe,
        target_model=tiny_models["qwen2"],
        steps=4,
        objectives={"reconstruction": 1.0},
        ratios={4: 1.0},
    )
    plain = run(trainer_of(recipe, files, tmp_path))
    trainer = trainer_of(recipe, files, tmp_path)
    compile_layers(trainer.condenser, trainer.target, backend="eager")
    for one, other in zip(curve(plain), curve(run(trainer)), strict=True):
        assert one[:3] == other[:3]
        assert one[3] == pytest.approx(other[3], rel=1e-4)


def test_a_step_says_how_fast_it_was(tiny_recipe: Recipe, files: DataFiles, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe, files, tmp_path)
    steps = run(trainer)
    seen: set[tuple[str, int]] = set()
    for step in steps:
        assert step.tokens_per_s == pytest.approx(2 * 64 / step.seconds)
        # the first step of a shape is slowed by counting its operations
        assert (step.matrix_share is None) == ((step.objective, step.ratio) not in seen)
        seen.add((step.objective, step.ratio))
    assert 0 < trainer.meter.matrix_share < 1
    assert trainer.meter.tokens_per_s > 0


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
    line += ["--device", "cpu"]
    done = CliRunner().invoke(app, [*line, "--json", "-"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["finished"]) == (2, True)
    assert summary["context_tokens"] == 2 * 256
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    condenser = load_condenser(summary["checkpoint"], dtype="float32")
    assert condenser.ratios == (1, 4)
    assert read_config(Path(summary["checkpoint"])).measured["trained_steps"] == 2
    assert (summary["device"], summary["processes"]) == ("cpu", 1)
    assert summary["tokens_per_s"] > 0
    assert 0 < summary["matrix_share"] < 1
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
    line += ["--device", "cpu"]
    done = CliRunner().invoke(app, [*line, "--json", "-"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["finished"]) == (1, False)
    with safe_open(out / "state.safetensors", framework="pt") as state:
        assert state.metadata()["step"] == "1"


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_change(
    recipe: Recipe, files: DataFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(recipe, files, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.condenser.trained_state().items()}
    honest = trainer._supervisor.backward

    def poisoned(plan: StepPlan, batch: Batch) -> tuple[float, float]:
        honest(plan, batch)
        return float("nan"), 0.0

    monkeypatch.setattr(trainer._supervisor, "backward", poisoned)
    with pytest.raises(DivergedError, match="step 1"):
        run(trainer)
    for name, tensor in trainer.condenser.trained_state().items():
        assert torch.equal(tensor, before[name])


def test_a_ratio_or_length_that_is_not_offered_is_refused_at_once(
    recipe: Recipe, files: DataFiles, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="ratio 3"):
        trainer_of(replace(recipe, ratios={3: 1.0}), files, tmp_path)
    with pytest.raises(ConfigError, match="512"):
        trainer_of(replace(recipe, context_lengths={512: 1.0}), files, tmp_path)


def test_the_seed_decides_the_start(recipe: Recipe, files: DataFiles, tmp_path: Path) -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        trainer = trainer_of(replace(recipe, seed=seed), files, tmp_path)
        return trainer.condenser.trained_state()

    one, same, other = start(1), start(1), start(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one if "lora_A" in name)
