"""Counterfactual facts: every choice stands in the text and only the text decides."""

from __future__ import annotations

from typing import Any

from evaluation_fakes import Letters

from neural_condense_core.evaluation.counterfactuals import counterfactual_probes
from neural_condense_core.evaluation.world_facts import FACT_KINDS

TARGET: Any = Letters()


def test_the_right_choice_is_the_texts_and_the_worlds_is_a_wrong_one() -> None:
    worlds = {kind.name: kind for kind in FACT_KINDS}
    items = counterfactual_probes(TARGET, 40, 0)
    for item in items:
        text = TARGET.decode(item.context_ids)
        kind = worlds[item.label("kind") or ""]
        subject = next(
            name for name in kind.values if kind.question.format(subject=name) == item.question
        )
        right, *wrong = (TARGET.decode(ids).strip() for ids in (item.target_ids, *item.distractors))
        assert kind.values[subject] in wrong
        assert len({right, *wrong}) == 4
        assert f"{TARGET.decode(item.bridge_ids)} {right}." in text
        assert subject.lower() in TARGET.decode(item.bridge_ids).lower()
        assert item.golds == (right,)


def test_any_number_of_items_can_be_had() -> None:
    items = counterfactual_probes(TARGET, 330, 1)
    assert len(items) == 330
    assert len({item.context_ids for item in items}) == 330 // len(FACT_KINDS)
    assert len({(item.context_ids, item.question) for item in items}) == 330
    assert items == counterfactual_probes(TARGET, 330, 1)
    assert items[:4] != counterfactual_probes(TARGET, 4, 2)


def test_facts_of_a_kind_have_values_of_their_own() -> None:
    for kind in FACT_KINDS:
        assert len(kind.values) >= 16
        assert len(set(kind.values.values())) == len(kind.values)
        for value in kind.values.values():
            begun = [other for other in kind.values.values() if other.startswith(value)]
            assert begun == [value]


def test_no_wrong_choice_stands_in_the_text() -> None:
    for item in counterfactual_probes(TARGET, 600, 0):
        text = TARGET.decode(item.context_ids).lower()
        for ids in item.distractors:
            assert TARGET.decode(ids).strip().lower() not in text
