"""What survives: ratings by hotkey, whose turn it is, who is silent."""

import pytest
from subnet_fakes import peer, roster

from neural_condense_core.errors import ConfigError
from neural_condense_core.records import Records
from neural_condense_core.scoring.ratings import rate
from neural_condense_core.validator.replies import MinerInfo
from neural_condense_core.validator.results import MinerResult, ReplyResult
from neural_condense_core.validator.state import MAX_RATING_AGE_S, Silence, State

NOW = 1_000_000.0
TIER = "research"


@pytest.fixture
def state(tmp_path):
    with Records(tmp_path / "validator.sqlite") as records:
        yield State(records)


def result(who, score, status="ok"):
    replies = tuple(ReplyResult(str(i), "synthetic", status, status, 0.1) for i in range(2))
    return MinerResult(who, replies, score)


def play(state, *scores, now=NOW, status="ok"):
    made = state.begin_round(TIER, 1, [who for who, _ in scores], now)
    assert state.finish_round(made, TIER, [result(w, s, status) for w, s in scores], now)
    return made


def met(state, *peers, tier=TIER):
    for who in peers:
        state.met(who, MinerInfo(tier, "model"), NOW)


def test_trap_04_a_bad_reply_changes_that_miner_alone(state):
    a, b = peer(0, "a"), peer(200, "b")
    play(state, (a, 0.5), (b, 0.8))
    play(state, (b, 0.0), status="malformed")
    ratings = state.ratings(TIER, [a, b], NOW)
    assert ratings == {"a": 0.5, "b": pytest.approx(0.4)}


def test_trap_05_scores_survive_a_sync_and_a_restart(state):
    a = peer(0, "a")
    met(state, a)
    play(state, (a, 0.7))
    met(state, a)
    state.records.close()
    with Records(state.records.path) as again:
        assert State(again).ratings_by_tier(roster(a), NOW) == {TIER: {0: 0.7}}


def test_trap_11_a_silent_epoch_keeps_tier_and_score(state):
    a = peer(0, "a")
    met(state, a)
    play(state, (a, 0.7))
    assert state.members(roster(a)) == {TIER: [a]}
    assert state.ratings(TIER, [a], NOW + 3600) == {"a": 0.7}


def test_trap_12_a_new_hotkey_on_an_old_uid_starts_fresh(state):
    old, new = peer(5, "old"), peer(5, "new")
    met(state, old, new)
    play(state, (old, 0.9))
    assert state.ratings_by_tier(roster(new), NOW) == {TIER: {}}
    assert state.ratings(TIER, [new], NOW) == {}


def test_a_hotkey_that_was_registered_anew_starts_fresh(state):
    before, after = peer(5, "a", registered_at=1), peer(9, "a", registered_at=70)
    met(state, before)
    play(state, (before, 0.9))
    assert state.members(roster(after)) == {}
    met(state, after)
    assert state.ratings_by_tier(roster(after), NOW) == {TIER: {}}
    play(state, (after, 0.3))
    assert state.ratings(TIER, [after], NOW) == {"a": 0.3}


def test_a_rating_that_nothing_confirms_fades(state):
    a = peer(0, "a")
    play(state, (a, 0.9))
    assert state.ratings(TIER, [a], NOW + MAX_RATING_AGE_S + 1) == {}


def test_a_tier_change_begins_a_rating_of_its_own(state):
    a = peer(0, "a")
    met(state, a)
    play(state, (a, 0.9))
    met(state, a, tier="inference_0")
    assert state.ratings_by_tier(roster(a), NOW) == {"inference_0": {}}


def test_ratings_follow_the_rule_of_scoring(state):
    a = peer(0, "a")
    expected = None
    for i, score in enumerate([0.9, 0.1, 0.5, 0.5, 0.2]):
        play(state, (a, score))
        expected = rate(expected, score, hotkey="a", updated_round=i)
    assert state.ratings(TIER, [a], NOW)["a"] == pytest.approx(expected.value)


def test_nan_never_reaches_a_rating(state):
    a = peer(0, "a")
    made = state.begin_round(TIER, 1, [a], NOW)
    rating = rate(None, float("nan"), hotkey="a", updated_round=1)
    assert rating.value == 0.0
    assert state.finish_round(made, TIER, [result(a, 0.0)], NOW)
    assert state.ratings(TIER, [a], NOW) == {"a": 0.0}


def test_a_round_moves_the_ratings_once(state):
    a = peer(0, "a")
    made = state.begin_round(TIER, 1, [a], NOW)
    assert state.finish_round(made, TIER, [result(a, 0.5)], NOW)
    assert not state.finish_round(made, TIER, [result(a, 1.0)], NOW)
    assert state.ratings(TIER, [a], NOW) == {"a": 0.5}


def test_trap_30_a_round_that_cannot_be_written_changes_nothing(state, monkeypatch):
    a = peer(0, "a")
    play(state, (a, 0.5))
    made = state.begin_round(TIER, 1, [a], NOW)

    def torn(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(state.records, "write_round", torn)
    with pytest.raises(OSError, match="full"):
        state.finish_round(made, TIER, [result(a, 0.9)], NOW)
    assert state.ratings(TIER, [a], NOW) == {"a": 0.5}
    assert state.records.rounds()[0].status == "open"


def test_trap_30_a_shrunken_roster_loads(state):
    peers = [peer(uid, f"m{uid}") for uid in range(10)]
    met(state, *peers)
    play(state, *[(who, 0.5) for who in peers])
    assert state.ratings_by_tier(roster(*peers[:2]), NOW) == {TIER: {0: 0.5, 1: 0.5}}


@pytest.mark.parametrize("n", [100, 97, 7])
def test_trap_10_everybody_is_asked_equally_within_one(state, n):
    peers = [peer(uid, f"m{uid}") for uid in range(n)]
    counts = dict.fromkeys((who.hotkey for who in peers), 0)
    for i in range(64):
        queue = state.queue(TIER, peers, i)[:4]
        state.begin_round(TIER, 1, queue, NOW)
        for who in queue:
            counts[who.hotkey] += 1
        assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(counts.values()) == 256


def test_trap_06_choosing_does_not_change_whose_count_it_is(state):
    peers = [peer(uid, f"m{uid}") for uid in range(6)]
    state.begin_round(TIER, 1, peers[:2], NOW)
    before = state.records.select("select * from asked order by hotkey")
    for seed in range(20):
        assert {who.hotkey for who in state.queue(TIER, peers, seed)[-2:]} == {"m0", "m1"}
    assert state.records.select("select * from asked order by hotkey") == before


def test_a_newcomer_is_next(state):
    old = [peer(uid, f"m{uid}") for uid in range(4)]
    state.begin_round(TIER, 1, old, NOW)
    assert state.queue(TIER, [*old, peer(9, "new")], 0)[0].hotkey == "new"


def test_who_was_asked_in_a_cut_off_round_waits_his_turn(state):
    a, b = peer(0, "a"), peer(1, "b")
    state.begin_round(TIER, 1, [a], NOW)
    state.records.abandon_rounds("killed", NOW)
    assert state.queue(TIER, [a, b], 0)[0] == b


def test_silence_grows_and_one_answer_ends_it():
    silence = Silence()
    waits = []
    for _ in range(10):
        silence = silence.after(True, NOW)
        waits.append(max(0.0, silence.retry_at - NOW))
    assert waits == [0, 0, 600, 1200, 2400, 4800, 9600, 9600, 9600, 9600]
    assert silence.after(False, NOW) == Silence()


def test_dead_miners_back_off(state):
    a = peer(0, "a")
    for _ in range(3):
        play(state, (a, 0.0), status="unreachable")
    assert state.silence(a).retry_at == NOW + 600
    play(state, (a, 0.0), status="dormant")
    assert state.silence(a).n_rounds == 3
    play(state, (a, 0.4))
    assert state.silence(a) == Silence()


def test_a_malformed_answer_is_no_silence(state):
    a = peer(0, "a")
    for _ in range(5):
        play(state, (a, 0.0), status="malformed")
    assert state.silence(a) == Silence()


def test_a_file_belongs_to_one_validator(state):
    state.claim("me", 52, "dev")
    state.claim("me", 52, "dev")
    with pytest.raises(ConfigError, match="holds the state of"):
        state.claim("you", 52, "dev")
