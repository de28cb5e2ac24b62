"""Which tokens of a window are kept, and which condensed token each dropped one belongs to.

Where it sits: between the scores of ``salience.py`` and the pooling of ``pooled.py``.

Design decisions

* Kept tokens form runs. Scattered tokens say almost nothing to a frozen model, so each run costs
  ``RUN_COST`` and the plan is the exact optimum of the sum of scores less that cost, at exactly the
  number of tokens that the ratio asks for. A fixed length of 8 a run was clearly worse
  (docs/log.md).
* The optimum comes from dynamic programming over the window, all rows of a batch at once, and does
  not depend on a row's padding.
* Dropped tokens are dealt out to the kept ones evenly and in order.
"""

from __future__ import annotations

import torch
from torch import Tensor

RUN_COST = 1.5
"""What a run costs, in units of the scores."""

IMPOSSIBLE = -1e18


class SpanPlan:
    """The kept tokens of each window, and the slot of every token.

    Parameters
    ----------
    scores : (batch, n_padded) worth of each token
    n_context : (batch,) how many tokens of each row are real
    ratio : compression ratio r; ``ceil(n_context / r)`` tokens are kept

    Attributes
    ----------
    kept : (batch, ceil(n_padded / r)) int64, ascending; behind a row's own number it repeats the
        last one
    slot : (batch, n_padded) int64, the kept token that a token belongs to, -1 for padding
    """

    def __init__(self, scores: Tensor, n_context: Tensor, ratio: int) -> None:
        n_padded = scores.shape[1]
        n_kept = -(-n_context // ratio)
        place = torch.arange(n_padded, device=scores.device)
        is_real = place < n_context[:, None]
        chosen = best_runs(scores, is_real, n_kept, RUN_COST)
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
    batch, n = scores.shape
    worth = scores.double().masked_fill(~is_real, IMPOSSIBLE)
    budget = int(n_kept.max())
    # best[k]: the most that k tokens chosen so far are worth, the latest token dropped or kept
    dropped = torch.full((batch, budget + 1), IMPOSSIBLE, dtype=torch.double, device=scores.device)
    dropped[:, 0] = 0.0
    kept = torch.full_like(dropped, IMPOSSIBLE)
    after_kept = torch.zeros(n, batch, budget + 1, dtype=torch.bool, device=scores.device)
    goes_on = torch.zeros_like(after_kept)
    for i in range(n):
        goes_on[i, :, 1:] = kept[:, :-1] >= dropped[:, :-1] - run_cost
        taken = torch.maximum(kept[:, :-1], dropped[:, :-1] - run_cost) + worth[:, i, None]
        after_kept[i] = kept > dropped
        dropped = torch.maximum(dropped, kept)
        kept = torch.cat([torch.full_like(kept[:, :1], IMPOSSIBLE), taken], 1)
    return _trace_back(kept, dropped, after_kept, goes_on, n_kept)


def _trace_back(
    kept: Tensor, dropped: Tensor, after_kept: Tensor, goes_on: Tensor, n_kept: Tensor
) -> Tensor:
    """Follow the choices from the last token to the first: (batch, n) bool."""
    n, batch = after_kept.shape[:2]
    left = n_kept.clone()[:, None]
    is_kept = (kept.gather(1, left) > dropped.gather(1, left))[:, 0]
    chosen = torch.zeros(batch, n, dtype=torch.bool, device=kept.device)
    for i in range(n - 1, -1, -1):
        chosen[:, i] = is_kept
        before_if_kept = goes_on[i].gather(1, left)[:, 0]
        before_if_dropped = after_kept[i].gather(1, left)[:, 0]
        left = left - is_kept[:, None].long()
        is_kept = torch.where(is_kept, before_if_kept, before_if_dropped)
    return chosen


def _slots(chosen: Tensor, is_real: Tensor, n_kept: Tensor) -> Tensor:
    """Give each kept token its own slot and deal out the dropped ones evenly, in order."""
    own = chosen.cumsum(-1) - 1
    is_dropped = is_real & ~chosen
    rank = is_dropped.cumsum(-1) - 1
    n_dropped = is_dropped.sum(-1, keepdim=True).clamp(min=1)
    evenly = rank * n_kept[:, None] // n_dropped
    return torch.where(chosen, own, evenly).masked_fill(~is_real, -1)
