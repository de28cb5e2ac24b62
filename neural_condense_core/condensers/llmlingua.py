"""LLMLingua-style pruning: first the sentences, then token by token, under one token budget.

Coarse: whole sentences are kept, the most surprising first, until ``COARSE`` times the budget is
there. Fine: what they hold is read in segments, each behind what was kept of the segments before;
of each segment the most surprising tokens are kept. So a token is judged by what the reader will
really have seen, not by text that was dropped.

Design decisions

* The model that scores is the target model itself: it is small, it is loaded, and no second
  tokenizer has to be aligned with it.
* The share of the budget that a segment gets follows from its length and from what is left, so
  that the number of tokens is met exactly.
* The kept text that a segment stands behind is bounded; the cost grows linearly with the context.

References
----------
LLMLingua, arXiv:2310.05736, sec. 3.1 (budget controller) and 3.2 (iterative token-level
compression). Differs: one context instead of instruction, demonstrations and question; sentences
instead of demonstrations; no distribution alignment, the reader being the scorer; an exact number
of tokens. Nothing of LongLLMLingua's query-aware ranking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neural_condense_core.condensers.selection import Indices, SelectionCondenser
from neural_condense_core.condensers.self_information import most_surprising, surprisal
from neural_condense_core.condensers.sentences import sentence_ends
from neural_condense_core.llm.base import TokenIds

COARSE = 1.4
"""Tokens that the sentences may hold, in budgets."""
SEGMENT = 200
"""Tokens that are judged at once, behind the same kept text."""
MAX_PREFIX = 1024
"""Kept tokens that a segment stands behind, at most."""


class LLMLinguaCondenser(SelectionCondenser):
    """Keep the most surprising sentences, and of those the most surprising tokens."""

    name = "llmlingua"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the indices of the kept tokens, ascending."""
        del query
        if n == len(ids):
            return np.arange(n, dtype=np.int64)
        return self._fine(ids, self._coarse(ids, n), n)

    def _coarse(self, ids: Sequence[int], n: int) -> Indices:
        """Return the indices of whole sentences that hold at least the coarse budget."""
        wanted = min(len(ids), math.ceil(COARSE * n))
        bounds = np.array([0, *sentence_ends(self.target, ids)])
        lengths = np.diff(bounds)
        means = np.add.reduceat(surprisal(self.target, ids), bounds[:-1]) / lengths
        ranked = np.argsort(-means, kind="stable")
        n_kept = int(np.searchsorted(np.cumsum(lengths[ranked]), wanted)) + 1
        kept = np.zeros(len(lengths), dtype=bool)
        kept[ranked[:n_kept]] = True
        return np.flatnonzero(np.repeat(kept, lengths)).astype(np.int64)

    def _fine(self, ids: Sequence[int], pool: Indices, n: int) -> Indices:
        """Return n indices out of ``pool``, segment by segment."""
        size = min(SEGMENT, self.target.max_positions // 2)
        prefix = min(MAX_PREFIX, self.target.max_positions - size)
        kept: list[int] = []
        for start in range(0, len(pool), size):
            segment = pool[start : start + size]
            # of what is left in proportion, so the last segment gets exactly the rest
            quota = round((n - len(kept)) * len(segment) / (len(pool) - start))
            scores = self._scores([ids[i] for i in segment], [ids[i] for i in kept[-prefix:]])
            kept += segment[most_surprising(scores, quota)].tolist()
        return np.array(kept, dtype=np.int64)

    def _scores(self, segment: Sequence[int], before: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return how surprising each token of a segment is behind the kept ones, nats."""
        if not before:
            return self.target.surprisal([segment])[0]
        (found,) = self.target.loglikelihood([(TokenIds(tuple(before)),)], [segment])
        return -found.logprobs
