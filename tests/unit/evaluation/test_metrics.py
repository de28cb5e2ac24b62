"""Rows from what was measured, over all items and over parts of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from neural_condense_core.evaluation.metrics import Choice, Outcome, Row, Variant, rows_of
from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.evaluation.reading import Ends, Reading
from neural_condense_core.evaluation.written import Reply
from neural_condense_core.scoring.judge import Losses, Reference, Score


def losses(*nats: float, n_tokens: float = 2.0) -> Losses:
    n = len(nats)
    return Losses(np.array(nats, float), np.full(n, n_tokens), np.arange(n) % 2 + 0.0)


ITEMS = [
    Probe("answer", "d1", "s1", (1,), (1, 2), "?"),
    Probe("answer", "d2", "s1", (2,), (1, 2), "?"),
    Probe("answer", "d2", "s2", (3,), (1, 2), "?"),
    Probe("answer", "d3", "s2", (4,), (1, 2), "?"),
]
REFERENCE = Reference(losses(6, 6, 6, 6), losses(2, 2, 4, 6), losses(7, 7, 6, 6))
SCORE = Score(losses(3, 4, 5, 0), losses(6, 5, 6, 0), REFERENCE)
VARIANT = Variant(
    "pooled",
    4.0,
    n_condensed=(10, 12, 14, 16),
    hidden_size=8,
    encode_ms=(3.0, np.nan, 5.0, np.nan),
)
UNKNOWN = np.full(4, np.nan)


def outcome(
    score: Score = SCORE,
    replies: Mapping[int, Reply] | None = None,
    hits: tuple[float, ...] | None = None,
) -> Outcome:
    ref = score.reference
    n = len(ref.none.nats)
    ends = Ends(
        Reading(ref.none, np.zeros(n) if hits else UNKNOWN[:n], ref.none),
        Reading(ref.full, np.ones(n) if hits else UNKNOWN[:n], ref.full_other),
    )
    own = UNKNOWN[:n] if hits is None else np.array(hits)
    return Outcome(score, own, ends, ref.kept, replies or {})


def test_row_over_all_sources() -> None:
    row = rows_of("answer", ITEMS, outcome(), VARIANT, 0)[0]
    interval = SCORE.interval_over(REFERENCE.kept, ["d1", "d2", "d2", "d3"], 0)
    assert row == Row(
        condenser="pooled",
        ratio=4.0,
        task="answer",
        source="all",
        positions="plain",
        perturbation="none",
        query_aware=False,
        n=3,
        n_documents=2,  # the text of item 2 is one of both sources
        dropped=1,
        n_condensed=12.0,
        recovery=(3 + 2 + 1) / (4 + 4 + 2),
        content_recovery=(3 + 1 + 1) / (5 + 5 + 2),
        ci=interval,
        loss=12 / 6,
        loss_none=3.0,
        loss_full=8 / 6,
        loss_other=17 / 6,
        loss_full_other=20 / 6,
        accuracy=1 / 6,
        greedy_accuracy=None,
        encode_ms=4.0,
        by="all",
        n_context=1.0,
        bytes=12.0 * 8 * 2,
        budgets=(10, 12, 14),
    )


def test_rows_of_each_source() -> None:
    rows = rows_of("answer", ITEMS, outcome(), VARIANT, 0)
    assert [(row.by, row.source, row.n, row.dropped, row.n_documents) for row in rows] == [
        ("all", "all", 3, 1, 2),
        ("source", "s1", 2, 0, 2),
        ("source", "s2", 1, 1, 1),
    ]
    assert [row.content_recovery for row in rows[1:]] == [4 / 10, 1 / 2]
    assert [row.encode_ms for row in rows] == [4.0, 3.0, 5.0]
    assert rows[2].ci is None


def test_rows_of_each_label_in_order() -> None:
    lengths = ("512", "1024", "512", "1024")
    items = [
        replace(item, source="s", labels=(("length", length), ("depth", "0.5")))
        for item, length in zip(ITEMS, lengths, strict=True)
    ]
    rows = rows_of("needle", items, outcome(), VARIANT, 0)
    assert [(row.by, row.source, row.n) for row in rows] == [
        ("all", "all", 3), ("length", "512", 2), ("length", "1024", 1),
    ]  # fmt: skip


def test_one_source_has_one_row() -> None:
    score = Score(losses(3, 4), losses(6, 5), Reference(losses(6, 6), losses(2, 2), losses(7, 7)))
    rows = rows_of("answer", ITEMS[:2], outcome(score), Variant("x"), 0)
    assert [row.source for row in rows] == ["all"]


def test_choices_count_every_item_and_replies_only_those_that_count() -> None:
    copied = Reply("a b", "a b", (1, 2), (1, 2))
    lost = Reply("", "a b", (), (1, 2))
    found = rows_of(
        "recall", ITEMS, outcome(hits=(1, 0, 1, 1), replies={0: copied, 1: lost}), VARIANT, 0
    )
    row = found[0]
    choice = row.choice
    assert choice is not None
    assert choice == Choice(4, 1, 0.75, 0.0, 1.0, 0.75, choice.ci)
    assert choice.ci is not None
    assert choice.ci[0] < 0.75 < choice.ci[1]
    assert row.greedy_accuracy == 0.5
    assert row.written is not None
    assert (row.written["n"], row.written["rouge_l"], row.written["exact_prefix"]) == (2, 0.5, 1.0)
    assert found[2].written is None


def test_a_share_needs_a_full_text_that_helps() -> None:
    made = outcome(hits=(1, 0, 1, 1))
    useless = replace(made, ends=Ends(made.ends.none, made.ends.none))
    choice = rows_of("recall", ITEMS, useless, VARIANT, 0)[0].choice
    assert choice is not None
    assert (choice.share, choice.ci) == (None, None)


def test_a_row_as_json_has_no_evidence() -> None:
    row = rows_of("recall", ITEMS, outcome(hits=(1, 0, 1, 1)), VARIANT, 0)[0]
    found = json.loads(json.dumps(row.as_json(), allow_nan=False))
    assert not {"budgets", "evidence"} & set(found)
    assert found["choice"]["accuracy"] == pytest.approx(0.75)
    assert found["best_baseline"] is None
