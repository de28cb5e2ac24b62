"""A run from its arguments to its summary."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from neural_condense_core.training.config import Recipe
from neural_condense_core.training.session import RunArguments, Watcher, run
from neural_condense_core.training.sources import DataFiles
from neural_condense_core.training.trainer import RunSettings, Trainer


def test_minutes_count_from_the_start_of_the_run(
    tiny_recipe: Recipe, files: DataFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float | None] = []
    monkeypatch.setattr(Trainer, "train", lambda self, minutes, *_: given.append(minutes))
    fit = Trainer._begin

    def slow(self: Trainer, *arguments: object) -> None:
        time.sleep(0.3)
        fit(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_begin", slow)
    for minutes in (8.5, 0.004, None):
        run(
            RunArguments(
                tiny_recipe, files, tmp_path / str(minutes), minutes=minutes, device="cpu",
                settings=RunSettings("float32"),
            ),
            Watcher(),
        )  # fmt: skip
    assert given[0] is not None
    assert 0 < given[0] < 8.5 - 0.3 / 60
    assert given[1:] == [0.0, None]
