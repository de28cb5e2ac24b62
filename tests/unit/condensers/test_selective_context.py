from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.condensers.selective_context import (
    MAX_PHRASE,
    SelectiveContextCondenser,
    phrase_bounds,
)


class WordTarget:
    """One token a word with its leading space, or a punctuation mark; surprisal is told."""

    name = "words"
    hidden_size = 4
    max_positions = 4096

    def __init__(self, text: str, surprisals: dict[str, float] | None = None) -> None:
        self.words = text.split("|")
        self.vocabulary = sorted(set(self.words))
        self.ids = [self.vocabulary.index(word) for word in self.words]
        self.told = surprisals or {}

    def decode(self, ids) -> str:
        text = "".join(self.vocabulary[i] for i in ids)
        return text[1:] if text[:1] == " " else text  # as sentencepiece does

    def surprisal(self, batch):
        return [
            np.array([self.told.get(self.vocabulary[i].strip(), 1.0) for i in ids], np.float32)
            for ids in batch
        ]


def phrases(text: str) -> list[str]:
    target = WordTarget(text)
    return [
        "".join(target.words[start:end])
        for start, end in pairwise(phrase_bounds(target, target.ids))
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The| old| mill| of| Kansas", ["The", " old mill", " of", " Kansas"]),
        ("Aunt| Em|,| who| was| small|.", ["Aunt Em", ",", " who", " was", " small", "."]),
        ("cy|cl|one| cel|lar", ["cyclone cellar"]),
        ("one", ["one"]),
        ("the", ["the"]),
        (" a| b|  |c", [" a", " b  c"]),
    ],
)
def test_phrases_are_runs_of_content_words(text, expected):
    assert phrases(text) == expected


def test_a_long_run_is_cut_between_words_and_a_long_word_anyway():
    found = phrases("|".join([" cat"] * (MAX_PHRASE + 3)))
    assert [phrase.count("cat") for phrase in found] == [MAX_PHRASE, 3]
    found = phrases("|".join(["x"] * (MAX_PHRASE + 3)))
    assert [len(phrase) for phrase in found] == [MAX_PHRASE, 3]


def test_the_most_surprising_phrases_are_kept_whole_and_in_order():
    target = WordTarget("A| red| fox| and| the| quick| hare|.", {"fox": 9, "quick": 3, "hare": 3})
    condenser = SelectiveContextCondenser(target)
    kept = [target.words[i] for i in condenser.select(target.ids, 4, None)]
    assert kept == [" red", " fox", " quick", " hare"]
    kept = [target.words[i] for i in condenser.select(target.ids, 3, None)]
    assert kept == [" red", " fox", " quick"], "of the last phrase the best piece"


@given(st.lists(st.sampled_from("ab .,the "), min_size=1, max_size=40), st.data())
def test_any_number_of_tokens_can_be_met(characters, data):
    text = "|".join(characters)
    target = WordTarget(text)
    bounds = phrase_bounds(target, target.ids)
    assert bounds[0] == 0
    assert bounds[-1] == len(target.ids)
    assert all(start < end for start, end in pairwise(bounds))
    n = data.draw(st.integers(1, len(target.ids)))
    kept = SelectiveContextCondenser(target).select(target.ids, n, None)
    assert len(kept) == n
    assert (np.diff(kept) > 0).all()
