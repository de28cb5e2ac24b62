"""Truncation: keep the beginning, the end, or half of each.

The simplest baselines and among the strongest: what they keep is one contiguous piece of text, and
a frozen model reads that better than scattered tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neural_condense_core.condensers.selection import Indices, SelectionCondenser


class TruncateHeadCondenser(SelectionCondenser):
    """Keep the first n tokens."""

    name = "truncate-head"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the first n indices."""
        return np.arange(n, dtype=np.int64)


class TruncateTailCondenser(SelectionCondenser):
    """Keep the last n tokens."""

    name = "truncate-tail"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the last n indices."""
        return np.arange(len(ids) - n, len(ids), dtype=np.int64)


class HeadTailCondenser(SelectionCondenser):
    """Keep the first half of n tokens from the beginning, the rest from the end."""

    name = "head-tail"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the first ``ceil(n / 2)`` and the last ``floor(n / 2)`` indices."""
        head = n - n // 2
        tail = np.arange(len(ids) - n // 2, len(ids), dtype=np.int64)
        return np.concatenate([np.arange(head, dtype=np.int64), tail])
