"""How much of a text its condensed tokens say: an estimate, before anybody is answered from them.

Where it sits: the reader process measures the raw gain (``sample_gain``), the gateway turns it into
an estimated content recovery by a map that was fitted on held-out text (``Calibration``).

Design decisions

* The target model is asked to repeat the text from its condensed tokens; a few stretches spread
  over the text, each behind its true beginning, are scored with the condensed tokens and without.
  The gain is the share of the loss that they take away. That costs about as much as reading the
  condensed tokens once, and is kept with them.
* A gain is no content recovery: text that is easy to guess, or a condenser that passes whole spans
  on, bends it. A monotone map, fitted by ``benchmarks/calibrate_recovery.py``, sets that right; it
  is data of one target model, which ``GET /v1/models`` names.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np

from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.base import Prompt, TargetLLM, TokenIds, as_segment
from neural_condense_core.llm.prompt import reconstruction_prompt
from neural_condense_core.tokens import CondensedTokens

N_STRETCHES = 4
LEAD_TOKENS = 8
STRETCH_TOKENS = 24
SHIPPED = "calibration.json"


@dataclass(frozen=True)
class Stretch:
    """A stretch of a text that is to be repeated.

    Parameters
    ----------
    lead : token ids with which the repetition begins
    target : token ids that are scored
    """

    lead: tuple[int, ...]
    target: tuple[int, ...]


def stretches(ids: list[int]) -> list[Stretch]:
    """Return stretches spread evenly over a text; of a short one, fewer or shorter ones."""
    length = LEAD_TOKENS + STRETCH_TOKENS
    if len(ids) <= length:
        lead = min(LEAD_TOKENS, len(ids) // 2)
        return [Stretch(tuple(ids[:lead]), tuple(ids[lead:]))] if ids else []
    n = min(N_STRETCHES, len(ids) // length)
    starts = np.linspace(0, len(ids) - length, n).astype(int) if n > 1 else [len(ids) // 2 - 16]
    found = []
    for start in starts:
        part = tuple(ids[max(0, int(start)) :][:length])
        found.append(Stretch(part[:LEAD_TOKENS], part[LEAD_TOKENS:]))
    return found


def sample_gain(target: TargetLLM, tokens: CondensedTokens, text: str) -> float | None:
    """Return the share of a repetition's loss that condensed tokens take away.

    Parameters
    ----------
    target : the model that reads them
    tokens : the condensed tokens
    text : what they stand for

    Returns
    -------
    at most 1, below 0 where they are worse than nothing; None for a text without a token
    """
    sample = stretches(target.tokenize(text))
    if not sample:
        return None
    whole = reconstruction_prompt(target, as_segment(tokens))
    empty = reconstruction_prompt(target, None)
    at = next(i for i, segment in enumerate(whole) if not isinstance(segment, TokenIds)) + 1
    with_tokens = _loss(target, whole[:at], whole[at:], sample)
    without = _loss(target, empty[:1], empty[1:], sample)
    return 1.0 - with_tokens / without if without > 0 else None


def _loss(target: TargetLLM, head: Prompt, tail: Prompt, sample: list[Stretch]) -> float:
    prompts = [(*tail, TokenIds(each.lead)) if each.lead else tail for each in sample]
    prefix = target.prefill(head)
    found = target.loglikelihood(prompts, [each.target for each in sample], prefix=prefix)
    return float(sum(each.loss for each in found))


@dataclass(frozen=True)
class Calibration:
    """A monotone map from gain to content recovery, by straight lines between knots.

    Parameters
    ----------
    target_model : that it was fitted for
    gains, recoveries : the knots, both ascending
    """

    target_model: str
    gains: tuple[float, ...]
    recoveries: tuple[float, ...]

    def recovery(self, gain: float) -> float:
        """Return the estimated content recovery, 0 to 1."""
        at = bisect_left(self.gains, gain)
        if at == 0:
            return self.recoveries[0]
        if at == len(self.gains):
            return self.recoveries[-1]
        low, high = self.gains[at - 1], self.gains[at]
        share = (gain - low) / (high - low)
        return self.recoveries[at - 1] + share * (self.recoveries[at] - self.recoveries[at - 1])


def load_calibration(path: Path | None = None) -> Calibration:
    """Read a calibration.

    Parameters
    ----------
    path : JSON as ``benchmarks/calibrate_recovery.py`` writes it; None = the shipped one

    Raises
    ------
    ConfigError
        It cannot be read, or is no monotone map.
    """
    source = resources.files("neural_condense_core.gateway") / SHIPPED if path is None else path
    try:
        said = json.loads(source.read_text(encoding="utf-8"))
        gains = tuple(float(gain) for gain, _ in said["knots"])
        recoveries = tuple(float(recovery) for _, recovery in said["knots"])
        name = str(said["target_model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read the calibration {source}: {type(error).__name__}") from None
    rises = all(low < high for low, high in pairwise(gains))
    keeps = all(low <= high for low, high in pairwise(recoveries))
    if not gains or not rises or not keeps or not 0 <= recoveries[0] <= recoveries[-1] <= 1:
        raise ConfigError(f"the calibration {source} is not a rising map into 0 to 1")
    return Calibration(name, gains, recoveries)
