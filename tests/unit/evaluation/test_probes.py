"""Items with choices and labels, and how words are tokenised behind a text."""

from __future__ import annotations

from typing import Any

from evaluation_fakes import Letters

from neural_condense_core.evaluation.probes import Probe, nearest_in_length, tail_ids


class Pairs(Letters):
    """Two letters a token, so that a text may end inside one."""

    def tokenize(self, text: str) -> list[int]:
        return [sum(map(ord, text[i : i + 2])) for i in range(0, len(text), 2)]


LETTERS: Any = Letters()
PAIRS: Any = Pairs()


def test_white_space_belongs_to_the_tail() -> None:
    found = tail_ids(LETTERS, "to be ", "seen")
    assert found == (tuple(map(ord, "to be")), tuple(map(ord, " seen")))
    assert tail_ids(LETTERS, "(", "x") == ((40,), (120,))


def test_a_tail_must_begin_at_a_token() -> None:
    assert tail_ids(PAIRS, "abcd", "ef") is not None
    assert tail_ids(PAIRS, "abc", "ef") is None
    assert tail_ids(LETTERS, " ", "ef") is None
    assert tail_ids(LETTERS, "ab", "") is None


def test_distractors_are_near_in_length_and_no_beginnings() -> None:
    offered = [(9,), (1, 2), (1,), (1, 2, 3), (4, 4), (5, 5), (4, 4), (), (7, 7, 7, 7)]
    assert nearest_in_length((1, 2), offered, 3) == ((4, 4), (5, 5), (9,))


def test_swaps_stay_within_source_and_length() -> None:
    short = Probe("answer", "d", "s", (1,), (2,), labels=(("length", "1"), ("depth", "0.5")))
    long = Probe("answer", "d", "s", (1,), (2,), labels=(("length", "2"),))
    assert short.swap_group != long.swap_group
    assert short.swap_group.startswith("s")
    assert (short.label("depth"), short.label("kind")) == ("0.5", None)
