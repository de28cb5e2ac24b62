"""Bases of the training-free condensers: choose tokens, or pool them, and embed.

Where it sits: these condensers are the baselines that a trained one has to beat at equal length.
They share loading, tokenising, checking and embedding; a subclass only says which tokens.

Design decisions

* The embeddings are the target model's own, so at one condensed token a token they are exactly
  the embeddings of the text.
* A context is condensed by itself, never padded into a batch: a ranking of almost equal scores
  would otherwise depend on the contexts beside it.
* Importing a selection loads no torch; loading one does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from neural_condense_core.condensers.base import (
    BudgetedCondenser,
    LoadOptions,
    check_contexts,
)
from neural_condense_core.errors import RequestError
from neural_condense_core.tokens import CondensedTokens

if TYPE_CHECKING:
    from neural_condense_core.llm.hf import HFTarget

Indices = npt.NDArray[np.int64]


def even_bounds(n_tokens: int, n_groups: int) -> Indices:
    """Cut a sequence into groups whose sizes differ by at most one.

    Parameters
    ----------
    n_tokens : length of the sequence, at least ``n_groups``
    n_groups : how many groups, at least 1

    Returns
    -------
    (n_groups + 1,), ascending from 0 to ``n_tokens``; group i is ``[bounds[i], bounds[i + 1])``
    """
    return np.arange(n_groups + 1, dtype=np.int64) * n_tokens // n_groups


def group_centres(bounds: Indices) -> Indices:
    """Return the middle token of each group, the left one of two: (n_groups,)."""
    return (bounds[:-1] + bounds[1:] - 1) // 2


class EmbeddingCondenser(BudgetedCondenser):
    """A condenser that needs only the target model itself.

    Parameters
    ----------
    target : the model whose embeddings it uses
    """

    def __init__(self, target: HFTarget) -> None:
        self.target = target
        self.target_model = target.name
        self.hidden_size = target.hidden_size

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load the target model; a checkpoint is not needed and not read."""
        from neural_condense_core.llm.hf import load_target

        return cls(load_target(options.target_model, options.device, options.dtype))

    def tokenize(self, context: str) -> list[int]:
        """Return the target model's token ids of a context."""
        return self.target.tokenize(context)

    def tokenizer_json(self) -> str | None:
        """Return the target model's tokenizer."""
        return self.target.tokenizer_json()

    def condense_to(
        self,
        contexts: Sequence[Sequence[int]],
        n_condensed: Sequence[int],
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense context i to exactly ``n_condensed[i]`` tokens.

        Parameters
        ----------
        contexts : per context its token ids, (n_context,)
        n_condensed : one a context, 1 <= n <= n_context
        queries : one a context; methods that are not query-aware ignore them

        Raises
        ------
        RequestError
            A number of tokens is out of range, or a query is missing.
        """
        check_contexts(contexts)
        for ids, n in zip(contexts, n_condensed, strict=True):
            if not 1 <= n <= len(ids):
                raise RequestError(
                    f"cannot make {n} condensed tokens of {len(ids)} context tokens",
                    {"n_context_tokens": len(ids), "n_condensed_tokens": n},
                )
        asked: Sequence[str | None] = [None] * len(contexts)
        if self.query_aware:
            if queries is None or len(queries) != len(contexts):
                raise RequestError(f"{self.name} needs one query a context")
            asked = queries
        return [
            self._condense_one(ids, n, query)
            for ids, n, query in zip(contexts, n_condensed, asked, strict=True)
        ]

    def _condense_one(self, ids: Sequence[int], n: int, query: str | None) -> CondensedTokens:
        embeds, positions = self.represent(ids, n, query)
        return CondensedTokens(
            embeds=embeds,
            target_model=self.target_model,
            n_context_tokens=len(ids),
            positions=positions,
            checkpoint=self.name,
        )

    @abstractmethod
    def represent(
        self, ids: Sequence[int], n: int, query: str | None
    ) -> tuple[npt.NDArray[np.float32], Indices]:
        """Return the condensed tokens of one context and their positions.

        Parameters
        ----------
        ids : (n_context,) token ids, at least ``n``
        n : how many condensed tokens, at least 1
        query : what will be asked, for query-aware methods; otherwise None

        Returns
        -------
        (n, hidden_size) float32 and (n,) int64, ascending
        """


class SelectionCondenser(EmbeddingCondenser):
    """A condenser whose condensed tokens are embeddings of tokens of the context."""

    def represent(
        self, ids: Sequence[int], n: int, query: str | None
    ) -> tuple[npt.NDArray[np.float32], Indices]:
        """Return the chosen tokens' embeddings and where they stood."""
        indices = self.select(ids, n, query)
        return self.target.embed([ids[index] for index in indices]), indices

    @abstractmethod
    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Choose tokens of one context.

        Parameters
        ----------
        ids : (n_context,) token ids, at least ``n``
        n : how many to choose, at least 1
        query : what will be asked, for query-aware methods; otherwise None

        Returns
        -------
        (n,) int64, strictly ascending indices into ``ids``
        """
