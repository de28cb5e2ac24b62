"""Random tokens in their order: what any choice of tokens is worth.

Design decisions

* The draw is a hash of the context's own token ids: the same context gives the same tokens in any
  batch, any process and any version of numpy, whose generators promise no such thing.
* Fewer tokens are a part of more tokens: ratios of one context differ in number, not in luck.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from neural_condense_core.condensers.selection import Indices, SelectionCondenser


class RandomTokensCondenser(SelectionCondenser):
    """Keep n tokens drawn without replacement."""

    name = "random"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return n drawn indices, ascending."""
        packed = np.asarray(ids, dtype="<i8").tobytes()
        keys = np.frombuffer(hashlib.shake_256(packed).digest(8 * len(ids)), dtype="<u8")
        return np.sort(np.argsort(keys, kind="stable")[:n]).astype(np.int64)
