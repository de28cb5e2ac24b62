"""Sentence retrieval: keep the sentences that match the query best, by BM25.

Query-aware, so it stands in a column of its own: the others do not know what will be asked.

Design decisions

* Sentences are found on the token ids, since ids are what a condenser is given.
* BM25+ instead of Okapi: Okapi's idf is zero or negative for words in half of the sentences, and
  contexts of two or three sentences are common.
* Sentences without any word of the query follow in document order, the head first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from rank_bm25 import BM25Plus

from neural_condense_core.condensers.selection import Indices, SelectionCondenser
from neural_condense_core.condensers.sentences import sentence_ends
from neural_condense_core.errors import RequestError

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")


class SentenceRetrievalCondenser(SelectionCondenser):
    """Keep the best sentences for the query, in document order, until n tokens are there."""

    name = "sentence-retrieval"
    query_aware: ClassVar[bool] = True

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the indices of the best sentences; the last one is cut to fit.

        Raises
        ------
        RequestError
            The query is empty.
        """
        if query is None or not query.strip():
            raise RequestError(f"{self.name} needs a query that is not empty")
        bounds = [0, *sentence_ends(self.target, ids)]
        sentences = [self.target.decode(ids[start:end]) for start, end in pairwise(bounds)]
        chosen: list[Indices] = []
        left = n
        for sentence in np.argsort(-bm25(sentences, query), kind="stable"):
            start = bounds[sentence]
            end = min(bounds[sentence + 1], start + left)
            chosen.append(np.arange(start, end, dtype=np.int64))
            left -= end - start
            if left == 0:
                break
        return np.sort(np.concatenate(chosen))


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; characters of unspaced scripts one by one."""
    return _WORD.findall(text.lower())


def bm25(sentences: Sequence[str], query: str) -> npt.NDArray[np.float64]:
    """Score sentences against a query.

    Parameters
    ----------
    sentences : at least one
    query : what is asked

    Returns
    -------
    (n_sentences,), higher is better; zeros if no sentence has a word
    """
    documents = [words(sentence) for sentence in sentences]
    if not any(documents):
        return np.zeros(len(sentences))
    return np.asarray(BM25Plus(documents).get_scores(words(query)), dtype=np.float64)
