"""Noise: rows that look like condensed tokens in every statistic and say nothing.

For subnets on one machine and for tests of judges: a miner that serves it is fast, never fails,
passes every check of form and must earn nothing. Not a baseline: there is nothing in it to beat.

Design decisions

* A row is Gaussian, at the mean norm of the target model's embeddings, so that no check of norms
  can tell it.
* The generator's seed is a hash of the context's token ids: the same context gives the same rows in
  any batch and process, another context gives others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neural_condense_core.condensers.mean_embedding import norm_matched
from neural_condense_core.condensers.selection import (
    EmbeddingCondenser,
    Indices,
    even_bounds,
    group_centres,
)


class NoiseCondenser(EmbeddingCondenser):
    """Draw n rows."""

    name = "noise"

    def represent(
        self, ids: Sequence[int], n: int, query: str | None
    ) -> tuple[npt.NDArray[np.float32], Indices]:
        """Return drawn rows and the centres of n even groups."""
        digest = hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        rows = rng.standard_normal((n, self.hidden_size), dtype=np.float32)
        return norm_matched(rows, self.target.embedding_scale), group_centres(
            even_bounds(len(ids), n)
        )
