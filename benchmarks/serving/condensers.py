"""Condensers that take no time or a known time, for what a server itself costs and how it behaves.

Worker processes import this module by name: ``benchmarks.serving.condensers:NoOp``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from benchmarks.serving.load import COMPUTED_ENV, ID_DIGITS, NAP_S_PER_BYTE
from neural_condense_core.condensers.base import Condenser, LoadOptions
from neural_condense_core.tokens import CondensedTokens


class NoOp(Condenser):
    """Eight rows of 64, the same for every context."""

    name = "noop"
    shape = (8, 64)

    def __init__(self) -> None:
        self.target_model = "none"
        self.hidden_size = self.shape[1]
        self.rows = np.random.default_rng(0).standard_normal(self.shape, dtype=np.float32)

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load nothing."""
        return cls()

    def tokenize(self, context: str) -> list[int]:
        """Return a token for each byte."""
        return list(context.encode())

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        """Return how many rows there are, whatever the context."""
        return self.shape[0]

    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Return the rows for each context."""
        return [CondensedTokens(self.rows, self.target_model, len(ids)) for ids in contexts]


class Big(NoOp):
    """What a 4,096-wide model takes at most in the tier inference_0."""

    name = "big"
    shape = (256, 4096)


class Nap(NoOp):
    """Sleeps 13 microseconds for each byte of its contexts: 20 ms for 1,536."""

    name = "nap"

    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Note the contexts' numbers, sleep, and return the rows."""
        path = os.environ.get(COMPUTED_ENV)
        if path:
            numbers = [bytes(ids[:ID_DIGITS]).decode() + "\n" for ids in contexts]
            with Path(path).open("a", encoding="ascii") as file:
                file.writelines(numbers)
        time.sleep(NAP_S_PER_BYTE * sum(map(len, contexts)))
        return super().condense(contexts, ratio)
