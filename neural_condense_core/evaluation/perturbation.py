"""The disturbances that the evaluation can add: those of the scoring service, and another dtype.

``"dtype"`` leaves the tokens as they are: the target model reads them in its other dtype.
"""

from __future__ import annotations

from neural_condense_core.scoring import perturbation
from neural_condense_core.scoring.perturbation import NOISE_SHARE
from neural_condense_core.tokens import CondensedTokens

__all__ = ["NOISE_SHARE", "PERTURBATIONS", "perturb"]

PERTURBATIONS = (*perturbation.PERTURBATIONS, "dtype")


def perturb(tokens: CondensedTokens, kind: str, seed: int) -> CondensedTokens:
    """Return the tokens disturbed.

    Parameters
    ----------
    tokens : any
    kind : of ``PERTURBATIONS``; ``"dtype"`` changes nothing here
    seed : same seed and tokens, same noise
    """
    return tokens if kind == "dtype" else perturbation.perturb(tokens, kind, seed)
