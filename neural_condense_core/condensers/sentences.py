"""Sentences of a context, found on its token ids.

A sentence ends behind a token that ends one in the decoded text, and after ``MAX_SENTENCE`` tokens
at the latest (code, tables and poems have few full stops).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

MAX_SENTENCE = 64
_LOOK_BACK = 4
"""Tokens in which a full stop and the quotes and brackets behind it are looked for."""
_ENDS = re.compile(r"[.!?\u2026][\"'\u2019\u201d\u00bb)\]*_]*\s*$")
_ENDS_ANYWAY = re.compile(r"\n|[\u3002\uff01\uff1f]")


class Decoder(Protocol):
    """What turns token ids into text; every target model does."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""


def sentence_ends(target: Decoder, ids: Sequence[int]) -> Iterator[int]:
    """Yield where each sentence ends.

    Parameters
    ----------
    target : whose token ids they are
    ids : (n_context,) token ids

    Yields
    ------
    indices just behind the last token of each sentence, ascending; the last is ``n_context``
    """
    pieces = {token: target.decode([token]) for token in set(ids)}
    start = 0
    for end in range(1, len(ids) + 1):
        full = end - start == MAX_SENTENCE or end == len(ids)
        if full or _is_end(target, ids, start, end, pieces[ids[end - 1]]):
            yield end
            start = end


def _is_end(target: Decoder, ids: Sequence[int], start: int, end: int, piece: str) -> bool:
    if _ENDS_ANYWAY.search(piece):
        return True
    if piece[-1:].isalnum():
        return False  # most tokens; spares two calls of the tokenizer
    # "3.14" and "e.g." hold full stops that end nothing: only the next token tells, and only
    # decoded together, as some tokenizers drop a leading space from a token by itself.
    first = max(start, end - _LOOK_BACK)
    last = target.decode(ids[first:end])
    following = target.decode(ids[first : end + 1])[len(last) :]
    return bool(_ENDS.search(last)) and (last[-1:].isspace() or following[:1].isspace())
