"""A target model of plain numpy, so that the choice of tokens is tested without any network.

The tests' root is put on the path: suites share ``published_checkpoints.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


class FakeTarget:
    """One token a character; a token's surprisal is a hundredth of its id, its past ignored."""

    name = "fake"
    hidden_size = 4
    embedding_scale = 0.5

    def __init__(self, max_positions: int = 4096) -> None:
        self.max_positions = max_positions
        self.windows: list[int] = []
        self.table = np.random.default_rng(0).normal(size=(0x3000, 4)).astype(np.float32)

    def tokenize(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids)

    def embed(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        return self.table[list(ids)]

    def surprisal(self, batch: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        self.windows.extend(len(ids) for ids in batch)
        found = [np.asarray(ids, dtype=np.float32) / 100 for ids in batch]
        for values in found:
            values[0] = values.max()
        return found


@pytest.fixture
def fake_target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def short_target() -> FakeTarget:
    """A target model with 16 positions."""
    return FakeTarget(max_positions=16)
