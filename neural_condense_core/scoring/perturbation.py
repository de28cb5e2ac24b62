"""Small disturbances that condensed tokens must survive to be of use on a wire.

Where it sits: the evaluation shows rows with and without; the scoring service takes the mean, so
that a matrix that only works bit for bit (found by search, say) loses what it seemed to hold.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from neural_condense_core.tokens import CondensedTokens

PERTURBATIONS = ("none", "noise", "int8")
NOISE_SHARE = 0.02
"""Standard deviation of the noise, as a share of the matrix's own root mean square."""


def perturb(tokens: CondensedTokens, kind: str, seed: int) -> CondensedTokens:
    """Return the tokens with noise added or rounded to 8 bits.

    Parameters
    ----------
    tokens : any
    kind : ``"none"``, ``"noise"`` (Gaussian) or ``"int8"`` (per row, by its largest value)
    seed : same seed and tokens, same noise
    """
    if kind == "none":
        return tokens
    embeds = tokens.embeds.astype(np.float32)
    if kind == "int8":
        scale = np.abs(embeds).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1
        return replace(tokens, embeds=np.round(embeds / scale) * scale)
    rng = np.random.default_rng([seed, zlib.crc32(embeds.tobytes())])
    deviation = NOISE_SHARE * float(np.sqrt(np.mean(embeds**2)))
    noise = rng.normal(0.0, deviation, embeds.shape).astype(np.float32)
    return replace(tokens, embeds=embeds + noise)
