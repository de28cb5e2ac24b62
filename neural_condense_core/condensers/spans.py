"""Spans: keep the most surprising contiguous spans of eight tokens.

A frozen model reads contiguous pieces far better than scattered tokens, so of the selections that
look at the content this is the strongest.

Design decisions

* Spans lie on a fixed grid of eight tokens: any number of tokens up to the whole context can be
  met without leaving gaps that fit no span.
* What n leaves over after whole spans is the most surprising contiguous piece of the next span.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neural_condense_core.condensers.selection import Indices, SelectionCondenser
from neural_condense_core.condensers.self_information import surprisal

SPAN = 8


class SpansCondenser(SelectionCondenser):
    """Keep whole spans in the order of their mean surprisal until n tokens are there."""

    name = "spans"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the indices of the chosen spans, ascending."""
        return best_spans(surprisal(self.target, ids), n)


def best_spans(scores: npt.NDArray[np.float32], n: int) -> Indices:
    """Choose n indices in contiguous spans of the highest mean score.

    Parameters
    ----------
    scores : (n_context,), higher is better
    n : how many, 1 <= n <= n_context

    Returns
    -------
    (n,) int64, strictly ascending
    """
    return keep_best(scores, [*range(0, len(scores), SPAN), len(scores)], n)


def keep_best(scores: npt.NDArray[np.float32], bounds: Sequence[int], n: int) -> Indices:
    """Keep whole units in the order of their mean score until n indices are there.

    Parameters
    ----------
    scores : (n_context,), higher is better
    bounds : (n_units + 1,) strictly ascending from 0 to ``n_context``; unit i is
        ``[bounds[i], bounds[i + 1])``
    n : how many, 1 <= n <= n_context; of the last unit its best contiguous piece is kept

    Returns
    -------
    (n,) int64, strictly ascending
    """
    starts, ends = np.asarray(bounds[:-1]), np.asarray(bounds[1:])
    means = np.add.reduceat(scores, starts) / (ends - starts)
    chosen: list[Indices] = []
    left = n
    for unit in np.argsort(-means, kind="stable"):
        start, end = int(starts[unit]), int(ends[unit])
        if end - start > left:
            start += _best_window(scores[start:end], left)
            end = start + left
        chosen.append(np.arange(start, end, dtype=np.int64))
        left -= end - start
        if left == 0:
            break
    return np.sort(np.concatenate(chosen))


def _best_window(scores: npt.NDArray[np.float32], width: int) -> int:
    sums = np.lib.stride_tricks.sliding_window_view(scores, width).sum(axis=1)
    return int(np.argmax(sums))
