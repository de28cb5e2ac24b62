"""``CondensedTokens``: what a condenser makes and a target model reads.

Design decisions

* numpy, not torch: nodes, gateway and dashboard handle condensed tokens without torch.
* float32 or float16 in memory; bfloat16 exists only on the wire (``wire/codec.py``).
* What is stored is exactly what ``inputs_embeds`` of the target model takes: for families that
  scale embeddings inside the embedding layer the scale is applied, for those that scale inside
  ``forward`` it is not (``llm/hf.py`` knows which).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DTYPES = (np.dtype(np.float32), np.dtype(np.float16))

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float16]


def n_condensed_for(n_context_tokens: int, ratio: float) -> int:
    """Return the number of condensed tokens for a context: ``ceil(n_context / ratio)``."""
    return math.ceil(n_context_tokens / ratio)


@dataclass(frozen=True, eq=False)
class CondensedTokens:
    """A context as a short sequence of input embeddings.

    Parameters
    ----------
    embeds : (n_condensed, hidden_size) float32 or float16, finite
    target_model : name of the model whose ``inputs_embeds`` they are
    n_context_tokens : how many tokens of text they stand for
    positions : (n_condensed,) int64 or None; centre of each condensed token in the context,
        counted in context tokens from 0, for engines that take explicit position ids
    checkpoint : name of the condenser that made them, ``"pooled-fast"`` for example

    Raises
    ------
    ValueError
        A shape, dtype or value is not as above.
    """

    embeds: FloatArray
    target_model: str
    n_context_tokens: int
    positions: npt.NDArray[np.int64] | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ValueError
            A shape, dtype or value does not fit.
        """
        if self.embeds.ndim != 2 or 0 in self.embeds.shape:
            raise ValueError(f"embeds must be (n_condensed, hidden), got {self.embeds.shape}")
        if self.embeds.dtype not in DTYPES:
            raise ValueError(f"embeds must be float32 or float16, got {self.embeds.dtype}")
        if not np.isfinite(self.embeds).all():
            raise ValueError("embeds hold NaN or infinity")
        if self.n_context_tokens < 1:
            raise ValueError(f"n_context_tokens must be at least 1, got {self.n_context_tokens}")
        if self.positions is not None and self.positions.shape != self.embeds.shape[:1]:
            raise ValueError(f"one position a condensed token, got {self.positions.shape}")

    @property
    def n_condensed_tokens(self) -> int:
        """Number of condensed tokens."""
        return int(self.embeds.shape[0])

    @property
    def hidden_size(self) -> int:
        """Width of one condensed token."""
        return int(self.embeds.shape[1])

    @property
    def compression_ratio(self) -> float:
        """Context tokens over condensed tokens: 4.0 is "4x"."""
        return self.n_context_tokens / self.n_condensed_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix in its own dtype."""
        return int(self.embeds.nbytes)
