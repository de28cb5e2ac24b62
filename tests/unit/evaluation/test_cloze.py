"""Cloze and recall items: what is blanked, what is offered beside it."""

from __future__ import annotations

from typing import Any

import pytest
from evaluation_fakes import Letters

from neural_condense_core.evaluation.cloze import cloze_probes, recall_probes
from neural_condense_core.evaluation.data import Passage
from neural_condense_core.evaluation.mentions import stands_in
from neural_condense_core.evaluation.probes import Probe

TARGET: Any = Letters()
CONTEXT = (
    "In 1801 Anna met Ben Gray and Carl. In 1802 they went with Dora and Emil to Kent. In 1803 and "
    "1804 nobody wrote; in 1805 a letter came. "
)
BEHIND = "Nobody had thought of it before, but in 1803 the letter of Carl was opened again."


def window(document: str = "d", context: str = CONTEXT, behind: str = BEHIND) -> Any:
    text = context + behind
    return Passage("s", document, text), tuple(map(ord, text))


def said(ids: Any) -> str:
    return TARGET.decode(ids)


def cloze(**parts: str) -> list[Probe]:
    made = window(**parts)
    return cloze_probes(TARGET, iter([made]), len(parts.get("context", CONTEXT)), 9, 0)


def test_cloze_blanks_a_number_before_a_name() -> None:
    (item,) = cloze()
    assert (said(item.bridge_ids), said(item.target_ids)) == (
        "Nobody had thought of it before, but in", " 1803",
    )  # fmt: skip
    assert sorted(map(said, item.distractors)) == [" 1801", " 1802", " 1804", " 1805"]
    assert item.label("kind") == "number"
    assert (item.task, said(item.context_ids)) == ("continuation", CONTEXT)


def test_cloze_takes_what_stands_in_the_context_only() -> None:
    (item,) = cloze(behind=BEHIND.replace("1803", "1899"))
    assert said(item.target_ids) == " Carl"
    # other names that share no word with the right one
    assert {said(ids) for ids in item.distractors} == {" Anna", " Dora", " Emil", " Kent"}
    assert (
        cloze(behind="Nobody had thought of it before, but in 1899 Fred and Gerd were there.") == []
    )


def test_cloze_fills_up_from_the_document() -> None:
    text = CONTEXT.replace("Emil to Kent", "them")
    passage, ids = window(context=text, behind=BEHIND.replace("1803", "1899"))
    whole = Passage("s", "d", passage.text + " Then came Fred and Gerd to Hull.")
    (item,) = cloze_probes(TARGET, iter([(whole, ids)]), len(text), 9, 0)
    offered = {said(ids).strip() for ids in item.distractors}
    assert len(offered) == 4
    assert offered <= {"Anna", "Dora", "Ben Gray", "Fred", "Gerd", "Hull"}
    assert not all(stands_in(name, text) for name in offered)


def windows_of_two() -> Any:
    return iter([
        window(
            "one", "On that day in spring the boats of Hull left with Anna, Ben and 37 men. ", ""
        ),
        window(
            "two", "It was certainly not before 1899 that Fred, Gerd and Hugo came to know. ", ""
        ),
    ])


def test_recall_asks_for_what_has_not_stood_before() -> None:
    items = recall_probes(TARGET, windows_of_two(), 20, 0)
    assert {item.document for item in items} == {"one", "two"}
    for item in items:
        text = said(item.context_ids)
        before, right = said(item.bridge_ids), said(item.target_ids)
        assert text.startswith(before + right)
        assert not stands_in(right.strip(), before)
        assert item.task == "reconstruction"
        assert len(item.distractors) == 3
        for wrong in map(said, item.distractors):
            assert not stands_in(wrong.strip(), text)
    numbers = {said(item.target_ids): item for item in items if item.label("kind") == "number"}
    assert set(numbers) == {" 37", " 1899"}
    assert all(len(ids) == 3 for ids in numbers[" 37"].distractors)
    assert all(said(ids).startswith(" 18") for ids in numbers[" 1899"].distractors)


@pytest.mark.parametrize("limit", [1, 3])
def test_recall_takes_turns_and_keeps_to_the_limit(limit: int) -> None:
    items = recall_probes(TARGET, windows_of_two(), limit, 0)
    assert len(items) == limit
    assert items == recall_probes(TARGET, windows_of_two(), limit, 0)
    assert len({item.document for item in items}) == min(2, limit)
