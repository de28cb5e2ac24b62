"""From ratings to the weights that go to the chain.

Where it sits: the last step of the validator before ``submit_weights``.

Design decisions

* Each tier pays out exactly its configured share, however many miners or how high their ratings
  are: tiers never compete with each other.
* Within a tier weights follow the rating to the power of the tier's sharpness. Ratings are taken
  relative to the tier's best first, so that no power of a small number vanishes.
* A rating below ``MIN_RATING`` earns nothing: noise has a little luck too, and alone in its tier it
  would be the best of it and be paid all of it.
* What nobody earned (a tier without such a rating, or shares that sum to less than 1) goes to the
  subnet owner's uid: dead miners are not paid for being there, and a good tier's share does not
  depend on a bad one. Without an owner the rest is shared out as if it did not exist.
* A rating that is no number, infinite or negative earns nothing and spoils nobody's sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from neural_condense_core.constants import MIN_RATING, TierConfig


def weights_for(
    ratings_by_tier: Mapping[str, Mapping[int, float]],
    tiers: Mapping[str, TierConfig],
    owner_uid: int | None,
) -> dict[int, float]:
    """Return each uid's weight.

    Parameters
    ----------
    ratings_by_tier : tier -> uid -> rating; a tier that is not configured pays nothing
    tiers : shares and sharpness by name
    owner_uid : who gets what nobody earned; None = nobody does

    Returns
    -------
    uid -> weight above 0, summing to 1, ascending by uid; empty when nobody earned anything and
    there is no owner
    """
    total = math.fsum(tier.incentive_share for tier in tiers.values())
    scale = 1.0 if total <= 1.0 else 1.0 / total
    parts: dict[int, list[float]] = {}
    for name, tier in tiers.items():
        for uid, share in _shares(ratings_by_tier.get(name, {}), tier.sharpness).items():
            parts.setdefault(uid, []).append(share * tier.incentive_share * scale)
    earned = math.fsum(value for values in parts.values() for value in values)
    if owner_uid is not None:
        parts.setdefault(owner_uid, []).append(max(0.0, 1.0 - earned))
        earned = math.fsum(value for values in parts.values() for value in values)
    sums = {uid: math.fsum(values) for uid, values in sorted(parts.items())}
    return {uid: value / earned for uid, value in sums.items() if value > 0}


def _shares(ratings: Mapping[int, float], sharpness: float) -> dict[int, float]:
    """Return uid -> share of one tier, summing to 1; empty where nobody earned anything."""
    good = {
        uid: value for uid, value in ratings.items() if math.isfinite(value) and value >= MIN_RATING
    }
    if not good:
        return {}
    best = max(good.values())
    powers = {uid: (value / best) ** sharpness for uid, value in good.items()}
    total = math.fsum(powers.values())
    return {uid: power / total for uid, power in powers.items()}
