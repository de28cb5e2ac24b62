"""Going on from a checkpoint, for the same target and for others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.errors import CheckpointError, ConfigError
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.session import RunArguments, Watcher, run
from neural_condense_core.training.sources import DataFiles
from neural_condense_core.training.trainer import RunSettings, Trainer, moved


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    return replace(tiny_recipe, objectives={"reconstruction": 1.0}, steps=10, lr_adapter=1e-2)


@pytest.fixture(scope="module")
def data(prose_file: Path) -> DataFiles:
    return DataFiles(prose_file)


@pytest.fixture(scope="module")
def origin(recipe: Recipe, data: DataFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("origin")
    arguments = RunArguments(recipe, data, out, settings=RunSettings("float32"), device="cpu")
    return Path(run(arguments, Watcher())["checkpoint"])


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory, tiny_llama: str) -> str:
    """A Llama of width 96, so that no trained matrix fits."""
    config = LlamaConfig(
        vocab_size=259, hidden_size=96, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        initializer_range=0.1, bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wider") / "tiny-wider"
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return str(folder)


def begin(recipe: Recipe, data: DataFiles, out: Path, init: Path) -> Trainer:
    return Trainer(recipe, data, out, init, RunSettings("float32"))


def test_the_same_target_takes_everything(
    recipe: Recipe, data: DataFiles, origin: Path, tmp_path: Path
) -> None:
    trainer = begin(replace(recipe, condenser={}), data, tmp_path, origin)
    assert trainer.transferred.fresh == ()
    stored = load_condenser(str(origin), dtype="float32").trained_state()
    for name, tensor in trainer.condenser.trained_state().items():
        assert torch.equal(tensor, stored[name]), name
    assert trainer.recipe.head_warmup == recipe.head_warmup
    assert trainer.recipe.condenser["n_layers"] == 1


@pytest.mark.parametrize("family", ["mistral", "gemma", "qwen"])
def test_another_family_of_the_same_width_trains_its_projector_first(
    recipe: Recipe,
    data: DataFiles,
    origin: Path,
    tmp_path: Path,
    tiny_models: dict[str, str],
    family: str,
) -> None:
    other = replace(recipe, target_model=tiny_models[family])
    trainer = begin(other, data, tmp_path, origin)
    taken, fresh = trainer.transferred.taken, trainer.transferred.fresh
    assert any("lora_" in name for name in taken)
    assert set(fresh) == trainer.condenser.saved_buffers()  # counted anew by its tokenizer
    assert trainer.recipe.head_warmup == 2
    before = {n: t.clone() for n, t in trainer.condenser.trained_state().items()}

    def stop_when_the_adapters_wake(step: object) -> None:
        seen.append(step)

    seen: list[object] = []
    trainer.train(None, stop_when_the_adapters_wake, lambda: len(seen) == 2)
    after = trainer.condenser.trained_state()
    assert all(torch.equal(before[n], after[n]) for n in after if "lora_" in n)
    assert any(not torch.equal(before[n], after[n]) for n in taken if "lora_" not in n)
    seen.clear()
    trainer.train(None, stop_when_the_adapters_wake, lambda: len(seen) == 2)
    assert any(not torch.equal(before[n], after[n]) for n in after if "lora_" in n)


def test_another_width_keeps_what_fits_and_makes_a_new_projector(
    recipe: Recipe, data: DataFiles, origin: Path, tmp_path: Path, wider: str
) -> None:
    trainer = begin(replace(recipe, target_model=wider), data, tmp_path, origin)
    assert {"up.weight", "down.weight"} <= set(trainer.transferred.fresh)
    live = trainer.condenser.trained_state()
    assert live["down.weight"].shape == (96, 192)
    stored = load_condenser(str(origin), dtype="float32").trained_state()
    for name in trainer.transferred.taken:
        assert live[name].shape == stored[name].shape
    steps: list[object] = []
    trainer.train(None, steps.append)
    assert len(steps) == recipe.steps


def test_a_summary_counts_what_was_taken(
    recipe: Recipe, data: DataFiles, origin: Path, tmp_path: Path, tiny_models: dict[str, str]
) -> None:
    short = replace(recipe, steps=1, target_model=tiny_models["mistral"])
    arguments = RunArguments(
        short, data, tmp_path, origin, settings=RunSettings("float32"), device="cpu"
    )
    summary = run(arguments, Watcher())
    assert summary["tensors_taken"] > 10
    moved_condenser = load_condenser(summary["checkpoint"], dtype="float32")
    assert moved_condenser.target_model == tiny_models["mistral"]


def test_what_cannot_be_gone_on_from_is_refused(
    recipe: Recipe, data: DataFiles, origin: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="keeps its method"):
        moved(replace(recipe, method="icae"), origin)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        moved(recipe, tmp_path)
