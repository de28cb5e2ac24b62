"""Which data a recipe needs, and that packed data train the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.packing import PackLimits, pack
from neural_condense_core.training.sources import DataFiles, open_sources
from neural_condense_core.training.trainer import RunSettings, Trainer


def test_missing_data_is_named(tiny_recipe: Recipe, prose_file: Path, qa_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"continuation, reconstruction: give --prose"):
        DataFiles(None, qa_file).check(tiny_recipe)
    with pytest.raises(ConfigError, match="--qa"):
        DataFiles(prose_file).check(tiny_recipe)
    with pytest.raises(ConfigError, match="not both"):
        DataFiles(prose_file, None, Path("packed")).check(tiny_recipe)
    DataFiles(prose_file).check(replace(tiny_recipe, generated_share=1.0))
    imitating = replace(tiny_recipe, objectives={"answer": 1.0}, imitation_steps=1)
    with pytest.raises(ConfigError, match="imitation: give --prose"):
        DataFiles(None, qa_file).check(imitating)


def test_what_a_packed_folder_lacks_is_named(
    tiny_recipe: Recipe, target: HFTarget, prose_file: Path, qa_file: Path, tmp_path: Path
) -> None:
    generating = replace(tiny_recipe, generated_share=0.5)
    for prose, qa, recipe, message in (
        (prose_file, None, tiny_recipe, "--qa"),
        (None, qa_file, tiny_recipe, "no prose"),
        (prose_file, qa_file, generating, "--generated"),
    ):
        pack(tiny_recipe, prose, qa, tmp_path, PackLimits(1 << 20, 0))
        with pytest.raises(ConfigError, match=message):
            open_sources(recipe, DataFiles(packed=tmp_path), target)


def test_nothing_to_generate_from_is_an_error(tiny_recipe: Recipe, target: HFTarget) -> None:
    recipe = replace(tiny_recipe, objectives={"answer": 1.0}, generated_share=1.0,
                     generated={"cloze": 1.0})  # fmt: skip
    with pytest.raises(ConfigError, match="no question could be generated"):
        open_sources(recipe, DataFiles(), target)


def test_training_from_a_packed_folder_reads_no_parquet(
    tiny_recipe: Recipe,
    prose_file: Path,
    qa_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = tmp_path / "packed"
    pack(tiny_recipe, prose_file, qa_file, packed, PackLimits(1 << 20, 10))
    recipe = replace(tiny_recipe, generated_share=0.5)
    trainer = Trainer(recipe, DataFiles(packed=packed), tmp_path, settings=RunSettings("float32"))

    def never(*_: object) -> None:
        raise AssertionError("a packed run tokenised")

    monkeypatch.setattr(HFTarget, "tokenize", never)
    steps: list[object] = []
    trainer.train(None, steps.append)
    assert len(steps) == recipe.steps
