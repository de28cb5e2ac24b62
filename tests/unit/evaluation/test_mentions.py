"""Numbers, names and nouns are found by their form."""

from __future__ import annotations

import pytest

from neural_condense_core.evaluation.mentions import KINDS, Kind, mentions, stands_in

TEXT = (
    "The House burned. In 1812, when Mr Tom Brown saw the house of glass, 3.5 tons fell on Kent. "
    "Kent was asleep; \u201cTom Brown is late\u201d, said a porter at 10:30. Nobody knew A4 or B."
)


def found(text: str, kind: Kind) -> list[str]:
    return [mention.text for mention in mentions(text, (kind,))]


def test_numbers() -> None:
    assert found(TEXT, "number") == ["1812", "3.5", "10:30"]
    assert found("1,200 men, no 2b; x1 7.", "number") == ["1,200", "7"]


def test_names_begin_no_sentence_unless_they_stand_elsewhere() -> None:
    assert found(TEXT, "name") == ["Mr Tom Brown", "Kent", "Kent", "Tom Brown"]
    assert found("Tom Brown saw it. He liked Tom Brown.", "name") == ["Tom Brown", "Tom Brown"]
    assert found("They met the Duke of York and The Mayor.", "name") == [
        "Duke of York", "The Mayor",
    ]  # fmt: skip


def test_nouns_follow_an_article_and_end_there() -> None:
    assert found(TEXT, "noun") == ["house", "porter"]
    assert found("the very house of a man; our neighbour was out", "noun") == ["neighbour"]


def test_places_are_those_of_the_text() -> None:
    both = mentions(TEXT)
    assert [TEXT[mention.start : mention.end] for mention in both] == [m.text for m in both]
    assert [mention.start for mention in both] == sorted(mention.start for mention in both)
    assert {mention.kind for mention in both} == set(KINDS)


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ("Tom", "Tom ran", True),
        ("Tom", "Tomorrow", False),
        ("12", "in 1812", False),
        ("12", "(12)", True),
        ("a.b", "axb", False),
    ],
)
def test_words_stand_in_a_text_as_they_are(words: str, text: str, expected: bool) -> None:
    assert stands_in(words, text) is expected
