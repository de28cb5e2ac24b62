"""Users' requests: the best miner first, the next in time, a status for each cause."""

import asyncio
import logging
import sqlite3
import threading
from random import Random

import pytest
from subnet_fakes import BROKEN, DEAD, FAST, TIER, TIERS, FakeDendrite, good, matrix, peer, roster

from neural_condense_core.constants import EPOCH_LENGTH_S
from neural_condense_core.errors import (
    BackendError,
    ContextTooLongError,
    DeadlineError,
    UnavailableError,
    UnknownMinerError,
    UnknownModelError,
    UnknownTierError,
)
from neural_condense_core.validator import sampling
from neural_condense_core.validator.organic import (
    Board,
    OrganicRequest,
    OrganicService,
    candidates,
)
from neural_condense_core.validator.replies import Reply
from neural_condense_core.validator.rounds import Sample
from neural_condense_core.validator.sampling import SamplePool

TEXT = "A long enough text of a user. " * 20


def board(*ratings, tier=TIER):
    ranking = tuple((peer(uid, f"m{uid}"), rating) for uid, rating in ratings)
    ranking = tuple(sorted(ranking, key=lambda entry: -entry[1]))
    return Board(TIERS, roster(*(who for who, _ in ranking)), {tier.name: ranking})


class Serving:
    def __init__(self, behaviours, found=None, allow=lambda tier, who: True):
        names = sorted(behaviours)
        self.board = found or board(*((int(n[1:]), 1.0 - 0.2 * i) for i, n in enumerate(names)))
        self.dendrite = FakeDendrite(behaviours)
        self.rows = []
        self.pool = SamplePool()
        self.wall = 1_000_000.0
        self.service = OrganicService(
            self.dendrite, lambda: self.board, allow, self.pool, self.note, Random(0),
            wall=lambda: self.wall,
        )  # fmt: skip

    def note(self, row):
        self.rows.append(row)

    def serve(self, caller="key", **wanted):
        request = OrganicRequest(**({"context": TEXT} | wanted))
        return asyncio.run(self.service.serve(request, caller))

    @property
    def asked(self):
        return [name for name, _ in self.dendrite.asked]


def slow(seconds, quality=0.9):
    async def answer(context, tier):
        await asyncio.sleep(seconds)
        return good(quality)(context, tier)

    return lambda context, tier: answer(context, tier)


def test_trap_08_a_users_call_reaches_uid_0():
    serving = Serving({"m0": good(0.5)})
    assert serving.serve()[0].uid == 0
    assert serving.serve(uid=0)[0].uid == 0


def test_the_best_is_asked_first():
    serving = Serving({"m1": good(0.9), "m2": good(0.5)})
    reply, tier = serving.serve()
    assert (reply.uid, tier) == (1, TIER)
    assert serving.asked == ["m1"]
    assert [(row.uid, row.status, row.caller) for row in serving.rows] == [(1, "ok", "key")]


def test_failover_to_the_next_best():
    serving = Serving({"m1": DEAD, "m2": BROKEN, "m3": good(0.5)})
    assert serving.serve()[0].uid == 3
    assert serving.asked == ["m1", "m2", "m3"]
    assert [row.code for row in serving.rows] == ["connect", "not_finite", "ok"]


def test_who_dawdles_is_joined_by_the_next_inside_the_deadline():
    serving = Serving({"m1": slow(30), "m2": good(0.5)})
    reply, _ = serving.serve(deadline_s=1.0)
    assert reply.uid == 2
    assert serving.asked == ["m1", "m2"]
    assert len(serving.pool.take(TIER.name, "m1")) == 0


def test_the_first_of_two_wins_even_if_it_was_the_slow_one():
    serving = Serving({"m1": slow(0.5), "m2": slow(30)})
    assert serving.serve(deadline_s=1.0)[0].uid == 1


def test_nobody_in_time_is_504():
    serving = Serving({"m1": slow(30), "m2": slow(30)})
    with pytest.raises(DeadlineError) as caught:
        serving.serve(deadline_s=0.3)
    assert caught.value.status == 504


def test_all_failing_is_502_with_the_codes_and_no_more_than_three_tries():
    serving = Serving({f"m{i}": BROKEN for i in range(6)})
    with pytest.raises(BackendError) as caught:
        serving.serve()
    assert caught.value.detail["attempts"] == ["not_finite"] * 3


def test_nobody_there_is_503():
    serving = Serving({}, Board(TIERS, roster(), {}))
    with pytest.raises(UnavailableError):
        serving.serve(tier="research")


def test_nobody_allowed_is_503_and_nobody_is_asked():
    serving = Serving({"m1": good(0.5)}, allow=lambda tier, who: False)
    with pytest.raises(UnavailableError, match="rate limit"):
        serving.serve()
    assert serving.asked == []


def test_who_is_at_the_limit_is_skipped():
    serving = Serving({"m1": good(0.5), "m2": good(0.5)}, allow=lambda tier, who: who.uid == 2)
    assert serving.serve()[0].uid == 2


@pytest.mark.parametrize(
    ("wanted", "error", "status"),
    [
        ({"tier": "none"}, UnknownTierError, 404),
        ({"target_model": "none"}, UnknownModelError, 404),
        ({"uid": 77}, UnknownMinerError, 404),
        ({"uid": -1}, UnknownMinerError, 404),
        ({"uid": 10**9}, UnknownMinerError, 404),
        ({"context": "x" * 1001}, ContextTooLongError, 413),
        ({"tier": FAST.name}, UnavailableError, 503),
    ],
)
def test_trap_31_one_status_a_cause(wanted, error, status):
    serving = Serving({"m1": good(0.5)})
    with pytest.raises(error) as caught:
        serving.serve(**wanted)
    assert caught.value.status == status
    assert serving.asked == []


def test_a_context_of_exactly_the_limit_is_fine():
    assert Serving({"m1": good(0.5)}).serve(context="x" * 1000)[0].is_ok


def test_trap_20_some_replies_go_to_the_judge(monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE_SHARE", 1.0)
    serving = Serving({"m1": BROKEN, "m2": good(0.5)})
    serving.serve()
    (bad,), (kept,) = (serving.pool.take(TIER.name, name) for name in ("m1", "m2"))
    assert (bad.reply.code, kept.reply.code) == ("not_finite", "ok")
    assert kept.context == TEXT
    assert [row.is_sampled for row in serving.rows] == [True, True]
    assert serving.pool.take(TIER.name, "m2") == ()


def test_about_a_tenth_is_sampled_whatever_the_text():
    serving = Serving({"m1": good(0.5)})
    n = 0
    for i in range(300):
        serving.serve(caller=f"key{i}")
        n += len(serving.pool.take(TIER.name, "m1"))
    assert 15 <= n <= 50


@pytest.mark.parametrize(("n_chars", "n_kept"), [(22, 0), (399, 0), (400, 1), (1_000, 1)])
def test_a_text_shorter_than_those_of_a_test_is_not_sampled(n_chars, n_kept, monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE_SHARE", 1.0)
    serving = Serving({"m1": good(0.5)})
    serving.serve(context="x" * n_chars)
    assert len(serving.pool.take(TIER.name, "m1")) == n_kept


def test_who_names_the_miner_does_not_choose_its_test(monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE_SHARE", 1.0)
    serving = Serving({"m1": good(0.5)})
    serving.serve(uid=1)
    assert serving.pool.take(TIER.name, "m1") == ()
    assert [row.is_sampled for row in serving.rows] == [False]


def test_a_caller_has_one_sample_a_miner_and_epoch(monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE_SHARE", 1.0)
    serving = Serving({"m1": good(0.5)})

    def n_kept(caller):
        serving.serve(caller=caller)
        return len(serving.pool.take(TIER.name, "m1"))

    assert [n_kept(caller) for caller in ("a", "a", "b", "a", "b")] == [1, 0, 1, 0, 0]
    serving.wall += EPOCH_LENGTH_S
    assert n_kept("a") == 1


def test_a_log_that_cannot_be_written_costs_no_user_a_reply(caplog):
    serving = Serving({"m1": good(0.5)})
    threads = []

    def full(row):
        threads.append(threading.current_thread())
        raise sqlite3.OperationalError("disk full")

    serving.service = OrganicService(
        serving.dendrite, lambda: serving.board, lambda tier, who: True, serving.pool, full,
        Random(0),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert serving.serve()[0].is_ok
    assert "disk full" in caplog.text
    assert threads != [threading.main_thread()]


def test_a_timeout_before_the_tiers_own_says_nothing_about_the_miner(monkeypatch):
    monkeypatch.setattr(sampling, "SAMPLE_SHARE", 1.0)

    def late(context, tier):
        return ("timeout", "timeout", 1.0, None)

    serving = Serving({"m1": late})
    with pytest.raises(DeadlineError):
        serving.serve(deadline_s=1.0)
    assert [(row.code, row.is_sampled) for row in serving.rows] == [("cut_short", False)]


def test_the_pool_is_bounded(monkeypatch):
    pool = SamplePool()
    sample = Sample(TEXT, Reply(1, "m1", "ok", "ok", 0.1, matrix(0.5)))
    assert [pool.add("research", sample) for _ in range(3)] == [True, True, False]
    monkeypatch.setattr(sampling, "MAX_SAMPLE_BYTES", 3000)
    other = Sample(TEXT, Reply(2, "m2", "ok", "ok", 0.1, matrix(0.5)))
    assert not pool.add("research", other)
    pool.take("research", "m1")
    assert pool.add("research", other)


def test_equals_share_the_load():
    found = board((1, 1.0), (2, 0.91), (3, 0.5))
    first = {candidates(found, TIER, None, Random(seed))[0].uid for seed in range(40)}
    last = {candidates(found, TIER, None, Random(seed))[-1].uid for seed in range(40)}
    assert first == {1, 2}
    assert last == {3}


def test_behind_the_equals_the_better_comes_first():
    found = board((1, 1.0), (2, 0.59), (3, 0.51), (4, 0.0))
    order = {tuple(who.uid for who in candidates(found, TIER, None, Random(i))) for i in range(40)}
    assert order == {(1, 2, 3, 4)}


def test_before_anybody_is_rated_everybody_may_serve():
    found = board((1, 0.0), (2, 0.0))
    assert {who.uid for who in candidates(found, TIER, None, Random(0))} == {1, 2}


def test_a_request_shows_no_text():
    assert "secret" not in repr(OrganicRequest("secret"))
