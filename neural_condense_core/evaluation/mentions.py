"""Numbers, names and nouns in a text: what averages over tokens hide when it is lost.

Design decisions

* Found by form, without a tagger, so that nothing is downloaded: a name is a run of capitalised
  words, at the beginning of a sentence only if it stands elsewhere in the text too; a noun is a
  word between an article or the like and a mark or a function word. What is missed is missed for
  every condenser alike.
* Forms are of English and languages written like it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "name", "noun"]

KINDS: tuple[Kind, ...] = ("number", "name", "noun")

MAX_NAME_WORDS = 4
MIN_NOUN_LETTERS = 4

_QUOTE = "\u2019"
_CAPITALISED = rf"[A-Z][\w'{_QUOTE}-]*[a-z]\w*"
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,:]\d+)*(?!\w)")
_NAME = re.compile(
    rf"\b{_CAPITALISED}(?:[ ](?:(?:of|the|de|von)[ ])?{_CAPITALISED}){{0,{MAX_NAME_WORDS - 1}}}"
)
_DETERMINERS = "a|an|the|his|her|its|their|our|my|your|this|that|each|every|no"
_FUNCTION_WORDS = (
    "of|in|on|at|to|for|from|with|by|and|or|is|was|are|were|had|has|have|that|which|who|as|than|"
    "into|upon|over"
)
_NOUN = re.compile(
    rf"\b(?:{_DETERMINERS})[ ](?P<noun>[a-z]{{{MIN_NOUN_LETTERS},}})"
    rf"(?=[.,;:!?]|[ ](?:{_FUNCTION_WORDS})\b)"
)
_CLOSING = "[\"'\u201d\u2019)\\]]"
_OPENING = "[\\s\"'\u201c\u2018(\\[*#>_-]"
_SENTENCE_END = re.compile(rf"(?:^|[.!?:]{_CLOSING}*|\n){_OPENING}*$")
_NO_NAMES = frozenset(
    word.capitalize()
    for word in (
        f"{_DETERMINERS}|{_FUNCTION_WORDS}|these|those|there|then|they|when|where|what|why|how|but|"
        "not|yes|now|she|you|here|some|such|mr|mrs|chapter|if|it|he|we|so|me|be|do"
    ).split("|")
)


@dataclass(frozen=True)
class Mention:
    """A stretch of a text.

    Parameters
    ----------
    text : the words themselves
    kind : what it is
    start, end : characters of the text
    """

    text: str
    kind: Kind
    start: int
    end: int


def mentions(text: str, kinds: tuple[Kind, ...] = KINDS) -> list[Mention]:
    """Return the numbers, names and nouns of a text in the order they stand."""
    found: list[Mention] = []
    if "number" in kinds:
        found += _matches(_NUMBER, text, "number")
    if "name" in kinds:
        found += _names(text)
    if "noun" in kinds:
        found += _matches(_NOUN, text, "noun", "noun")
    return sorted(found, key=lambda mention: mention.start)


def stands_in(words: str, text: str) -> bool:
    """Tell whether words stand in a text as they are, and not as a part of other words."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _matches(
    pattern: re.Pattern[str], text: str, kind: Kind, group: str | int = 0
) -> Iterator[Mention]:
    for match in pattern.finditer(text):
        yield Mention(match[group], kind, match.start(group), match.end(group))


def _names(text: str) -> list[Mention]:
    inside: list[Mention] = []
    first: list[Mention] = []
    for mention in _matches(_NAME, text, "name"):
        if mention.text in _NO_NAMES:
            continue
        starts = _SENTENCE_END.search(text[max(0, mention.start - 12) : mention.start])
        (first if starts else inside).append(mention)
    known = {mention.text for mention in inside}
    return inside + [mention for mention in first if mention.text in known]
