"""The demo's report: verdict, JSON and tables."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from neural_condense_core.demo.document import Document, Question
from neural_condense_core.demo.report import (
    AnsweredQuestion,
    DemoReport,
    MethodRow,
    best_baseline,
    render,
)


def report(**changes):
    document = Document("[a].txt", "one two three", "ab12")
    found = DemoReport(
        document,
        n_context_tokens=12,
        backends=[MethodRow("icae", "http://h:1", 3, 384, 5.5, 0.5, None)],
        baselines=[
            MethodRow("stride", None, 3, 384, None, 0.1, 0.2),
            MethodRow("spans", None, 3, 384, None, 0.1, 0.3),
            MethodRow("random", None, 3, 384),
        ],
        questions=[
            AnsweredQuestion(
                Question("Who?", "[me]"),
                {"none": "", "full": "me", "icae": "you", "spans": "us\n all"},
            )
        ],
        seconds={"total": 1.23456},
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("changes", "ok"),
    [
        ({}, True),
        ({"failures": {"icae": "why"}}, False),
        ({"backends": []}, False),
        ({"questions": []}, False),
        ({"questions": [AnsweredQuestion(Question("Who?"), {"icae": ""})]}, False),
        ({"questions": [AnsweredQuestion(Question("Who?"), {"full": "x"})]}, False),
    ],
)
def test_ok_needs_a_matrix_and_answers_of_every_backend(changes, ok):
    assert report(**changes).ok is ok


def test_json():
    found = json.loads(json.dumps(report().to_json(), allow_nan=False))
    assert found["document"] == {
        "path": "[a].txt", "sha256": "ab12", "words": 3, "n_context_tokens": 12,
    }  # fmt: skip
    assert found["backends"] == [{
        "condenser": "icae", "url": "http://h:1", "n_condensed_tokens": 3, "bytes": 384,
        "ms": 5.5, "recovery": 0.5, "content_recovery": None,
    }]  # fmt: skip
    assert found["baselines"][0] == {
        "condenser": "stride", "n_condensed_tokens": 3, "bytes": 384,
        "ms": None, "recovery": 0.1, "content_recovery": 0.2,
    }  # fmt: skip
    assert found["questions"][0]["question"] == "Who?"
    assert found["seconds"] == {"total": 1.235}
    assert (found["schema"], found["ok"]) == (1, True)


def test_a_failed_backend_keeps_its_row():
    found = report(backends=[MethodRow("icae", "http://h:1")]).to_json()
    assert found["backends"] == [{
        "condenser": "icae", "url": "http://h:1", "n_condensed_tokens": None, "bytes": None,
        "ms": None, "recovery": None, "content_recovery": None,
    }]  # fmt: skip


def test_best_baseline_is_the_one_with_the_highest_c():
    assert best_baseline(report().baselines).condenser == "spans"
    assert best_baseline([MethodRow("stride")]) is None
    rows = [MethodRow("a", content_recovery=-0.5), MethodRow("b", content_recovery=-0.2)]
    assert best_baseline(rows).condenser == "b"


def test_tables_show_everything_once():
    out = io.StringIO()
    Console(file=out, width=160, color_system=None).print(render(report()))
    text = out.getvalue()
    for shown in (
        "icae, over HTTP",
        "4.0x",
        "384",
        "0.30",
        "[me]",
        "spans (best baseline)",
        "us all",
    ):
        assert shown in text
    assert "[a].txt: 3 words, 12 tokens" in text
