"""Key-value needles: the code that belongs to a key, somewhere in a long text.

Design decisions

* Generated from a seed, so no file is needed and nobody has read them: the hay is invented, keys
  and codes are drawn at random.
* The question is put and the reply already begins as the needle does: a small model finds in a text
  what it has begun to repeat, and what is measured is the text, not whether a question is
  understood.
* One text holds a needle at each depth and each is asked for. The other codes of the text are the
  wrong choices: knowing which codes there are is not enough.
* A text holds exactly as many tokens as asked for: hay fills the gaps between needles and is cut at
  a sentence, and the last few tokens are more hay, cut anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from neural_condense_core.evaluation.hay import hay, listed
from neural_condense_core.evaluation.probes import Probe, choices
from neural_condense_core.evaluation.windows import turns
from neural_condense_core.llm.base import TargetLLM

SOURCE = "needles"
LENGTHS = (256, 512, 1024, 2048, 4096)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where a needle stands, as a share of the text."""

SPARE_TOKENS = 4

_STEM = "The access code of the {key} is"
_QUESTION = "What is the access code of the {key}?"
_COLOURS = listed("amber,azure,black,bronze,brown,copper,green,grey,ivory,red,silver,white")
_KEYS = listed(
    "archive,barn,boathouse,cabinet,cellar,chapel,depot,gallery,garage,granary,harbour,kiosk,"
    "laboratory,library,locker,mill,observatory,pantry,pavilion,safe,stable,storeroom,studio,tower,"
    "vault,warehouse"
)


def needle_probes(
    target: TargetLLM, lengths: Sequence[int], depths: Sequence[float], limit: int, seed: int
) -> list[Probe]:
    """Return at most ``limit`` items; lengths take turns, within a length texts do.

    Parameters
    ----------
    lengths : tokens of a text; each gives two texts or more
    depths : where needles stand in a text
    """
    n_texts = max(2, -(-limit // (len(lengths) * len(depths))))
    streams = [
        turns([_probes_of(target, n, depths, seed, k) for k in range(n_texts)]) for n in lengths
    ]
    return list(islice(turns(streams), limit))


def _probes_of(
    target: TargetLLM, n_tokens: int, depths: Sequence[float], seed: int, k: int
) -> Iterator[Probe]:
    rng = np.random.default_rng([seed, n_tokens, k])
    keys = _distinct(rng, [f"{colour} {key}" for colour in _COLOURS for key in _KEYS], len(depths))
    codes = [str(10_000 + code) for code in rng.choice(90_000, len(depths), replace=False)]
    stems = [_STEM.format(key=key) for key in keys]
    needles = [f"{stem} {code}." for stem, code in zip(stems, codes, strict=True)]
    ids = _text(target, n_tokens, depths, needles, rng)
    if ids is None:
        return
    for i in rng.permutation(len(depths)):  # a limit that cuts a text short spares every depth
        parted = choices(target, f"{stems[i]} ", codes[i], [*codes[:i], *codes[i + 1 :]])
        if parted is not None:
            yield Probe(
                "answer",
                f"{SOURCE} {n_tokens}-{k}",
                SOURCE,
                ids,
                parted.right,
                question=_QUESTION.format(key=keys[i]),
                bridge_ids=parted.before,
                distractors=parted.wrong,
                golds=(codes[i],),
                labels=(("length", str(n_tokens)), ("depth", f"{depths[i]:g}")),
            )


def _text(
    target: TargetLLM,
    n_tokens: int,
    depths: Sequence[float],
    needles: Sequence[str],
    rng: np.random.Generator,
) -> tuple[int, ...] | None:
    """Return exactly ``n_tokens`` ids with the needles at their depths; None if they do not fit."""
    filling = hay(rng)
    pieces = [tuple(target.tokenize(f" {needle}")) for needle in needles]
    # the first sentence has no space in front, which may cost a token more
    room = n_tokens - sum(map(len, pieces)) - SPARE_TOKENS
    if room < 0:
        return None
    ids: list[int] = []
    filled = 0
    order = sorted(range(len(depths)), key=lambda i: depths[i])
    for i in order:
        wanted = round(depths[i] * room)
        while True:
            sentence = target.tokenize(f" {next(filling)}" if ids else next(filling))
            if filled + len(sentence) > wanted:
                break
            ids += sentence
            filled += len(sentence)
        ids += pieces[i] if ids else target.tokenize(needles[i])
    while len(ids) < n_tokens:
        ids += target.tokenize(f" {next(filling)}")
    return tuple(ids[:n_tokens])


def _distinct(rng: np.random.Generator, values: Sequence[str], n: int) -> list[str]:
    return [values[i] for i in rng.choice(len(values), n, replace=False)]
