"""Stride: keep tokens at even distances.

A lower bound for any method that places its tokens with care: it covers the whole context, and
says little, since a frozen model cannot read scattered tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from neural_condense_core.condensers.selection import (
    Indices,
    SelectionCondenser,
    even_bounds,
    group_centres,
)


class StrideCondenser(SelectionCondenser):
    """Cut the context into n groups as even as possible and keep each one's middle token."""

    name = "stride"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the middle index of each group."""
        return group_centres(even_bounds(len(ids), n))
