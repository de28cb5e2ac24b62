"""One round: who fails scores 0 and costs nobody else anything."""

import asyncio
import itertools

import pytest
from subnet_fakes import (
    BROKEN,
    DEAD,
    FAST,
    LATE,
    MODEL,
    REFUSING,
    TIER,
    FakeDendrite,
    FakeExaminer,
    FakeJudge,
    good,
    matrix,
    peer,
)

from neural_condense_core.errors import (
    BackendError,
    PayloadTooLargeError,
    RequestError,
    UnknownModelError,
)
from neural_condense_core.validator import rounds
from neural_condense_core.validator.replies import OK, Reply
from neural_condense_core.validator.rounds import Invitation, RoundPlan, Sample, run_round
from neural_condense_core.wire.scoring import ScoreLimits

N = 3


def play(behaviours, judge=None, *, tier=TIER, dormant=(), samples=None, limits=None, seeds=None):
    peers = [peer(uid, hotkey) for uid, hotkey in enumerate(behaviours)]
    invited = tuple(
        Invitation(one, one.hotkey in dormant, tuple((samples or {}).get(one.hotkey, ())))
        for one in peers
    )
    dendrite = FakeDendrite(behaviours)
    results = asyncio.run(
        run_round(
            RoundPlan(1, tier, 7, N, invited),
            dendrite=dendrite,
            judge=judge or FakeJudge(),
            examiner=FakeExaminer(),
            draw_seed=seeds or itertools.count(5).__next__,
            limits=limits,
        )
    )
    return {one.peer.hotkey: one for one in results}, dendrite


def codes(result):
    return [reply.code for reply in result.replies]


def test_trap_09_one_broken_reply_voids_nothing_but_itself():
    found, _ = play({"a": good(0.5), "bad": BROKEN, "b": good(0.6), "c": good(0.7)})
    assert {name: pytest.approx(one.score) for name, one in found.items()} == {
        "a": 0.5, "bad": 0.0, "b": 0.6, "c": 0.7,
    }  # fmt: skip
    assert codes(found["bad"]) == ["not_finite"] * N


def test_trap_15_a_score_does_not_depend_on_who_else_is_there():
    alone, _ = play({"a": good(0.4)})
    crowd, _ = play({"a": good(0.4), **{f"x{i}": good(0.9) for i in range(5)}})
    assert alone["a"].score == crowd["a"].score == pytest.approx(0.4)


def test_every_way_to_fail_scores_0_with_its_code():
    found, _ = play({"dead": DEAD, "late": LATE, "refusing": REFUSING})
    assert {name: one.score for name, one in found.items()} == dict.fromkeys(found, 0.0)
    assert codes(found["refusing"]) == ["forbidden"] * N


def test_a_silent_miner_is_given_up_within_the_round():
    found, dendrite = play({"late": LATE})
    assert codes(found["late"]) == ["timeout", "timeout", "given_up"]
    assert len(dendrite.asked) == 2


def test_a_failed_context_counts_in_the_mean():
    calls = itertools.count()

    def flaky(context, tier):
        return (BROKEN if next(calls) == 1 else good(0.6))(context, tier)

    found, _ = play({"a": flaky})
    assert found["a"].score == pytest.approx(0.6 * 2 / 3)


def test_time_counts_by_the_tiers_weight():
    found, _ = play({"a": good(0.5, elapsed_s=0.5)}, tier=FAST)
    assert found["a"].score == pytest.approx(0.5 * (1 - 0.4 * 0.5))


def test_tokens_that_mislead_score_0():
    judge = FakeJudge(recovery=lambda name, c: -0.2)
    found, _ = play({"a": good(0.5)}, judge)
    assert found["a"].score == 0.0
    assert found["a"].content_recovery == pytest.approx(0.5)


def test_a_dormant_miner_is_not_asked_and_scores_0():
    found, dendrite = play({"a": good(0.5), "z": good(0.5)}, dormant={"z"})
    assert found["z"].score == 0.0
    assert {name for name, _ in dendrite.asked} == {"a"}


def test_trap_19_every_miner_has_texts_of_its_own():
    _, dendrite = play({"a": good(0.5), "b": good(0.5)})
    texts = [context for _, context in dendrite.asked]
    assert len(set(texts)) == 2 * N


def test_targets_are_drawn_after_the_last_reply():
    events = []

    def answering(context, tier):
        events.append("reply")
        return good(0.5)(context, tier)

    def seeds():
        events.append("targets")
        return 3

    play({"a": answering, "b": answering}, seeds=seeds)
    assert events == ["reply"] * 2 * N + ["targets"]


def test_trap_20_an_organic_sample_counts_as_any_other_reply():
    junk = Sample("user text", Reply(0, "a", OK, OK, 0.1, matrix(0.0)))
    found, _ = play({"a": good(0.8)}, samples={"a": [junk]})
    kinds = [reply.kind for reply in found["a"].replies]
    assert kinds == ["organic", *["synthetic"] * N]
    assert found["a"].score == pytest.approx(0.8 * 3 / 4)


def test_a_failed_organic_sample_lowers_the_score():
    failed = Sample("user text", Reply(0, "a", "timeout", "timeout", 2.0))
    found, _ = play({"a": good(0.8)}, samples={"a": [failed]})
    assert found["a"].score == pytest.approx(0.8 * 3 / 4)


@pytest.mark.parametrize("gap_s", [0.0, 2.0])
def test_tests_are_not_told_from_users_by_their_time(gap_s, monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr(rounds.asyncio, "sleep", sleep)
    peers = [peer(uid, f"m{uid}") for uid in range(50)]
    invited = tuple(Invitation(one, one.uid == 49) for one in peers)
    dendrite = FakeDendrite({one.hotkey: good(0.5) for one in peers})
    work = run_round(
        RoundPlan(1, TIER, 7, N, invited, gap_s), dendrite=dendrite, judge=FakeJudge(),
        examiner=FakeExaminer(), draw_seed=lambda: 1,
    )  # fmt: skip
    found = asyncio.run(work)
    assert [one.peer for one in found] == peers
    assert len(waits) == 49 * N, "one before each context that is sent"
    assert min(waits) >= 0
    assert max(waits) <= rounds.MAX_GAP * gap_s
    assert sum(waits) / len(waits) == pytest.approx(0.95 * gap_s, rel=0.2)
    assert len(set(waits)) > 0.8 * len(waits) or not gap_s


def test_miners_begin_in_random_order(monkeypatch):
    began = []

    async def ask_miner(plan, invitation, dendrite, examiner):
        began.append(invitation.peer.uid)
        return rounds._Group(invitation.peer, ())

    monkeypatch.setattr(rounds, "_ask_miner", ask_miner)
    play({f"m{i}": good(0.5) for i in range(20)})
    assert sorted(began) == list(range(20)) != began


def test_a_sample_shows_no_text():
    assert "secret" not in repr(Sample("secret", Reply(0, "a", OK, OK, 0.1, matrix(0.0))))


class Picky(FakeJudge):
    """Refuses requests in which something from ``refused`` is: miners or texts."""

    def __init__(self, *refused):
        super().__init__()
        self.refused = set(refused)

    async def score(self, request, tensors):
        found = {ref.miner for ref in request.replies} | {c.context for c in request.challenges}
        if found & self.refused:
            self.requests.append(request)
            raise RequestError("no", {"status": 422})
        return await super().score(request, tensors)


def test_whom_the_judge_refuses_the_round_says_nothing_about():
    found, _ = play({"a": good(0.5), "poison": good(0.9), "b": good(0.6)}, Picky("poison"))
    assert {name: round(one.score, 3) for name, one in found.items()} == {"a": 0.5, "b": 0.6}


def test_a_users_text_that_the_judge_refuses_costs_the_miner_nothing():
    junk = Sample("poison", Reply(0, "a", OK, OK, 0.1, matrix(0.0)))
    found, _ = play({"a": good(0.5), "b": good(0.6)}, Picky("poison"), samples={"a": [junk]})
    assert {name: round(one.score, 3) for name, one in found.items()} == {"a": 0.5, "b": 0.6}
    assert codes(found["a"]) == ["ok"] * N


def test_a_refused_users_text_does_not_excuse_failing_the_rest():
    junk = Sample("poison", Reply(0, "a", OK, OK, 0.1, matrix(0.9)))
    found, _ = play({"a": BROKEN}, Picky("poison"), samples={"a": [junk]})
    assert found["a"].score == 0.0
    assert codes(found["a"]) == ["not_finite"] * N


@pytest.mark.parametrize(
    "error",
    [
        RequestError("a wrong token", {"status": 401}),
        RequestError("not allowed", {"status": 403}),
        RequestError("another service", {"status": 404}),
        UnknownModelError("another model", {"status": 404}),
        PayloadTooLargeError("another cap", {"status": 413}),
        RequestError("another version", {"status": 415}),
    ],
)
def test_a_judge_that_refuses_the_validator_scores_nobody(error):
    judge = FakeJudge(error)
    with pytest.raises(type(error)):
        play({"a": good(0.5), "b": good(0.6)}, judge)
    assert len(judge.requests) == 1


def test_a_judge_that_fails_scores_nobody():
    with pytest.raises(BackendError):
        play({"a": good(0.5)}, FakeJudge(BackendError("away")))


def test_a_round_without_a_usable_reply_needs_no_judge():
    judge = FakeJudge(BackendError("away"))
    found, _ = play({"a": DEAD}, judge)
    assert found["a"].score == 0.0
    assert judge.requests == []


@pytest.mark.parametrize(
    "limits",
    [ScoreLimits(max_replies=N), ScoreLimits(max_challenges=2 * N), ScoreLimits(max_bytes=400)],
)
def test_a_large_round_is_split_and_a_miners_replies_stay_together(limits):
    judge = FakeJudge()
    behaviours = {f"m{i}": good(0.1 * i) for i in range(1, 8)}
    found, _ = play(behaviours, judge, limits=limits)
    assert len(judge.requests) > 1
    for request in judge.requests:
        assert len(request.replies) <= min(limits.max_replies, limits.max_challenges)
        assert len(request.replies) == N * len({ref.miner for ref in request.replies})
    for i in range(1, 8):
        assert found[f"m{i}"].score == pytest.approx(0.1 * i)


def test_a_cancelled_round_leaves_nothing_running():
    async def hang(context, tier):
        await asyncio.sleep(60)

    async def cancelled():
        dendrite = FakeDendrite({"a": lambda c, t: hang(c, t)})
        plan = RoundPlan(1, TIER, 7, N, (Invitation(peer(0, "a")),))
        work = run_round(
            plan, dendrite=dendrite, judge=FakeJudge(), examiner=FakeExaminer(),
            draw_seed=lambda: 1,
        )  # fmt: skip
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await work
        return len(asyncio.all_tasks())

    assert asyncio.run(cancelled()) == 1


def test_the_judge_is_asked_for_the_tiers_model():
    judge = FakeJudge()
    play({"a": good(0.5)}, judge)
    assert [request.target_model for request in judge.requests] == [MODEL]


def test_seeds_of_contexts_differ_by_round():
    texts = []
    for seed in (1, 2):
        dendrite = FakeDendrite({"a": good(0.5)})
        plan = RoundPlan(1, TIER, seed, N, (Invitation(peer(0, "a")),))
        work = run_round(
            plan, dendrite=dendrite, judge=FakeJudge(), examiner=FakeExaminer(),
            draw_seed=lambda: 1,
        )  # fmt: skip
        asyncio.run(work)
        texts.append({context for _, context in dendrite.asked})
    assert not texts[0] & texts[1]
