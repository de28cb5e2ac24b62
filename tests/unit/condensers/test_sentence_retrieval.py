from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from neural_condense_core.condensers.sentence_retrieval import (
    SentenceRetrievalCondenser,
    bm25,
    words,
)
from neural_condense_core.condensers.sentences import MAX_SENTENCE, sentence_ends
from neural_condense_core.errors import RequestError

TEXT = "The cat sat on a mat. Rain fell in Paris! Who paid for bread? Nobody knows."


def kept(target, text: str, query: str, n: int) -> str:
    ids = target.tokenize(text)
    return target.decode([ids[i] for i in SentenceRetrievalCondenser(target).select(ids, n, query)])


@pytest.mark.parametrize(
    ("query", "n", "expected"),
    [
        ("Where did the rain fall?", 20, " Rain fell in Paris!"),
        ("PARIS", 5, " Rain"),
        ("bread, cat", 20 + 21, "The cat sat on a mat. Who paid for bread?"),
        ("zebra", 21, "The cat sat on a mat."),
        ("zebra", len(TEXT), TEXT),
    ],
)
def test_the_best_sentences_in_document_order(fake_target, query, n, expected):
    assert kept(fake_target, TEXT, query, n) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two.", ["One.", " Two."]),
        ("Pi is 3.14 or so. Yes", ["Pi is 3.14 or so.", " Yes"]),
        ("He said \u201cgo!\u201d (Why?) x", ["He said \u201cgo!\u201d", " (Why?)", " x"]),
        ("Wait...  What?!", ["Wait...", "  What?!"]),
        ("a\nb\n", ["a\n", "b\n"]),
        ("\u732b\u3002\u72ac\u3002", ["\u732b\u3002", "\u72ac\u3002"]),
        ("x" * 150, ["x" * MAX_SENTENCE, "x" * MAX_SENTENCE, "x" * 22]),
    ],
)
def test_where_sentences_end(fake_target, text, expected):
    ids = fake_target.tokenize(text)
    bounds = [0, *sentence_ends(fake_target, ids)]
    found = [fake_target.decode(ids[a:b]) for a, b in pairwise(bounds)]
    assert found == expected


@pytest.mark.parametrize("queries", [None, [], ["one", "two"], [" "], [""]])
def test_a_query_is_needed(fake_target, queries):
    with pytest.raises(RequestError, match="quer"):
        SentenceRetrievalCondenser(fake_target).condense([[65, 66]], 1, queries=queries)


def test_words():
    assert words("Don't PANIC_now, 42 \u732b\u72ac") == [
        "don", "t", "panic", "now", "42", "\u732b", "\u72ac",
    ]  # fmt: skip


def test_rare_words_count_more():
    scores = bm25(["the cat", "the dog", "the owl"], "the owl")
    assert int(np.argmax(scores)) == 2


@pytest.mark.parametrize("sentences", [["!!", "??"], ["\U0001f600"]])
def test_sentences_without_words_score_zero(sentences):
    np.testing.assert_array_equal(bm25(sentences, "why"), np.zeros(len(sentences)))
