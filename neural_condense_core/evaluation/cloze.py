"""Cloze and recall: the number, name or noun of a text that belongs in a place.

Where it sits: items for ``tasks.py``, made from windows of prose that other tasks have condensed.

Design decisions

* *cloze*: the context is a *continuation* window's, the blank stands in the text behind it, which
  every variant sees up to the blank. What is blanked stands in the context, and so do the
  distractors wherever the context has enough of that kind (else they are from the same document):
  knowing which words occur is not enough.
* *recall*: the context is a *reconstruction* window, repeated up to a number or name that has not
  stood there before; distractors are of the same form from other documents of the source. It tells
  by rank what greedy copying tells only where the model can copy.
* Numbers before names before nouns: the rarer, the harder to guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from neural_condense_core.evaluation.data import Passage
from neural_condense_core.evaluation.mentions import KINDS, Kind, Mention, mentions, stands_in
from neural_condense_core.evaluation.probes import Probe, choices
from neural_condense_core.evaluation.windows import grouped, turns
from neural_condense_core.llm.base import TargetLLM

N_CLOZE_DISTRACTORS = 4
N_RECALL_DISTRACTORS = 3
MIN_CLOZE_BEFORE = 24
"""Characters of the text behind the context that stand before the blank."""

MAX_MENTIONS_PER_WINDOW = 4
MIN_RECALL_WINDOWS = 12
"""Windows to take distractors from, however few items are asked for."""
RECALLED: tuple[Kind, ...] = ("number", "name")

Window = tuple[Passage, tuple[int, ...]]


def cloze_probes(
    target: TargetLLM, windows: Iterator[Window], n_context: int, limit: int, seed: int
) -> list[Probe]:
    """Return at most ``limit`` cloze items, one a window.

    Parameters
    ----------
    windows : stretches of text longer than the context
    n_context : tokens of a window that are the context
    """
    found = (
        probe
        for passage, ids in windows
        for probe in islice(_cloze(target, passage, ids, n_context, seed), 1)
    )
    return list(islice(found, limit))


def _cloze(
    target: TargetLLM, passage: Passage, ids: tuple[int, ...], n_context: int, seed: int
) -> Iterator[Probe]:
    context, behind = target.decode(ids[:n_context]), target.decode(ids[n_context:])
    rng = np.random.default_rng([seed, *ids[:4]])
    blanks = [m for m in mentions(behind) if m.start >= MIN_CLOZE_BEFORE and m.end < len(behind)]
    for blank in sorted(blanks, key=lambda mention: KINDS.index(mention.kind)):
        if not stands_in(blank.text, context):
            continue
        wrong = _distractors_of(blank, context, N_CLOZE_DISTRACTORS)
        if len(wrong) < N_CLOZE_DISTRACTORS:
            wrong += _distractors_of(blank, passage.text, N_CLOZE_DISTRACTORS)
        wrong = [str(word) for word in rng.permutation(list(dict.fromkeys(wrong)))]
        found = choices(target, behind[: blank.start], blank.text, wrong, N_CLOZE_DISTRACTORS)
        if found is not None:
            yield Probe(
                "continuation",
                passage.document,
                passage.source,
                ids[:n_context],
                found.right,
                bridge_ids=found.before,
                distractors=found.wrong,
                labels=(("kind", blank.kind),),
            )


def _distractors_of(blank: Mention, text: str, enough: int) -> list[str]:
    """Return other mentions of the blank's kind, in the order of the text, at most some."""
    others = dict.fromkeys(
        mention.text
        for mention in mentions(text, (blank.kind,))
        if not _overlap(mention.text, blank.text)
    )
    return list(islice(others, 8 * enough))


def _overlap(one: str, other: str) -> bool:
    """Tell whether two names share a word: "Mr Darcy" is no wrong answer for "Darcy"."""
    return not set(one.lower().split()).isdisjoint(other.lower().split())


def recall_probes(
    target: TargetLLM, windows: Iterator[Window], limit: int, seed: int
) -> list[Probe]:
    """Return at most ``limit`` recall items; windows take turns.

    Parameters
    ----------
    windows : of which each is a context
    """
    chosen: list[tuple[Window, str, list[Mention]]] = []
    n_mentions = 0
    for window in windows:
        text = target.decode(window[1])
        new = _new_mentions(text, seed)
        if new:
            chosen.append((window, text, new))
            n_mentions += len(new)
        if n_mentions >= 2 * limit and len(chosen) >= MIN_RECALL_WINDOWS:
            break
    by_source = grouped(chosen, lambda entry: entry[0][0].source)
    pools = {
        source: [(entry[0][0].document, mention) for entry in entries for mention in entry[2]]
        for source, entries in by_source.items()
    }

    def stream(window: Window, text: str, new: list[Mention]) -> Iterator[Probe]:
        for mention in new:
            probe = _recall(target, window, text, mention, pools[window[0].source], seed)
            if probe is not None:
                yield probe

    return list(islice(turns(stream(*entry) for entry in chosen), limit))


def _new_mentions(text: str, seed: int) -> list[Mention]:
    """Return some mentions that have not stood in the text before, numbers and names in turn."""
    fresh = [
        mention
        for mention in mentions(text, RECALLED)
        if mention.start >= MIN_CLOZE_BEFORE and not stands_in(mention.text, text[: mention.start])
    ]
    rng = np.random.default_rng([seed, len(text), len(fresh)])
    by_kind = grouped([fresh[i] for i in rng.permutation(len(fresh))], lambda mention: mention.kind)
    ordered = turns(iter(by_kind[kind]) for kind in RECALLED if kind in by_kind)
    return list(islice(ordered, MAX_MENTIONS_PER_WINDOW))


def _recall(
    target: TargetLLM,
    window: Window,
    text: str,
    mention: Mention,
    pool: Sequence[tuple[str, Mention]],
    seed: int,
) -> Probe | None:
    passage, ids = window
    rng = np.random.default_rng([seed, *ids[:4], mention.start])
    if mention.kind == "number":
        wrong = [_number_like(mention.text, rng) for _ in range(2 * N_RECALL_DISTRACTORS)]
    else:
        wrong = [
            other.text
            for document, other in (pool[i] for i in rng.permutation(len(pool)))
            if document != passage.document
            and other.kind == mention.kind
            and not _overlap(other.text, mention.text)
        ]
    wrong = [word for word in dict.fromkeys(wrong) if not stands_in(word, text)]
    found = choices(target, text[: mention.start], mention.text, wrong, N_RECALL_DISTRACTORS)
    if found is None:
        return None
    return Probe(
        "reconstruction",
        passage.document,
        passage.source,
        ids,
        found.right,
        bridge_ids=found.before,
        distractors=found.wrong,
        labels=(("kind", mention.kind),),
    )


def _number_like(number: str, rng: np.random.Generator) -> str:
    """Return a number of the same form; a year stays in its century."""
    kept = 2 if re.fullmatch(r"1\d{3}|20\d\d", number) else 0
    rest = re.sub(r"\d", lambda _: str(rng.integers(10)), number[kept:])
    if not kept and number[0] != "0":
        rest = str(rng.integers(1, 10)) + rest[1:]
    return number[:kept] + rest
