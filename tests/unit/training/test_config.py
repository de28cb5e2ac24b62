"""Recipes: what is read, what is refused, what the document says of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.training.config import Recipe, Stage, read_recipe, settings_table

ROOT = Path(__file__).parents[3]
RUNS = ROOT / "runs"
DOCUMENT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name
    assert all(isinstance(ratio, int) for ratio in recipe.ratios)


def test_there_are_recipes() -> None:
    wanted = {"pooled_fast_cpu", "icae_cpu", "pooled_gpu_25min", "pooled_fast_gpu", "icae_gpu"}
    own = {f"own_{family}" for family in ("llama", "gemma", "mistral", "qwen")}
    assert wanted | own <= {path.stem for path in RUNS.glob("*.toml")}


def test_settings_arrive(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        'name = "x"\nmethod = "pooled"\nsteps = 7\ncurriculum = [2, 4]\n'
        "[ratios]\n4 = 0.5\n16 = 0.5\n"
        "[[stages]]\nuntil = 0.5\nobjectives = {reconstruction = 1.0}\n"
    )
    expected = Recipe(
        name="x",
        method="pooled",
        steps=7,
        curriculum=(2, 4),
        ratios={4: 0.5, 16: 0.5},
        stages=(Stage(0.5, {"reconstruction": 1.0}),),
    )
    assert read_recipe(path) == expected
    assert expected.all_ratios == {2, 4, 16}
    assert expected.all_objectives == {"continuation", "reconstruction"}
    changed = read_recipe(path, ("steps = 9", "ratios.8 = 1", 'name = "y"'))
    assert changed == dataclasses.replace(expected, steps=9, ratios={8: 1.0}, name="y")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ('name = "x"\n', "method"),
        ("step = 3", "Did you mean 'steps'"),
        ("steps = 0", "at least 1"),
        ("noise = -1", "noise must not be negative"),
        ("gap_share = 1.5", "gap_share is a share"),
        ("curriculum = [0]", "from 1 on"),
        ("generated.clozes = 1", "Did you mean 'cloze'"),
        ("residual_scale = 1.5", "residual_scale is a share"),
        ('name = "x"\nmethod = "icae"\nresidual_scale = 0.5', "icae has no residual"),
        ("[objectives]\nanswers = 1", "Did you mean 'answer'"),
        ("[objectives]\nanswer = 0", "vanish"),
        ("[ratios]\nfour = 1", "four"),
        ("[[stages]]\nuntil = 2\nobjectives = {answer = 1}", "share of the steps"),
        ("[[stages]]\nuntil = 0.5\nobjectives = {answers = 1}", "Did you mean 'answer'"),
        ("[[stages]]\nobjectives = {answer = 1}", "until"),
        ("[[stages]]\nuntil = 0.5\nobjectives = {answer = 1}\n"
         "[[stages]]\nuntil = 0.5\nobjectives = {answer = 1}", "after the one before"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    head = "" if text.startswith("name") else 'name = "x"\nmethod = "pooled"\n'
    path.write_text(head + text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_recipe(path)


def test_a_missing_recipe_and_a_wrong_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read recipe"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="--set 'steps' is not TOML"):
        read_recipe(RUNS / "icae_cpu.toml", ("steps",))


def test_the_document_lists_every_setting_with_its_default() -> None:
    table = settings_table()
    assert "| `swap_weight` | `0` |" in table
    assert len(table.splitlines()) == 2 + len(dataclasses.fields(Recipe))
    assert table in DOCUMENT, "write settings_table() of training/config.py into docs/training.md"
