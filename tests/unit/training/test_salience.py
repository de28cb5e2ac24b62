"""What tokens are labelled as, and that the head learns it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.errors import ConfigError
from neural_condense_core.training import salience
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.packing import PackLimits, pack
from neural_condense_core.training.salience import (
    LabelledContext,
    fit_salience,
    label_following,
    label_questions,
)
from neural_condense_core.training.sources import DataFiles
from neural_condense_core.training.trainer import RunSettings, Trainer

CONTEXT = "The old miller lived in Delft. He sold nine windmills."


def tokenizer_of(options: LoadOptions) -> tuple[PooledCondenser, Tokenizer]:
    torch.manual_seed(0)
    condenser = PooledCondenser.create(options, {"n_layers": 2, "lora_r": 2, "lora_alpha": 4})
    return condenser, Tokenizer.from_str(str(condenser.tokenizer_json()))


def text_of(tokenizer: Tokenizer, example: LabelledContext, kind: int) -> str:
    labels = example.labels[kind]
    assert labels is not None
    chosen = [i for i, mark in zip(example.input_ids, labels, strict=True) if mark]
    return str(tokenizer.decode(chosen)).strip()


def test_labels_are_answers_question_words_and_words_that_come_back(tiny_llama: str) -> None:
    _, tokenizer = tokenizer_of(LoadOptions(tiny_llama, dtype="float32"))
    asked = label_questions(tokenizer, CONTEXT, [("Where did the miller live?", "Delft.")])
    assert "Delft" in text_of(tokenizer, asked, 0)
    assert "windmills" not in text_of(tokenizer, asked, 0)
    assert "miller" in text_of(tokenizer, asked, 1)
    assert asked.labels[2] is None
    again = label_following(tokenizer, CONTEXT, "A windmill burnt down.")
    assert "windmills" in text_of(tokenizer, again, 2)
    assert "miller" not in text_of(tokenizer, again, 2)
    assert again.labels[:2] == (None, None)


def test_an_answer_that_does_not_stand_there_marks_nothing(tiny_llama: str) -> None:
    _, tokenizer = tokenizer_of(LoadOptions(tiny_llama, dtype="float32"))
    example = label_questions(tokenizer, CONTEXT, [("Who?", "Rembrandt")])
    assert example.labels[0] is not None
    assert not any(example.labels[0])


def test_the_head_learns_and_then_stays(tiny_llama: str) -> None:
    condenser, _ = tokenizer_of(LoadOptions(tiny_llama, dtype="float32"))
    rng = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(64):
        ids = torch.randint(3, 250, (40,), generator=rng).tolist()
        marks = tuple(int(i > 128) for i in ids)  # which half of the vocabulary: it can be read
        examples.append(LabelledContext(tuple(ids), (marks, None, None)))
    losses = fit_salience(condenser.module, examples, epochs=25)
    assert losses[-1] < 0.9 * losses[0]
    assert not any(p.requires_grad for p in condenser.module.salience.parameters())


def test_a_recipe_fits_it_from_files_or_from_a_pack_alike(
    tiny_recipe: Recipe, files: DataFiles, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, method="pooled", salience_contexts=12, salience_epochs=2)

    def fitted(data: DataFiles) -> torch.Tensor:
        trainer = Trainer(recipe, data, tmp_path, settings=RunSettings("float32"))
        assert isinstance(trainer.condenser, PooledCondenser)
        return trainer.condenser.module.salience.out.weight.clone()

    assert fitted(files).abs().max() > 0
    assert torch.equal(fitted(files), fitted(files))
    pack(recipe, files.prose, files.qa, tmp_path / "pack", PackLimits(1 << 20, 0))
    assert fitted(DataFiles(packed=tmp_path / "pack")).abs().max() > 0


def test_a_method_that_keeps_no_tokens_is_told(
    tiny_recipe: Recipe, files: DataFiles, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, method="icae", salience_contexts=12)
    with pytest.raises(ConfigError, match="salience_contexts = 0"):
        Trainer(recipe, files, tmp_path, settings=RunSettings("float32"))


def test_states_do_not_depend_on_what_they_are_computed_with(tiny_llama: str) -> None:
    condenser, _ = tokenizer_of(LoadOptions(tiny_llama, dtype="float32"))
    examples = [LabelledContext(tuple(range(3, 3 + n)), (None, None, None)) for n in (9, 30, 4)]
    together = salience._states(condenser.module, examples)
    for example, found in zip(examples, together, strict=True):
        (alone,) = salience._states(condenser.module, [example])
        assert found.shape[0] == len(example.input_ids)
        torch.testing.assert_close(found, alone, rtol=0.02, atol=0.02)


def test_a_resumed_run_takes_what_was_fitted_and_fits_nothing(
    tiny_recipe: Recipe, files: DataFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(tiny_recipe, method="pooled", salience_contexts=12, salience_epochs=1)
    first = Trainer(recipe, files, tmp_path, settings=RunSettings("float32"))
    first.save_state()

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("fitted again")

    monkeypatch.setattr(PooledCondenser, "fit_statistics", refuse)
    monkeypatch.setattr(Trainer, "_fit_salience", refuse)
    again = Trainer(recipe, files, tmp_path, settings=RunSettings("float32"), is_resumed=True)
    for name, tensor in first.condenser.trained_state().items():
        assert torch.equal(tensor, again.condenser.trained_state()[name]), name
