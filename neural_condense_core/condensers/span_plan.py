"""Which tokens of a window are kept, and which condensed token each dropped one belongs to.

Where it sits: between the scores of ``salience.py`` and the pooling of ``pooled.py``.

Design decisions

* Kept tokens form runs. Scattered tokens say almost nothing to a frozen model, so each run costs
  ``RUN_COST`` and the plan is the exact optimum of the sum of scores less that cost, at exactly the
  number of tokens that the ratio asks for. A fixed length of 8 a run was clearly worse
  (docs/log.md).
* The optimum comes from dynamic programming over the window, all rows of a batch at once, and does
  not depend on a row's padding. It is numpy's on any device: a step is a handful of operations on
  a few hundred numbers, and torch's own cost of starting each was eight tenths of the plan's time.
* The end of a window may be kept whatever its scores: what is written next follows from what was
  written last, and no score of single tokens says so (docs/log.md).
* Dropped tokens are dealt out to the kept ones evenly and in order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

RUN_COST = 1.5
"""What a run costs, in units of the scores."""

ALWAYS = 1e6
"""Worth of a token that is kept whatever its score."""

IMPOSSIBLE = -1e18


class SpanPlan:
    """The kept tokens of each window, and the slot of every token.

    Parameters
    ----------
    scores : (batch, n_padded) worth of each token
    n_context : (batch,) how many tokens of each row are real
    ratio : compression ratio r; ``ceil(n_context / r)`` tokens are kept
    tail_eighths : eighths of the kept tokens, rounded down, that are the window's last tokens

    Attributes
    ----------
    kept : (batch, ceil(n_padded / r)) int64, ascending; behind a row's own number it repeats the
        last one
    slot : (batch, n_padded) int64, the kept token that a token belongs to, -1 for padding
    """

    def __init__(
        self, scores: Tensor, n_context: Tensor, ratio: int, tail_eighths: int = 0
    ) -> None:
        n_padded = scores.shape[1]
        n_kept = -(-n_context // ratio)
        place = torch.arange(n_padded, device=scores.device)
        is_real = place < n_context[:, None]
        is_tail = place >= (n_context - n_kept * tail_eighths // 8)[:, None]
        chosen = best_runs(scores.masked_fill(is_tail, ALWAYS), is_real, n_kept, RUN_COST)
        width = -(-n_padded // ratio)
        # chosen places first, in order; the rest behind them
        order = torch.where(chosen, place, place + n_padded).argsort(-1)[:, :width]
        last = order.gather(1, (n_kept - 1)[:, None])
        self.kept = torch.where(
            torch.arange(width, device=place.device) < n_kept[:, None], order, last
        )
        self.slot = _slots(chosen, is_real, n_kept)


def best_runs(scores: Tensor, is_real: Tensor, n_kept: Tensor, run_cost: float) -> Tensor:
    """Choose tokens so that their scores less ``run_cost`` a run are the highest.

    Parameters
    ----------
    scores : (batch, n)
    is_real : (batch, n) bool; others are never chosen
    n_kept : (batch,) how many to choose, from 1 to the number of real tokens

    Returns
    -------
    (batch, n) bool
    """
    worth = scores.detach().cpu().double().masked_fill(~is_real.cpu(), IMPOSSIBLE).numpy()
    budgets = n_kept.cpu().numpy()
    n = worth.shape[1]
    # best[k]: the most that k tokens chosen so far are worth, the latest token dropped or kept
    dropped = np.full((len(worth), budgets.max() + 1), IMPOSSIBLE)
    dropped[:, 0] = 0.0
    kept = np.full_like(dropped, IMPOSSIBLE)
    begun = np.empty_like(dropped[:, 1:])
    taken = np.empty_like(begun)
    after_kept = np.zeros((n, *dropped.shape), dtype=np.bool_)
    goes_on = np.zeros_like(after_kept)
    for i in range(n):
        np.subtract(dropped[:, :-1], run_cost, out=begun)
        np.greater_equal(kept[:, :-1], begun, out=goes_on[i, :, 1:])
        np.maximum(kept[:, :-1], begun, out=taken)
        taken += worth[:, i, None]
        np.greater(kept, dropped, out=after_kept[i])
        np.maximum(dropped, kept, out=dropped)
        kept[:, 1:] = taken
    chosen = np.zeros(worth.shape, dtype=np.bool_)
    for row, budget in enumerate(budgets.tolist()):
        is_kept = bool(kept[row, budget] > dropped[row, budget])
        chosen[row] = _trace_back(after_kept[:, row], goes_on[:, row], budget, is_kept)
    return torch.from_numpy(chosen).to(scores.device)


def _trace_back(
    after_kept: npt.NDArray[np.bool_], goes_on: npt.NDArray[np.bool_], left: int, is_kept: bool
) -> list[bool]:
    """Follow one row's choices, (n, budget + 1) each, from the last token to the first."""
    chosen = []
    for i in range(len(after_kept) - 1, -1, -1):
        chosen.append(is_kept)
        before = goes_on if is_kept else after_kept
        is_kept, left = bool(before[i, left]), left - is_kept
    return chosen[::-1]


def _slots(chosen: Tensor, is_real: Tensor, n_kept: Tensor) -> Tensor:
    """Give each kept token its own slot and deal out the dropped ones evenly, in order."""
    own = chosen.cumsum(-1) - 1
    is_dropped = is_real & ~chosen
    rank = is_dropped.cumsum(-1) - 1
    n_dropped = is_dropped.sum(-1, keepdim=True).clamp(min=1)
    evenly = rank * n_kept[:, None] // n_dropped
    return torch.where(chosen, own, evenly).masked_fill(~is_real, -1)
