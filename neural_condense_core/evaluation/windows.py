"""Windows of running text, spread over sources and documents, and the order items come in.

Design decisions

* Items are spread: sources take turns, within a source documents do, and one document gives a
  second item only when every other one has given its first. A few long books cannot decide a
  result.
* Windows start at a word, and windows of one text do not overlap.
* Deterministic by seed and texts; windows of one length are the same whoever asks for them, so
  that tasks share what was condensed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from neural_condense_core.evaluation.data import Passage
from neural_condense_core.llm.base import TargetLLM

T = TypeVar("T")

MAX_WINDOWS_PER_DOCUMENT = 4

CHARS_PER_TOKEN = 8
"""More characters than a token of running text has; windows are tokenised from so many."""


def windows(
    target: TargetLLM, passages: Sequence[Passage], n_tokens: int, seed: int
) -> Iterator[tuple[Passage, tuple[int, ...]]]:
    """Cut windows of exactly ``n_tokens``; sources and documents take turns.

    Yields
    ------
    the passage and the window's token ids, until the texts are used up
    """

    def of_passage(passage: Passage) -> Iterator[tuple[Passage, tuple[int, ...]]]:
        slot = n_tokens * CHARS_PER_TOKEN
        n_slots = max(1, len(passage.text) // slot)
        for k in np.random.default_rng([seed, len(passage.text)]).permutation(n_slots):
            ids = target.tokenize(_from_a_word(passage.text, int(k) * slot, slot))
            if len(ids) >= n_tokens:
                yield passage, tuple(ids[:n_tokens])

    def of_document(members: list[Passage]) -> Iterator[tuple[Passage, tuple[int, ...]]]:
        return islice(turns(map(of_passage, members)), MAX_WINDOWS_PER_DOCUMENT)

    def of_source(members: list[Passage]) -> Iterator[tuple[Passage, tuple[int, ...]]]:
        by_document = grouped(members, lambda passage: passage.document)
        return turns(map(of_document, by_document.values()))

    by_source = grouped(shuffled(passages, seed), lambda passage: passage.source)
    return turns(of_source(by_source[name]) for name in sorted(by_source))


def _from_a_word(text: str, start: int, n_chars: int) -> str:
    """Return up to ``n_chars`` characters from ``start`` on, a word that is cut off left out."""
    piece = text[start : start + n_chars]
    if start:
        _, _, piece = piece.partition(" ")
    return piece.lstrip()


def turns(streams: Iterable[Iterator[T]]) -> Iterator[T]:
    """Yield one of each stream in turn until all are empty."""
    left = list(streams)
    while left:
        remaining = []
        for stream in left:
            for value in islice(stream, 1):
                yield value
                remaining.append(stream)
        left = remaining


def grouped(values: Sequence[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Group values by a key, both in the order they come."""
    found: dict[str, list[T]] = {}
    for value in values:
        found.setdefault(key(value), []).append(value)
    return found


def shuffled(values: Sequence[T], seed: int) -> list[T]:
    """Return the values in an order of the seed's."""
    return [values[i] for i in np.random.default_rng(seed).permutation(len(values))]
