"""What losses mean: recovery R, content recovery C, their intervals, and the score of a reply.

Design decisions

* **Recovery R** asks how much of the full text's help a condenser keeps. It can be won by style
  alone: tokens of *any* document that make answers short raise it.
* **Content recovery C**, the headline, asks what the tokens say about *this* text: the same target
  is scored again behind the condensed tokens of another document, and the difference counts, as a
  share of the difference that the full texts make. Whatever holds no content of its own text
  gets 0. Made for condensers that do their best: tokens that wreck other answers on purpose raise
  it, so for miners the scoring service caps the other document's losses first (``parts.py``).
* Both are ratios of sums over items, never means of ratios: an item whose full text helps little
  weighs little. Where the denominator, what the full texts change, is below ``MIN_CHANGE`` nats
  a target token, the ratio would mostly be noise divided by nearly nothing: it is None, never a
  huge number, infinity or NaN.
* Intervals resample documents, not items: two questions about one text are not two witnesses.
* Pure functions of numbers and seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from neural_condense_core.constants import TierConfig

Floats = npt.NDArray[np.float64]
T = TypeVar("T")

MIN_CHANGE = 0.05
"""Nats per target token that the full texts must change at least for a ratio to have a meaning."""

N_RESAMPLES = 2_000
MAX_DEGENERATE_SHARE = 0.01
"""Share of resamples without a meaning from which on an interval has none either."""


def ratio_of_sums(numerators: Floats, denominators: Floats, *, least: float = 0.0) -> float | None:
    """Return sum over sum; None where it is not finite or the denominator not above ``least``."""
    denominator = float(denominators.sum())
    if not denominator > least:
        return None
    found = float(numerators.sum()) / denominator
    return found if math.isfinite(found) else None


def recovery(none: Floats, full: Floats, condensed: Floats, *, n_target: Floats) -> float | None:
    """Return R = (none - condensed) / (none - full), as a ratio of sums.

    Parameters
    ----------
    none, full, condensed : (n_items,) summed nats of each item's target
    n_target : (n_items,) target tokens

    Returns
    -------
    0 = no better than no context, 1 = as good as the full text; None where the full texts help by
    no more than ``MIN_CHANGE`` nats a target token, all items together
    """
    return ratio_of_sums(none - condensed, none - full, least=_least(n_target))


def content_recovery(
    own: Floats, other: Floats, full_own: Floats, full_other: Floats, *, n_target: Floats
) -> float | None:
    """Return C = (other - own) / (full_other - full_own), as a ratio of sums.

    Parameters
    ----------
    own, full_own : (n_items,) summed nats behind the condensed tokens, the full text of the item
    other, full_other : (n_items,) the same behind those of another document
    n_target : (n_items,) target tokens

    Returns
    -------
    0 = says nothing about this very text, 1 = as specific as the full text; None where own and
    other full texts differ by no more than ``MIN_CHANGE`` nats a target token, all items together
    """
    return ratio_of_sums(other - own, full_other - full_own, least=_least(n_target))


def _least(n_target: Floats) -> float:
    return MIN_CHANGE * float(n_target.sum())


def bootstrap(
    numerators: Floats,
    denominators: Floats,
    documents: Sequence[str],
    seed: int,
    *,
    n_target: Floats,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Return the interval of a ratio of sums, resampling whole documents.

    Parameters
    ----------
    numerators, denominators : (n_items,)
    documents : (n_items,) names; items of one document are drawn together
    seed : same seed, same interval
    n_target : (n_items,) target tokens

    Returns
    -------
    (low, high); None with fewer than two documents, with values that are not finite, or when so
    many resamples have a denominator of no more than ``MIN_CHANGE`` nats a target token that
    leaving them out would move the quantiles
    """
    names, groups = np.unique(np.asarray(documents, dtype=str), return_inverse=True)
    n = len(names)
    if n < 2:
        return None
    tops = np.bincount(groups, weights=numerators, minlength=n)
    bottoms = np.bincount(groups, weights=denominators, minlength=n)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    below = counts @ bottoms
    usable = below > MIN_CHANGE * (counts @ np.bincount(groups, weights=n_target, minlength=n))
    if (~usable).mean() > MAX_DEGENERATE_SHARE:
        return None
    ratios = (counts @ tops)[usable] / below[usable]
    if not np.isfinite(ratios).all():
        return None
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def derangement(documents: Sequence[str], sources: Sequence[str], seed: int) -> list[int]:
    """Choose for each item another item, whose context stands in as the other document.

    Parameters
    ----------
    documents : (n_items,) names, unique over all sources
    sources : (n_items,) names
    seed : same seed, same choice

    Returns
    -------
    (n_items,) indices: always of another document; of the same source, unless the source has one
    document only (then of any source). Within a source no item is chosen twice, unless one of its
    documents holds more than half of the items.

    Raises
    ------
    ValueError
        All items are of one document.
    """
    if len(set(documents)) < 2:
        raise ValueError("a swapped context needs at least two documents")
    rng = np.random.default_rng(seed)
    by_source = _grouped(range(len(documents)), sources)
    chosen = [-1] * len(documents)
    for source in sorted(by_source):
        members = by_source[source]
        alone = len({documents[i] for i in members}) == 1
        pool = list(range(len(documents))) if alone else members
        for i, j in _rotated(members, pool, documents, rng).items():
            chosen[i] = j
    return chosen


def _grouped(indices: Sequence[int], labels: Sequence[T]) -> dict[T, list[int]]:
    found: dict[T, list[int]] = defaultdict(list)
    for i in indices:
        found[labels[i]].append(i)
    return found


def _rotated(
    members: Sequence[int],
    pool: Sequence[int],
    documents: Sequence[str],
    rng: np.random.Generator,
) -> dict[int, int]:
    """Lay the pool out document by document and take for each member one a block further.

    A rotation by the largest block leaves every block; only where one block is more than half of
    the whole can it run round into itself, and then the next item of another document is taken.
    """
    blocks = [list(block) for block in _grouped(pool, documents).values()]
    for block in blocks:
        rng.shuffle(block)
    order = [i for k in rng.permutation(len(blocks)) for i in blocks[k]]
    shift = max(len(block) for block in blocks)
    place = {i: position for position, i in enumerate(order)}
    found = {}
    for i in members:
        steps = (order[(place[i] + shift + step) % len(order)] for step in range(len(order)))
        found[i] = next(j for j in steps if documents[j] != documents[i])
    return found


def score(c: float | None, elapsed_s: float, tier: TierConfig) -> float:
    """Return the score S of a reply, in [0, 1].

    Parameters
    ----------
    c : content recovery; None (nothing could be measured) scores 0
    elapsed_s : seconds from request to reply
    tier : gives the timeout and lambda

    Returns
    -------
    C clipped to [0, 1], times (1 - lambda * time / timeout); 0 past the timeout
    """
    if c is None or not math.isfinite(c) or not elapsed_s <= tier.timeout_s:
        return 0.0
    share = max(elapsed_s, 0.0) / tier.timeout_s
    return min(max(c, 0.0), 1.0) * (1.0 - tier.latency_weight * share)
