"""Who is asked next, and how many at once."""

import asyncio
import sqlite3
import threading

import pytest
from subnet_fakes import TIER, matrix, peer, roster

from neural_condense_core.records import Records
from neural_condense_core.validator.allowances import Allowances
from neural_condense_core.validator.planning import Planner, draw_seed
from neural_condense_core.validator.replies import Reply
from neural_condense_core.validator.results import MinerResult, ReplyResult
from neural_condense_core.validator.rounds import Sample
from neural_condense_core.validator.sampling import SamplePool
from neural_condense_core.validator.state import State

NOW = 1_000_000.0
PEERS = [peer(uid, f"m{uid}") for uid in range(10)]


@pytest.fixture
def state(tmp_path):
    with Records(tmp_path / "validator.sqlite") as records:
        yield State(records)


def planner(state, pool=None, **more):
    allowances = Allowances({TIER.name: TIER})
    allowances.update(roster(*PEERS, peer(99, "me")), "me", 0.0)
    facts = {"n_contexts": 4, "n_miners": 4, "interval_s": 0.0} | more
    return Planner(state, allowances, pool or SamplePool(), **facts)


def plan(one, now=0.0):
    return asyncio.run(one.plan(TIER, PEERS, 1, now, NOW))


def hotkeys(found):
    return [invitation.peer.hotkey for invitation in found.invited]


def test_everybody_before_anybody_twice(state):
    one = planner(state)
    asked = [name for _ in range(5) for name in hotkeys(plan(one))]
    assert sorted(asked[:10]) == sorted(asked[10:]) == sorted(who.hotkey for who in PEERS)


def test_a_round_is_noted_before_anybody_is_asked(state):
    found = plan(planner(state))
    assert state.records.rounds()[0].id == found.id
    assert state.records.rounds()[0].status == "open"


def test_a_round_is_noted_beside_the_loop(state, monkeypatch):
    threads = []
    begin = state.begin_round

    def noted(*facts):
        threads.append(threading.current_thread())
        return begin(*facts)

    monkeypatch.setattr(state, "begin_round", noted)
    assert plan(planner(state)) is not None
    assert threads != [threading.main_thread()]


def test_a_log_that_cannot_be_written_spends_nothing(state, monkeypatch):
    pool = SamplePool()
    sample = Sample("text", Reply(3, "m3", "ok", "ok", 0.1, matrix(0.5)))
    pool.add(TIER.name, sample)
    one = planner(state, pool, n_miners=10, interval_s=60.0)

    def full(*facts):
        raise sqlite3.OperationalError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(state, "begin_round", full)
        with pytest.raises(sqlite3.OperationalError):
            plan(one)
    assert {i.peer.hotkey: i.samples for i in plan(one).invited}["m3"] == (sample,)


def test_the_gap_goes_into_the_plan(state):
    assert plan(planner(state, gap_s=1.5)).gap_s == 1.5


def test_nobody_due_is_no_round(state):
    one = planner(state, n_miners=10)
    n_rounds = 0
    while plan(one) is not None:
        n_rounds += 1
    assert n_rounds == 12
    assert len(state.records.rounds(1_000)) == 12
    assert plan(one, now=600.0) is not None


def test_samples_go_to_the_miners_next_round_once(state):
    pool = SamplePool()
    sample = Sample("text", Reply(3, "m3", "ok", "ok", 0.1, matrix(0.5)))
    pool.add(TIER.name, sample)
    one = planner(state, pool, n_miners=10)
    first = {i.peer.hotkey: i.samples for i in plan(one).invited}
    assert first["m3"] == (sample,)
    assert all(not i.samples for i in plan(one).invited)


def test_the_sleeping_are_invited_and_marked(state):
    for _ in range(3):
        made = state.begin_round(TIER.name, 1, [PEERS[0]], NOW)
        replies = (ReplyResult("0", "synthetic", "timeout", "timeout"),)
        state.finish_round(made, TIER.name, [MinerResult(PEERS[0], replies, 0.0)], NOW)
    found = {i.peer.hotkey: i.is_dormant for i in plan(planner(state, n_miners=10)).invited}
    assert found == {who.hotkey: who.hotkey == "m0" for who in PEERS}


def test_a_slow_judge_means_small_rounds_and_never_none(state):
    one = planner(state, n_miners=8)
    sizes = []
    for share in (1.0, 1.0, 1.0, 1.0, 0.5, 0.1, 0.1, 0.1, 0.1):
        one.took(share)
        sizes.append(one.n_miners)
    assert sizes == [4, 2, 1, 1, 1, 2, 4, 8, 8]


def test_seeds_are_not_repeated():
    assert len({draw_seed() for _ in range(100)}) == 100
