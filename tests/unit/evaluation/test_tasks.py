"""Evaluation items: what they hold and how they are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import Letters

from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.data import Passage, Question
from neural_condense_core.evaluation.tasks import (
    TASKS,
    ItemsConfig,
    answer_items,
    build_items,
    continuation_items,
    reconstruction_items,
)
from neural_condense_core.evaluation.windows import MAX_WINDOWS_PER_DOCUMENT
from neural_condense_core.scoring.recovery import derangement

TARGET: Any = Letters()


def passages(n_documents: int = 6, n_chars: int = 9000) -> list[Passage]:
    return [
        Passage(source, f"{source} {k}", " ".join(f"{source}{k}-{i}" for i in range(n_chars // 7)))
        for source in ("x", "y")
        for k in range(n_documents)
    ]


def question(source: str, document: str, context: str, answer: str = "gold") -> Question:
    return Question(source, document, context, f"what about {context[:9]}?", answer)


def text_of(passage: Passage, ids: Sequence[int]) -> bool:
    return TARGET.decode(ids) in passage.text


def test_continuation_items_are_consecutive_text() -> None:
    given = passages()
    items = continuation_items(TARGET, given, 10, 0)
    by_document = {passage.document: passage for passage in given}
    for item in items:
        assert (len(item.context_ids), len(item.bridge_ids), len(item.target_ids)) == (256, 32, 64)
        whole = (*item.context_ids, *item.bridge_ids, *item.target_ids)
        assert text_of(by_document[item.document], whole)
        assert item.source == by_document[item.document].source
    assert Counter(item.source for item in items) == {"x": 5, "y": 5}
    assert len({item.document for item in items}) == 10


def test_windows_start_at_a_word_and_do_not_overlap() -> None:
    given = passages(n_documents=1, n_chars=40_000)
    items = continuation_items(TARGET, given, 99, 0)
    assert Counter(item.source for item in items) == {
        "x": MAX_WINDOWS_PER_DOCUMENT,
        "y": MAX_WINDOWS_PER_DOCUMENT,
    }
    for source in ("x", "y"):
        text = next(passage.text for passage in given if passage.source == source)
        starts = sorted(
            text.index(TARGET.decode(item.context_ids)) for item in items if item.source == source
        )
        assert all(start == 0 or text[start - 1] == " " for start in starts)
        assert all(b - a >= 352 for a, b in pairwise(starts))


def test_a_document_of_many_texts_counts_once() -> None:
    given = [Passage("x", "one", passage.text) for passage in passages()]
    assert len(continuation_items(TARGET, given, 99, 0)) == MAX_WINDOWS_PER_DOCUMENT


def test_too_short_texts_give_no_window() -> None:
    assert continuation_items(TARGET, [Passage("x", "t", "a" * 351)], 9, 0) == []
    assert len(continuation_items(TARGET, [Passage("x", "t", "a" * 352)], 9, 0)) == 1


def test_reconstruction_target_is_the_context() -> None:
    for item in reconstruction_items(TARGET, passages(), 4, 0):
        assert len(item.context_ids) == 128
        assert item.context_ids == item.target_ids


@pytest.mark.parametrize("make", [continuation_items, reconstruction_items])
def test_window_items_are_deterministic_by_seed(make: Any) -> None:
    assert make(TARGET, passages(), 6, 1) == make(TARGET, passages(), 6, 1)
    assert make(TARGET, passages(), 6, 1) != make(TARGET, passages(), 6, 2)


def test_answer_contexts_are_never_cut() -> None:
    given = [question("s", f"g{n}", "c" * n) for n in (63, 64, 512, 513)]
    items = answer_items(TARGET, given, 9, 0)
    assert sorted(len(item.context_ids) for item in items) == [64, 512]
    assert {TARGET.decode(item.target_ids) for item in items} == {"gold"}
    assert {item.question for item in items} == {"what about ccccccccc?"}


def test_answers_are_spread_over_sources_documents_and_contexts() -> None:
    given = [
        question(source, f"g{g}", f"{source}{g}{c}" + "." * 100, answer=f"{q}")
        for source, groups in (("a", 1), ("b", 4))
        for g in range(groups)
        for c in range(3)
        for q in range(5)
    ]
    items = answer_items(TARGET, given, 8, 0)
    assert Counter(item.source for item in items) == {"a": 4, "b": 4}
    assert len({item.document for item in items if item.source == "b"}) == 4
    # the one document of source a gives a second question on a context only after the third context
    assert Counter(i.context_ids for i in items if i.source == "a").most_common(1)[0][1] == 2
    assert answer_items(TARGET, given, 8, 0) == items
    assert len(answer_items(TARGET, given, 999, 0)) == len(given)


def test_lengths_of_continuation_take_turns_and_are_labelled() -> None:
    items = continuation_items(TARGET, passages(), 6, 0, (64, 128))
    assert [len(item.context_ids) for item in items] == [64, 128] * 3
    assert [item.label("length") for item in items] == ["64", "128"] * 3
    assert continuation_items(TARGET, passages(), 1, 0, (64,))[0].labels == ()


def test_build_items_makes_the_quick_tasks_that_the_files_allow(
    prose_file: Path, qa_file: Path
) -> None:
    def built(prose: Path | None, qa: Path | None, chosen: Any = None) -> list[str]:
        return list(build_items(TARGET, ItemsConfig(chosen, prose, qa, limit=4)))

    assert built(prose_file, qa_file) == ["continuation", "answer"]
    assert built(prose_file, None) == ["continuation"]
    assert built(None, qa_file) == ["answer"]
    assert built(None, None) == ["counterfactual"]
    assert built(None, qa_file, ("reconstruction", "needle")) == ["reconstruction", "needle"]


def test_every_task_can_be_built(tmp_path: Path, qa_file: Path) -> None:
    path = tmp_path / "file.parquet"
    rows = [
        {
            "source": "s",
            "title": "t",
            "text": " ".join(
                f"In {1800 + 7 * i + k} Mr Smith{k} met Anna{k} and Ben{k}, Carl{k}, Dora{k} again."
                for i in range(99)
            ),
        }
        for k in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    config = ItemsConfig(TASKS, path, qa_file, 4, lengths=(1024,))
    found = build_items(TARGET, config)
    assert {task: len(items) for task, items in found.items()} == dict.fromkeys(TASKS, 4)
    assert build_items(TARGET, config) == found
    for task in ("cloze", "recall", "needle", "counterfactual"):
        assert all(item.distractors for item in found[task])


@pytest.mark.parametrize(
    ("with_prose", "with_qa", "chosen", "says"),
    [
        (True, False, ("answer",), "'answer' needs --qa"),
        (False, True, ("continuation",), "'continuation' needs --prose"),
        (False, True, ("cloze",), "'cloze' needs --prose"),
        (False, False, ("recall",), "'recall' needs --prose or --qa"),
    ],
)
def test_build_items_refuses(
    prose_file: Path, qa_file: Path, with_prose: bool, with_qa: bool, chosen: Any, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_items(
            TARGET,
            ItemsConfig(
                chosen, prose_file if with_prose else None, qa_file if with_qa else None, limit=4
            ),
        )
    assert says in caught.value.message


def test_a_length_beyond_the_target_models_positions_is_refused(prose_file: Path) -> None:
    small: Any = Letters()
    small.max_positions = 1024
    with pytest.raises(ConfigError, match="1000 tokens and a question do not fit letters"):
        build_items(small, ItemsConfig(("needle",), lengths=(512, 1000)))
    items = build_items(small, ItemsConfig(("needle",), limit=4))["needle"]
    assert {len(item.context_ids) for item in items} == {256, 512}


def test_one_document_is_too_little(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    row = {"source": "s", "title": "t", "text": "word " * 3000}
    pq.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(ConfigError, match="at least two documents"):
        build_items(TARGET, ItemsConfig(("continuation",), path, limit=4))


def test_chapters_of_one_title_are_documents_of_their_own(tmp_path: Path) -> None:
    rows = [
        {"source": "x", "title": "Introduction", "text": passage.text} for passage in passages(5)
    ]
    path = tmp_path / "file.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    chosen = ("continuation", "reconstruction")
    for items in build_items(TARGET, ItemsConfig(chosen, path, limit=8)).values():
        assert len(items) == len({item.document for item in items}) == 8


def test_a_context_of_two_sources_is_swapped_for_neither_of_them(tmp_path: Path) -> None:
    def row(source: str, group: str, context: str, question: str) -> dict[str, Any]:
        context = f"{context}. " * 20
        return {"source": source, "group": group, "context": context, "question": question,
                "answers": ["gold"]}  # fmt: skip

    rows = [
        row("squad", "Amazon", "amazon 1", "a?"),
        row("squad", "Amazon", "amazon 2", "b?"),
        row("squad", "Climate", "climate", "c?"),
        row("adversarial", "amazon 1", "amazon 1", "d?"),
        row("adversarial", "amazon 2", "amazon 2", "e?"),
    ]
    path = tmp_path / "file.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    built = build_items(TARGET, ItemsConfig(("answer", "reconstruction"), qa=path, limit=9))
    items = built["answer"]
    by_question = {item.question: item.document for item in items}
    assert len({by_question[q] for q in ("a?", "b?", "d?", "e?")}) == 1
    assert by_question["c?"] != by_question["a?"]
    others = derangement([i.document for i in items], [i.source for i in items], 0)
    for item, other in zip(items, others, strict=True):
        assert ("amazon" in TARGET.decode(item.context_ids)) != (
            "amazon" in TARGET.decode(items[other].context_ids)
        )
    assert len({item.document for item in built["reconstruction"]}) == 2
