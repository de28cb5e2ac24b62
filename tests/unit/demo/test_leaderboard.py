"""The leaderboard, from records and chain."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from neural_condense_core.chain.devchain.admin import Seat, Subnet
from neural_condense_core.demo.leaderboard import (
    SubnetReport,
    judged_rounds,
    miner_rows,
    render_subnet,
)
from neural_condense_core.demo.plan import parse_miners
from neural_condense_core.records import Records, ReplyRow, ScoreRow

HOTKEYS = ("owner", "validator", "a", "b", "c")


@pytest.fixture
def records(tmp_path):
    with Records(tmp_path / "records.sqlite") as found:
        for c, r in ((0.4, 0.5), (0.2, 0.3)):
            with found.transaction() as connection:
                made = found.open_round(connection, "research", 1, 10, 0.0)
                found.close_round(connection, made, 1.0)
                found.write_round(
                    connection,
                    [
                        ReplyRow(made, "a", 2, "2:0", "synthetic", "ok", "ok", 0.1, 9),
                        ReplyRow(made, "b", 3, "3:0", "synthetic", "timeout", "timeout"),
                        ReplyRow(made, "b", 3, "3:1", "synthetic", "ok", "ok", 0.1, 9),
                    ],
                    [
                        ScoreRow(made, "a", 2, "research", c, r, None, None, c, c),
                        ScoreRow(made, "b", 3, "research", c, -r, None, None, 0.0, 0.0),
                    ],
                )
        yield found


@pytest.fixture
def rows(records):
    seats = tuple(
        Seat(uid, hotkey, "cold", None, 0.0, uid == 1, 0.5 if hotkey == "a" else 0.0, 0.0, 0)
        for uid, hotkey in enumerate(HOTKEYS)
    )
    subnet = Subnet(52, 100, 1.0, 20, 80, 4, seats, {1: {0: 0.5, 2: 0.5}, 0: {3: 1.0}})
    plans = parse_miners(["research=[one]", "research=two", "inference_0=three"])
    miners = list(zip(plans, ("b", "a", "c"), strict=True))
    return miner_rows(miners, records, subnet, "validator")


def test_rows_are_ranked_and_say_why(rows):
    assert [(row.uid, row.condenser, row.rounds) for row in rows] == [
        (2, "two", 2), (3, "[one]", 2), (4, "three", 0),
    ]  # fmt: skip
    best, failed, unknown = rows
    assert (best.score, best.weight, best.incentive) == (0.2, 0.5, 0.5)
    assert best.content_recovery == pytest.approx(0.3)
    assert (best.reason, best.replies) == ("keeps 30% of what is specific to the text", {"ok": 2})
    assert "S = 0.2" in best.why
    assert failed.replies == {"ok": 2, "timeout": 2}
    assert "2 x timeout: no answer within" in failed.reason
    assert "in 2 of 2 rounds R < 0" in failed.reason
    assert (unknown.score, unknown.content_recovery, unknown.reason) == (
        0,
        None,
        "it was not asked",
    )


def test_rounds_are_counted_by_tier(records):
    with records.transaction() as connection:
        records.open_round(connection, "research", 1, 10, 0.0)
    assert judged_rounds(records) == {"research": 2}


ORGANIC = {
    "question": "Who?", "gold": "[me]", "answer": "you", "answer_full": None, "uid": 2,
    "condenser": "two", "n_context_tokens": 9, "n_condensed_tokens": 3,
}  # fmt: skip


def report(rows, **changes):
    found = SubnetReport(52, 2, rows, 100, {"research": 2}, 0.5, ORGANIC)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_ok_means_that_all_was_played(rows):
    assert report(rows[:2]).ok
    assert not report(rows).ok, "one was never scored"
    assert not report(rows[:2], failures={"validator": "ended"}).ok
    assert not report([]).ok
    assert not report(rows[:2], organic=None).ok
    assert not report(rows[:2], organic={**ORGANIC, "answer": ""}).ok


def test_json_holds_what_the_schema_promises(rows):
    found = json.loads(json.dumps(report(rows).to_json(), allow_nan=False))
    assert {
        "uid", "hotkey", "tier", "condenser", "score", "content_recovery", "weight", "incentive",
        "replies",
    } <= set(found["miners"][0])  # fmt: skip
    assert found["miners"][1]["replies"] == {"ok": 2, "timeout": 2}
    assert (found["blocks"], found["organic"]) == (100, ORGANIC)


def test_the_table_says_who_is_best_and_who_is_not_paid(rows):
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(render_subnet(report(rows)))
    text = out.getvalue()
    for shown in (
        "Best in research: two, with S 0.200",
        "Without incentive in research: [one].",
        "Nobody in inference_0 earned anything.",
        "uid 3, [one] in research: 2 x timeout",
        "gold: [me]",
        "3 condensed tokens of uid 2 (two)",
    ):
        assert shown in text
