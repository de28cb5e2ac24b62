"""Needles: where they stand and what is asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evaluation_fakes import Letters

from neural_condense_core.evaluation.needles import DEPTHS, needle_probes

TARGET: Any = Letters()


def test_texts_are_of_the_lengths_asked_for_and_hold_every_needle_once() -> None:
    items = needle_probes(TARGET, (700, 1500), DEPTHS, 20, 0)
    assert Counter(len(item.context_ids) for item in items) == {700: 10, 1500: 10}
    assert len({item.document for item in items}) == 4
    for item in items:
        text = TARGET.decode(item.context_ids)
        codes = [TARGET.decode(ids).strip() for ids in (item.target_ids, *item.distractors)]
        assert len(set(codes)) == len(DEPTHS)
        assert all(text.count(code) == 1 for code in codes)
        assert item.golds == (codes[0],)
        begun = TARGET.decode(item.bridge_ids)
        assert f"{begun} {codes[0]}." in text
        assert item.question == begun.replace("The", "What is the", 1).removesuffix(" is") + "?"


def test_needles_stand_at_their_depths() -> None:
    for item in needle_probes(TARGET, (4000,), (0.0, 0.5, 1.0), 6, 1):
        place = TARGET.decode(item.context_ids).index(item.golds[0]) / 4000
        assert abs(place - float(item.label("depth") or -1)) < 0.06


def test_a_limit_spares_lengths_and_is_the_same_again() -> None:
    items = needle_probes(TARGET, (700, 1500, 3000), DEPTHS, 7, 3)
    assert Counter(item.label("length") for item in items) == {"700": 3, "1500": 2, "3000": 2}
    assert items == needle_probes(TARGET, (700, 1500, 3000), DEPTHS, 7, 3)
    assert items != needle_probes(TARGET, (700, 1500, 3000), DEPTHS, 7, 4)


def test_what_is_too_short_for_its_needles_is_left_out() -> None:
    assert needle_probes(TARGET, (100,), DEPTHS, 7, 0) == []
