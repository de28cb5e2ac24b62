"""Selective Context: keep the phrases that the target model itself finds most surprising.

The phrase-level sibling of ``self-information``: a phrase is kept or dropped as a whole, by the
mean surprisal of its tokens.

Design decisions

* Phrases are found without a parser: a phrase is a run of words that holds no function word and
  crosses no punctuation; each function word and each punctuation mark is a unit by itself. Text
  in another language, or without spaces, is cut after ``MAX_PHRASE`` tokens.
* Words are found on the decoded text of neighbouring tokens, as some tokenizers drop the leading
  space of a token that is decoded by itself.
* The number of tokens is met exactly: what is left for the last phrase is its most surprising
  contiguous piece.

References
----------
Selective Context, arXiv:2310.06201. Differs: phrases by function words instead of a dependency
parser's noun chunks; surprisal over the text before (windows, see ``self_information``) instead of
sentence by sentence; an exact number of tokens instead of a percentile.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from neural_condense_core.condensers.selection import Indices, SelectionCondenser
from neural_condense_core.condensers.self_information import surprisal
from neural_condense_core.condensers.sentences import Decoder
from neural_condense_core.condensers.spans import keep_best

MAX_PHRASE = 8
"""Tokens after which a phrase is cut, between words where it can be."""

_FUNCTION_WORDS = """
a about above after again against all am an and any are as at be because been before being
below between both but by can cannot could did do does doing down during each few for from
further had has have having he her here hers herself him himself his how i if in into is it
its itself me more most my myself no nor not of off on once only or other our ours ourselves
out over own same shall she should so some such than that the their theirs them themselves
then there these they this those through to too under until up upon very was we were what
when where which while who whom whose why will with would you your yours yourself
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


class SelectiveContextCondenser(SelectionCondenser):
    """Keep whole phrases in the order of their mean surprisal until n tokens are there."""

    name = "selective-context"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the indices of the chosen phrases, ascending."""
        del query
        return keep_best(surprisal(self.target, ids), phrase_bounds(self.target, ids), n)


def phrase_bounds(target: Decoder, ids: Sequence[int]) -> list[int]:
    """Return where phrases begin.

    Parameters
    ----------
    target : whose token ids they are
    ids : (n_context,) token ids, at least one

    Returns
    -------
    (n_phrases + 1,) ascending from 0 to ``n_context``; phrase i is ``[bounds[i], bounds[i + 1])``
    """
    pieces = _pieces(target, ids)
    starts = [0]
    for i in range(1, len(ids)):
        if _begins_word(pieces[i - 1], pieces[i]) or i - starts[-1] == MAX_PHRASE:
            starts.append(i)
    bounds = [0]
    run_is_open = False
    for start, end in pairwise([*starts, len(ids)]):
        content = _is_content("".join(pieces[start:end]))
        joins = run_is_open and content and end - bounds[-1] <= MAX_PHRASE
        if start > 0 and not joins:
            bounds.append(start)
        run_is_open = content
    return [*bounds, len(ids)]


def _pieces(target: Decoder, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text before it."""
    known: dict[tuple[int, int], str] = {}
    found = [target.decode(ids[:1])]
    for before, token in pairwise(ids):
        if (before, token) not in known:
            head = target.decode([before])
            known[before, token] = target.decode([before, token])[len(head) :]
        found.append(known[before, token])
    return found


def _begins_word(before: str, piece: str) -> bool:
    if not piece or not before:  # part of a character, or a token without a text of its own
        return False
    if piece[0].isspace() or before[-1].isspace():
        return not piece.isspace()
    return piece[0].isalnum() != before[-1].isalnum()


def _is_content(word: str) -> bool:
    bare = word.strip()
    return bare[:1].isalnum() and bare.lower() not in FUNCTION_WORDS
