"""Mean embedding: each condensed token is the norm-matched mean of a group of token embeddings.

Design decisions

* The mean of r embeddings is about sqrt(r) times shorter than an embedding; it is brought back to
  the mean norm of the embedding table, as the frozen model has never read such short vectors.
* A group of one token keeps that token's own embedding, norm included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neural_condense_core.condensers.selection import (
    EmbeddingCondenser,
    Indices,
    even_bounds,
    group_centres,
)


class MeanEmbeddingCondenser(EmbeddingCondenser):
    """Average n groups of neighbours, as even as possible."""

    name = "mean-embedding"

    def represent(
        self, ids: Sequence[int], n: int, query: str | None
    ) -> tuple[npt.NDArray[np.float32], Indices]:
        """Return the groups' norm-matched means and their centres."""
        bounds = even_bounds(len(ids), n)
        embeds = self.target.embed(ids)
        sizes = np.diff(bounds)[:, None]
        sums: npt.NDArray[np.float32] = np.add.reduceat(embeds, bounds[:-1], axis=0)
        means = norm_matched(sums, self.target.embedding_scale)
        return np.where(sizes == 1, sums, means), group_centres(bounds)


def norm_matched(rows: npt.NDArray[np.float32], rms: float) -> npt.NDArray[np.float32]:
    """Scale rows to a root mean square; a row of zeros stays one.

    Parameters
    ----------
    rows : (n, hidden_size)
    rms : root mean square that every row shall have
    """
    own = np.sqrt(np.mean(np.square(rows), axis=1, keepdims=True))
    scaled: npt.NDArray[np.float32] = rows * (np.float32(rms) / np.maximum(own, 1e-12))
    return scaled
