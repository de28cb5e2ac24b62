"""Recipes: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.training.config import Recipe, read_recipe

RUNS = Path(__file__).parents[3] / "runs"


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name
    assert all(isinstance(ratio, int) for ratio in recipe.ratios)


def test_there_are_recipes() -> None:
    assert {"pooled_fast_cpu", "icae_cpu"} <= {path.stem for path in RUNS.glob("*.toml")}


def test_settings_arrive(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\nmethod = "pooled"\nsteps = 7\n[ratios]\n4 = 0.5\n16 = 0.5\n')
    expected = Recipe(name="x", method="pooled", steps=7, ratios={4: 0.5, 16: 0.5})
    assert read_recipe(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ('name = "x"\n', "method"),
        ('name = "x"\nmethod = "pooled"\nstep = 3', "Did you mean 'steps'"),
        ('name = "x"\nmethod = "pooled"\nsteps = 0', "at least 1"),
        ('name = "x"\nmethod = "pooled"\n[objectives]\nanswers = 1', "Did you mean 'answer'"),
        ('name = "x"\nmethod = "pooled"\n[objectives]\nanswer = 0', "vanish"),
        ('name = "x"\nmethod = "pooled"\n[ratios]\nfour = 1', "four"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(path)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read recipe"):
        read_recipe(tmp_path / "none.toml")
