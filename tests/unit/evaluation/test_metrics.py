"""Rows from losses, the best baseline beside a row, greedy copying, perturbations, report."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from neural_condense_core.evaluation.metrics import (
    Row,
    Variant,
    best_baseline,
    greedy_accuracy,
    rows_of,
)
from neural_condense_core.evaluation.perturbation import perturb
from neural_condense_core.evaluation.report import Report
from neural_condense_core.scoring.judge import Item, Losses, Reference, Score
from neural_condense_core.tokens import CondensedTokens


def losses(*nats: float, n_tokens: float = 2.0) -> Losses:
    n = len(nats)
    return Losses(np.array(nats, float), np.full(n, n_tokens), np.arange(n) % 2 + 0.0)


ITEMS = [
    Item("answer", "d1", "s1", (1,), (1, 2), "?"),
    Item("answer", "d2", "s1", (2,), (1, 2), "?"),
    Item("answer", "d2", "s2", (3,), (1, 2), "?"),
    Item("answer", "d3", "s2", (4,), (1, 2), "?"),
]
REFERENCE = Reference(losses(6, 6, 6, 6), losses(2, 2, 4, 6), losses(7, 7, 6, 6))
SCORE = Score(losses(3, 4, 5, 0), losses(6, 5, 6, 0), REFERENCE)
VARIANT = Variant("pooled", 4.0, n_condensed=(10, 12, 14, 16), encode_ms=3.0)


def test_row_over_all_sources() -> None:
    row = rows_of(ITEMS, SCORE, VARIANT, None, 0)[0]
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
        encode_ms=3.0,
        budgets=(10, 12, 14),
    )


def test_rows_of_each_source() -> None:
    rows = rows_of(ITEMS, SCORE, VARIANT, np.array([0.5, np.nan, np.nan, 1.0]), 0)
    assert [(row.source, row.n, row.dropped, row.n_documents) for row in rows] == [
        ("all", 3, 1, 2),
        ("s1", 2, 0, 2),
        ("s2", 1, 1, 1),
    ]
    assert [row.content_recovery for row in rows[1:]] == [4 / 10, 1 / 2]
    assert [row.greedy_accuracy for row in rows] == [0.5, 0.5, None]
    assert rows[2].ci is None


def test_one_source_has_one_row() -> None:
    score = Score(losses(3, 4), losses(6, 5), Reference(losses(6, 6), losses(2, 2), losses(7, 7)))
    assert [row.source for row in rows_of(ITEMS[:2], score, Variant("x"), None, 0)] == ["all"]


BASE = rows_of(ITEMS, SCORE, VARIANT, None, 0)[0]


def baseline(name: str, c: float | None, **changes: Any) -> Row:
    return replace(BASE, condenser=name, content_recovery=c, **changes)


def test_best_baseline_is_the_best_at_exactly_equal_length() -> None:
    best = baseline("spans", 0.4)
    rows = [
        BASE,
        baseline("head-tail", 0.3),
        best,
        baseline("stride", None),
        baseline("random", 0.9, budgets=(10, 13, 13)),
        baseline("random", 0.9, ratio=8.0),
        baseline("random", 0.9, task="continuation"),
        baseline("random", 0.9, source="s1"),
        baseline("random", 0.9, perturbation="int8"),
        baseline("random", 0.9, positions="explicit"),
        baseline("sentence-retrieval", 0.95, query_aware=True),
        baseline("icae", 0.99),
        baseline("full", 1.0, ratio=None, budgets=()),
    ]
    assert best_baseline(rows, BASE) is best
    assert best_baseline(rows, replace(BASE, budgets=())) is None
    assert best_baseline([BASE], BASE) is None


class Parrot:
    """Writes prepared texts; one token a letter."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked = 0

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        return f"<{messages[0]['content']}>"

    def generate(self, prompts: Sequence[Any], max_new_tokens: int) -> list[str]:
        self.asked = max_new_tokens
        return self.texts


def test_greedy_accuracy_counts_tokens_in_place() -> None:
    def copy_of(text: str) -> Item:
        ids = tuple(map(ord, text))
        return Item("reconstruction", "d", "s", ids, ids)

    target: Any = Parrot("abcd", "xbc", "", "abcdefgh", "bcd")
    items = [copy_of(" abcd")] * 5
    found = greedy_accuracy(target, items, [None] * 5)
    assert found.tolist() == [1.0, 0.5, 0.0, 1.0, 0.0]
    assert target.asked == 5


# perturbation


def tokens(seed: int = 0) -> CondensedTokens:
    embeds = np.random.default_rng(seed).normal(size=(6, 32)).astype(np.float32)
    return CondensedTokens(embeds, "t", 24, np.arange(6, dtype=np.int64))


def test_no_perturbation_changes_nothing() -> None:
    given = tokens()
    assert perturb(given, "none", 0) is given


def test_noise_is_small_seeded_and_different_for_each_matrix() -> None:
    given = tokens()
    noise = perturb(given, "noise", 0).embeds - given.embeds
    assert 0.015 < noise.std() / given.embeds.std() < 0.025
    np.testing.assert_array_equal(noise, perturb(given, "noise", 0).embeds - given.embeds)
    assert not np.array_equal(noise, perturb(given, "noise", 1).embeds - given.embeds)
    other = tokens(1)
    assert not np.allclose(noise, perturb(other, "noise", 0).embeds - other.embeds, atol=1e-4)


def test_int8_has_at_most_255_values_a_row() -> None:
    given = tokens()
    found = perturb(given, "int8", 0)
    step = np.abs(given.embeds).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(found.embeds - given.embeds) <= step / 2 + 1e-6)
    assert not np.array_equal(found.embeds, given.embeds)
    assert found.positions is given.positions
    zeros = replace(given, embeds=np.zeros((6, 32), np.float32))
    np.testing.assert_array_equal(perturb(zeros, "int8", 0).embeds, zeros.embeds)


# report

FULL = baseline("full", 1.0, ratio=None, n_condensed=None, budgets=(), ci=(1.0, 1.0))
REPORT = Report(
    "tiny", 0, 4, "float32", "condense eval --limit 4",
    (FULL, BASE, baseline("spans", 0.4), baseline("spans", 0.1, source="s1"),
     baseline("sentence-retrieval", 0.5, query_aware=True),
     baseline("pooled", float("nan"), perturbation="noise")),
)  # fmt: skip


def test_report_json() -> None:
    found = json.loads(json.dumps(REPORT.as_json(), allow_nan=False))
    assert list(found) == ["schema", "target", "seed", "limit", "dtype", "command", "rows"]
    assert found["schema"] == 1
    assert len(found["rows"]) == 6
    assert "budgets" not in found["rows"][0]
    assert found["rows"][0]["ratio"] is None
    assert found["rows"][0]["ci"] == [1.0, 1.0]
    assert found["rows"][5]["content_recovery"] is None


def test_report_markdown_shows_all_sources_with_the_best_baseline_beside() -> None:
    lines = REPORT.to_markdown().splitlines()
    assert lines[0] == "`condense eval --limit 4`"
    rows = [line for line in lines if line.startswith("| answer")]
    assert len(rows) == 5
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| pooled |" in rows[1]
    assert "| 0.40 spans |" in rows[1]
    assert "spans |" in rows[2]
    assert "0.40 spans" not in rows[2]
    assert "sentence-retrieval (query-aware) |" in rows[3]
    assert "pooled (noise) | 12.0 | -" in rows[4]


def test_report_tables_fit_a_terminal() -> None:
    tables = list(REPORT.to_tables())
    assert [table.title for table in tables] == [
        "answer at 4x (3 items, 1 dropped: the full text hardly helps)"
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables[0])
    text = console.export_text()
    assert "0.40 spans" in text
    assert "…" not in text


@pytest.mark.parametrize("task", ["answer", "reconstruction"])
def test_only_reconstruction_shows_accuracies(task: str) -> None:
    rows = tuple(replace(row, task=task) for row in REPORT.rows)
    headers = [column.header for column in next(replace(REPORT, rows=rows).to_tables()).columns]
    assert ("greedy" in headers) == (task == "reconstruction")
