"""Sentence retrieval: keep the sentences that match the query best, by BM25.

Query-aware, so it stands in a column of its own: the others do not know what will be asked.

Design decisions

* Sentences are found on the token ids, since ids are what a condenser is given: a sentence ends
  behind a token that ends one in the decoded text, and after ``MAX_SENTENCE`` tokens at the latest
  (code, tables and poems have few full stops).
* BM25+ instead of Okapi: Okapi's idf is zero or negative for words in half of the sentences, and
  contexts of two or three sentences are common.
* Sentences without any word of the query follow in document order, the head first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from rank_bm25 import BM25Plus

from neural_condense_core.condensers.selection import Indices, SelectionCondenser
from neural_condense_core.errors import RequestError

MAX_SENTENCE = 64
_LOOK_BACK = 4
"""Tokens in which a full stop and the quotes and brackets behind it are looked for."""
_ENDS = re.compile(r"[.!?\u2026][\"'\u2019\u201d\u00bb)\]*_]*\s*$")
_ENDS_ANYWAY = re.compile(r"\n|[\u3002\uff01\uff1f]")
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
        bounds = [0, *self._sentence_ends(ids)]
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

    def _sentence_ends(self, ids: Sequence[int]) -> Iterator[int]:
        pieces = {token: self.target.decode([token]) for token in set(ids)}
        start = 0
        for end in range(1, len(ids) + 1):
            full = end - start == MAX_SENTENCE or end == len(ids)
            if full or self._is_end(ids, start, end, pieces[ids[end - 1]]):
                yield end
                start = end

    def _is_end(self, ids: Sequence[int], start: int, end: int, piece: str) -> bool:
        if _ENDS_ANYWAY.search(piece):
            return True
        if piece[-1:].isalnum():
            return False  # most tokens; spares two calls of the tokenizer
        # "3.14" and "e.g." hold full stops that end nothing: only the next token tells, and only
        # decoded together, as some tokenizers drop a leading space from a token by itself.
        first = max(start, end - _LOOK_BACK)
        last = self.target.decode(ids[first:end])
        following = self.target.decode(ids[first : end + 1])[len(last) :]
        return bool(_ENDS.search(last)) and (last[-1:].isspace() or following[:1].isspace())


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
