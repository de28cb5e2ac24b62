"""What the playground's tests run a gateway with: an engine and a condenser without a model.

The gateway's processes import this module by name, so its folder has to be on their path.
"""

from __future__ import annotations

import numpy as np
from gateway_engine import ToyTarget

from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.errors import UnsupportedError
from neural_condense_core.llm.base import Likelihood, TokenIds

NATS = {"a": (0.1, 3.0), "e": (1.5, 3.0), "x": (3.0, 3.0), "!": (6.0, 3.0)}
"""Letter -> loss behind condensed tokens, and without context; of any other, a little."""
EASY = (0.2, 0.2)


class StripTarget(ToyTarget):
    """What a letter costs depends on it, and on whether condensed tokens stand before it."""

    def loglikelihood(self, prompts, targets, *, prefix=None):
        found = []
        for prompt, target in zip(prompts, targets, strict=True):
            if "BLIND" in self.decode(target):
                raise UnsupportedError("this engine gives no likelihoods; use another one")
            column = 0 if any(not isinstance(each, TokenIds) for each in prompt) else 1
            nats = [NATS.get(letter, EASY)[column] for letter in map(chr, target)]
            found.append(Likelihood(-np.array(nats, np.float32), np.ones(len(nats), bool)))
        return found


class SteppedCondenser(EchoCondenser):
    """Echo that offers a few ratios only."""

    name = "stepped"
    ratios = (2, 8)


def open_strip(spec):
    return StripTarget()
