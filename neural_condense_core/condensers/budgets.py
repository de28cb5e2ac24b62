"""``NAME+budget=dense|recent|tail``: a condenser's own number of tokens, spent unevenly.

The text is cut into segments of 32 tokens; each is condensed at a ratio of its own, one of 1, 2, 4,
8 and 16. The total is exactly what the condenser makes of the text at the one ratio asked for, so
a row of an evaluation differs from the uniform one in nothing but where the tokens went.

* *dense*: more where the text says more, by the self-information of its tokens.
* *recent*: more towards the end.
* *tail*: half of the tokens are the last stretch of the text as it is; the rest is even.

Design decisions

* Discrete ratios: those a condenser was trained for, and no others.
* What a segment's tokens are worth grows as the square root of their number, in proportion to the
  segment's weight. So equal weights give the uniform split, and an exact total is a knapsack that
  dynamic programming solves.
* Where no split meets the total exactly, a few tokens at the very end stay raw.
* Neighbours of one ratio are condensed as one piece: an encoder reads better with a past.
* The self-information is the checkpoint's own table of unigrams where it has one (no pass of a
  model), else the target model's surprisal.

References
----------
Ratios that follow the text and snap to powers of two: arXiv:2603.25926. Differs: chosen per
segment, by a rule, to an exact total.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from neural_condense_core.condensers.around import AroundCondenser
from neural_condense_core.condensers.base import Condenser, check_contexts
from neural_condense_core.condensers.options import check_budget
from neural_condense_core.tokens import CondensedTokens

if TYPE_CHECKING:
    from neural_condense_core.llm.hf import HFTarget

SEGMENT_TOKENS = 32
RATIOS = (1, 2, 4, 8, 16)

SHARPNESS = 3.0
"""Power of a segment's self-information, relative to the text's mean, that makes its weight: the
means of 32 tokens differ by a quarter, and ratios by a factor of two."""
HALVINGS = 2.0
"""How often the weight of ``recent`` halves from the end of a text to its beginning."""
TAIL_SHARE = 0.5
"""Share of the condensed tokens that ``tail`` spends on the text's end as it is."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """A stretch of a context that is condensed at one ratio.

    Parameters
    ----------
    start, end : first token, and the one behind the last
    ratio : one of ``RATIOS``; the one asked for where there is nothing to choose
    """

    start: int
    end: int
    ratio: float


def allot(
    weights: Floats, costs: npt.NDArray[np.int64], worth: Floats, total: int
) -> list[int] | None:
    """Choose one column a row so that the costs add up exactly and the worth is highest.

    Parameters
    ----------
    weights : (n_segments,) how much a segment counts
    costs : (n_segments, n_choices) tokens that each choice takes
    worth : (n_segments, n_choices) what each choice is worth per unit of weight
    total : tokens to spend, all of them

    Returns
    -------
    per segment its column; None where no choice adds up
    """
    best = np.full(total + 1, -np.inf)
    best[0] = 0.0
    taken = np.zeros((len(weights), total + 1), dtype=np.int8)
    for i, weight in enumerate(weights):
        found = np.full(total + 1, -np.inf)
        for choice, cost in enumerate(costs[i]):
            if cost > total:
                continue
            value = best[: total + 1 - cost] + weight * worth[i, choice]
            better = value > found[cost:]
            found[cost:][better] = value[better]
            taken[i, cost:][better] = choice
        best = found
    if not np.isfinite(best[total]):
        return None
    chosen = []
    for i in range(len(weights) - 1, -1, -1):
        chosen.append(int(taken[i, total]))
        total -= int(costs[i, chosen[-1]])
    return chosen[::-1]


def merge(pieces: Sequence[Piece], count: Callable[[int, float], int]) -> list[Piece]:
    """Join neighbours of one ratio where that leaves the number of condensed tokens as it is.

    Parameters
    ----------
    pieces : in order, without gaps
    count : (context tokens, ratio) -> condensed tokens
    """
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].ratio == piece.ratio:
            last = replace(found[-1], end=piece.end)
            apart = sum(count(each.end - each.start, each.ratio) for each in (found[-1], piece))
            if count(last.end - last.start, last.ratio) == apart:
                found[-1] = last
                continue
        found.append(piece)
    return found


class UnevenCondenser(AroundCondenser):
    """A condenser whose tokens go where the text needs them.

    Parameters
    ----------
    inner : what condenses a piece; not query-aware
    kind : one of ``BUDGETS``
    target : the model that reads the tokens, the one that ``inner`` condenses for

    Raises
    ------
    ConfigError
        ``inner`` is query-aware or makes rows for another model.
    """

    option, example = "budget", "dense"

    def __init__(self, inner: Condenser, kind: str, target: HFTarget) -> None:
        check_budget(kind)
        super().__init__(inner, target, kind)
        self.kind = kind
        offered = inner.ratios or RATIOS
        self._offered = [ratio for ratio in RATIOS if ratio == 1 or ratio in offered]

    @classmethod
    def around(cls, inner: Condenser, value: str, *, device: str, dtype: str) -> Self:
        """Return one around a loaded condenser; see ``options.py``."""
        from neural_condense_core.llm.hf import load_target

        return cls(inner, value, load_target(inner.target_model, device, dtype))

    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense a batch; all pieces of one ratio side by side."""
        check_contexts(contexts)
        self.check_ratio(ratio)
        plans = [self.plan(ids, ratio) for ids in contexts]
        by_ratio: dict[float, list[tuple[int, Piece]]] = {}
        for i, plan in enumerate(plans):
            for piece in plan:
                by_ratio.setdefault(piece.ratio, []).append((i, piece))
        made: dict[tuple[int, int], CondensedTokens] = {}
        for piece_ratio, members in by_ratio.items():
            texts = [contexts[i][piece.start : piece.end] for i, piece in members]
            tokens = self._condense_at(texts, piece_ratio)
            made.update(
                ((i, piece.start), found) for (i, piece), found in zip(members, tokens, strict=True)
            )
        return [
            self._joined(len(ids), [(piece.start, made[i, piece.start]) for piece in plan])
            for i, (ids, plan) in enumerate(zip(contexts, plans, strict=True))
        ]

    def plan(self, ids: Sequence[int], ratio: float) -> list[Piece]:
        """Return the pieces of one context, in order.

        Parameters
        ----------
        ids : (n_context,) token ids
        ratio : the uniform ratio whose number of tokens is spent
        """
        n = len(ids)
        total = self.n_condensed_tokens(n, ratio)
        if total >= n:  # nothing to choose; of a very short text some methods make more rows
            return [Piece(0, n, ratio)]
        weights = self._weights(ids)
        raw = int(total * TAIL_SHARE) if self.kind == "tail" else 0
        # a raw tail of up to two segments closes every gap that the segments' ratios leave
        for n_raw in range(raw, min(total, raw + 2 * SEGMENT_TOKENS) + 1):
            found = self._split(n - n_raw, total - n_raw, weights)
            if found is not None:
                tail = [Piece(n - n_raw, n, 1)] if n_raw else []
                return merge([*found, *tail], self._count)
        return [Piece(0, n, ratio)]

    def _split(self, n: int, total: int, weights: Floats) -> list[Piece] | None:
        """Cut the first n tokens into pieces of ``total`` condensed tokens in all."""
        starts = range(0, n, SEGMENT_TOKENS)
        sizes = [min(SEGMENT_TOKENS, n - start) for start in starts]
        costs = np.array([[self._count(size, r) for r in self._offered] for size in sizes])
        costs = costs.reshape(len(sizes), len(self._offered))
        lengths = np.array(sizes, dtype=np.float64)[:, None]
        worth: Floats = np.sqrt(costs * lengths)  # = length / sqrt(ratio)
        chosen = allot(weights[: len(sizes)], costs, worth, total)
        if chosen is None:
            return None
        return [
            Piece(start, start + size, self._offered[choice])
            for start, size, choice in zip(starts, sizes, chosen, strict=True)
        ]

    def _count(self, n_tokens: int, ratio: float) -> int:
        return n_tokens if ratio == 1 else self.inner.n_condensed_tokens(n_tokens, ratio)

    def _weights(self, ids: Sequence[int]) -> Floats:
        """Return how much each segment counts, about 1 on average: (n_segments,)."""
        starts = np.arange(0, len(ids), SEGMENT_TOKENS)
        if self.kind == "tail":
            return np.ones(len(starts))
        if self.kind == "recent":
            recent: Floats = np.exp2(HALVINGS * starts / len(ids))
            recent /= recent.mean()
            return recent
        scores = self._self_information(ids)
        means = np.add.reduceat(scores, starts) / np.diff([*starts, len(ids)])
        dense: Floats = (means / max(float(scores.mean()), 1e-9)) ** SHARPNESS
        return dense

    def _self_information(self, ids: Sequence[int]) -> Floats:
        from neural_condense_core.condensers.pooled import PooledCondenser
        from neural_condense_core.condensers.self_information import surprisal

        if isinstance(self.inner, PooledCondenser):
            table = self.inner.module.informativeness
            return np.asarray(table[list(ids)].double().cpu().numpy(), dtype=np.float64)
        return np.asarray(surprisal(self.target, ids), dtype=np.float64)

    def _condense_at(self, texts: Sequence[Sequence[int]], ratio: float) -> list[CondensedTokens]:
        if ratio != 1:
            return self.inner.condense(texts, ratio)
        target = self.target
        return [
            CondensedTokens(target.embed(ids), target.name, len(ids), np.arange(len(ids)))
            for ids in texts
        ]

    def _joined(self, n: int, parts: Sequence[tuple[int, CondensedTokens]]) -> CondensedTokens:
        embeds = np.concatenate([tokens.embeds for _, tokens in parts])
        places = [
            start + tokens.positions for start, tokens in parts if tokens.positions is not None
        ]
        positions = np.concatenate(places) if len(places) == len(parts) else None
        return CondensedTokens(embeds, self.target_model, n, positions, self.name)
