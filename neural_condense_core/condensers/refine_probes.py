"""What refinement asks of the condensed tokens of one text, made from that text alone.

* *reconstruction*: the text word for word, in windows behind a few words that are shown.
* *completion*: what follows some words of the text, asked as a question is asked.
* *continuation*: what the target model itself, with the full text, says next and answers to
  general questions; its own words are the target, its probabilities the teacher.

Where it sits: between a text's token ids and the gradient steps (``refine_search.py``).

Design decisions

* The prompts are those of ``llm/prompt.py``, so what is improved is what is used.
* Some probes are never trained on (``Probes.held_out``); they say whether the steps helped. They
  ask for the same text by other instructions, since what was not asked for at all can only get
  lost. Blanks to fill in were tried and are no measure: a small model with the full text at hand
  gives such answers worse than by chance.
* No question of a user is known here, and none is guessed from data: the text is all there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neural_condense_core.llm.base import Prompt, TokenIds, token_ids
from neural_condense_core.llm.prompt import (
    answer_prompt,
    continuation_prompt,
    reconstruction_prompt,
)

if TYPE_CHECKING:
    from neural_condense_core.llm.hf import HFTarget

WINDOW = 64
CUE = 16
"""Tokens of a reconstruction window, and those shown before it."""
SHOWN, COMPLETED = 10, 8
"""Tokens that a completion shows, and those it asks for."""
HELD_OUT_WINDOW, HELD_OUT_COMPLETIONS = 32, 4
"""Tokens of the stretch that is held out, about as many as a completion's question and answer, so
that little is padded; and completions."""
REPLY_TOKENS = 48
GENERAL_QUESTIONS = (
    "What is the text about?",
    "Who or what is named?",
    "What happens, where and when?",
)
COMPLETE_QUESTION = "Complete: {shown} ..."


@dataclass(frozen=True)
class Probe:
    """One thing to ask.

    Parameters
    ----------
    prompt_ids : what stands behind the condensed tokens, at least one
    target_ids : what should follow, at least one
    taught : whether the full-text model's probabilities are the target, not the tokens alone
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    taught: bool = False


@dataclass(frozen=True)
class Probes:
    """What is trained on, and what is only measured; at least one each."""

    trained: tuple[Probe, ...]
    held_out: tuple[Probe, ...]


def make_probes(
    target: HFTarget, ids: Sequence[int], seed: int, *, continuation: bool = False
) -> Probes:
    """Make the probes of one text.

    Parameters
    ----------
    target : the model that will read
    ids : (n_context,) token ids, at least one
    seed : of the places that are asked about; same seed, same probes
    continuation : also let the model continue the text and answer general questions, which takes
        about as long as a gradient step
    """
    rng = np.random.default_rng(seed)
    trained = [window_at(target, ids, start) for start in range(0, len(ids), WINDOW)]
    middles = range(WINDOW // 2, len(ids) - WINDOW // 2, WINDOW)
    start = int(rng.choice(middles)) if len(middles) else 0
    held_out = [goes_on(target, ids, start), *completions(target, ids, rng, HELD_OUT_COMPLETIONS)]
    if continuation:
        trained += list(own_words(target, ids))
    return Probes(tuple(trained), tuple(held_out))


def window_at(target: HFTarget, ids: Sequence[int], start: int) -> Probe:
    """Ask for the text from a place on, a few tokens before it shown."""
    prompt = reconstruction_prompt(target, None, ids[max(0, start - CUE) : start])
    return Probe(_behind_context(prompt), tuple(ids[start : start + WINDOW]))


def goes_on(target: HFTarget, ids: Sequence[int], start: int) -> Probe:
    """Ask for a stretch as the way that the text goes on."""
    prompt = continuation_prompt(target, None, ids[max(0, start - CUE) : start])
    return Probe(_behind_context(prompt), tuple(ids[start : start + HELD_OUT_WINDOW]))


def completions(
    target: HFTarget, ids: Sequence[int], rng: np.random.Generator, limit: int
) -> list[Probe]:
    """Ask at random places, far from each other, what follows some words of the text."""
    places = rng.permutation(np.arange(SHOWN, len(ids) - COMPLETED, SHOWN + COMPLETED))[:limit]
    found = []
    for start in places.tolist():
        shown = target.decode(ids[start - SHOWN : start]).strip()
        prompt = answer_prompt(target, None, COMPLETE_QUESTION.format(shown=shown))
        wanted = target.tokenize(target.decode(ids[start : start + COMPLETED]).strip())
        if wanted:
            found.append(Probe(_behind_context(prompt), tuple(wanted)))
    return found


def own_words(target: HFTarget, ids: Sequence[int]) -> Iterator[Probe]:
    """Yield what the model with the full text says next and answers to general questions."""
    prompts = [
        continuation_prompt(target, None, ()),
        *(answer_prompt(target, None, question) for question in GENERAL_QUESTIONS),
    ]
    prefix = target.prefill((prompts[0][0], TokenIds(tuple(ids))))
    tails = [_behind_context(prompt) for prompt in prompts]
    replies = target.generate([(TokenIds(tail),) for tail in tails], REPLY_TOKENS, prefix=prefix)
    for tail, reply in zip(tails, replies, strict=True):
        said = tuple(target.tokenize(reply)[:REPLY_TOKENS])
        if said:
            yield Probe(tail, said, taught=True)


def _behind_context(prompt: Prompt) -> tuple[int, ...]:
    """Return the part of a prompt without a context that stands behind where one would be."""
    return token_ids(prompt[-1])
