"""Weights: really set, really read back, and never in anybody's way."""

import asyncio

import pytest
from subnet_fakes import FAST, MODEL, TIER, TIERS, FakeChain, peer, roster

from neural_condense_core.chain.outcomes import UNCONFIRMED
from neural_condense_core.constants import TierConfig
from neural_condense_core.records import Records
from neural_condense_core.validator import weighing
from neural_condense_core.validator.replies import MinerInfo
from neural_condense_core.validator.results import MinerResult, ReplyResult
from neural_condense_core.validator.state import State
from neural_condense_core.validator.weighing import WeightSetter, is_same, vector_for

NOW = 1_000_000.0
ME = peer(9, "me", endpoint=None, permit=True, stake=1e6)
OWNER = peer(0, "owner", endpoint=None)


@pytest.fixture
def state(tmp_path):
    with Records(tmp_path / "validator.sqlite") as records:
        yield State(records)


def rated(state, scores, tier=TIER.name):
    peers = [peer(uid, f"m{uid}") for uid in scores]
    made = state.begin_round(tier, 1, peers, NOW)
    results = [
        MinerResult(who, (ReplyResult("0", "synthetic", "ok", "ok", 0.1),), scores[who.uid])
        for who in peers
    ]
    for who in peers:
        state.met(who, MinerInfo(tier, MODEL), NOW)
    state.finish_round(made, tier, results, NOW)
    return peers


def setter(chain, state, **more):
    return WeightSetter(chain, "me", state, TIERS, version_key=10, **more)


def step(one, found, now=NOW):
    asyncio.run(one.step(found, now))


def test_trap_01_one_tempo_later_the_chain_holds_new_weights(state):
    peers = rated(state, {1: 0.8, 2: 0.4})
    found = roster(OWNER, *peers, ME, block=100)
    chain = FakeChain(found)
    one = setter(chain, state)
    step(one, found)
    assert len(chain.sent) == 1
    step(one, roster(OWNER, *peers, ME, block=119))
    assert len(chain.sent) == 1
    rated(state, {2: 0.9})
    step(one, roster(OWNER, *peers, ME, block=120))
    assert len(chain.sent) == 2
    assert chain.sent[0] != chain.sent[1]
    assert [entry.confirmed for entry in state.records.weight_sets()] == [True, True]


def test_trap_18_shares_are_exactly_as_configured(state):
    peers = rated(state, {1: 0.8, 2: 0.4}) + rated(state, {3: 0.1, 4: 0.03}, FAST.name)
    weights = vector_for(state, roster(OWNER, *peers, ME), TIERS, NOW).weights
    assert weights[1] + weights[2] == pytest.approx(TIER.incentive_share)
    assert weights[3] + weights[4] == pytest.approx(FAST.incentive_share)
    assert weights[0] == pytest.approx(0.2)
    assert weights[1] / weights[2] == pytest.approx(2**3)
    assert 9 not in weights


def test_trap_18_all_zero_pays_the_owner_and_nobody_else(state):
    peers = rated(state, {1: 0.0, 2: 0.0})
    assert vector_for(state, roster(OWNER, *peers, ME), TIERS, NOW).weights == {0: 1.0}


def test_without_an_owner_all_zero_sets_nothing(state):
    peers = rated(state, {1: 0.0})
    assert vector_for(state, roster(*peers, ME), TIERS, NOW) is None


def test_who_has_measured_nothing_says_nothing(state):
    found = roster(OWNER, peer(1, "m1"), ME)
    chain = FakeChain(found)
    step(setter(chain, state), found)
    assert chain.sent == []


def test_a_dry_run_sends_nothing_and_notes_everything(state):
    peers = rated(state, {1: 0.8})
    found = roster(OWNER, *peers, ME)
    chain = FakeChain(found)
    step(setter(chain, state, is_dry_run=True), found)
    assert chain.sent == []
    (noted,) = state.records.weight_sets()
    assert (noted.code, noted.is_dry_run, noted.confirmed) == ("dry_run", True, False)
    assert {row.uid: row.weight for row in state.records.weights(noted.id)} == {1: 0.5, 0: 0.5}


def test_sent_is_not_set_until_the_chain_holds_it(state):
    peers = rated(state, {1: 0.8})
    found = roster(OWNER, *peers, ME)
    chain = FakeChain(found)
    chain.is_forgetful = True
    one = setter(chain, state)
    step(one, found)
    assert not state.records.weight_sets()[0].confirmed
    chain.held = {0: 0.5, 1: 0.5}
    step(one, found)
    assert state.records.weight_sets()[0].confirmed
    assert len(chain.sent) == 1


def test_a_restart_does_not_send_again(state):
    peers = rated(state, {1: 0.8})
    found = roster(OWNER, *peers, ME)
    chain = FakeChain(found)
    step(setter(chain, state), found)
    step(setter(chain, State(state.records)), found)
    assert len(chain.sent) == 1


def test_a_refusal_is_tried_again_soon(state):
    peers = rated(state, {1: 0.8})
    found = roster(OWNER, *peers, ME, block=100)
    chain = FakeChain(found)
    chain.refuses = "rate_limited"
    one = setter(chain, state)
    step(one, found)
    step(one, roster(OWNER, *peers, ME, block=101))
    chain.refuses = None
    step(one, roster(OWNER, *peers, ME, block=102))
    assert [entry.code for entry in state.records.weight_sets()] == ["ok", "rate_limited"]


def test_trap_33_a_chain_that_hangs_ends_at_the_deadline(state, monkeypatch):
    monkeypatch.setattr(weighing, "SUBMIT_TIMEOUT_S", 0.05)
    peers = rated(state, {1: 0.8})
    found = roster(OWNER, *peers, ME)
    chain = FakeChain(found)
    chain.hangs = True
    step(setter(chain, state), found)
    assert state.records.weight_sets()[0].code == "unknown"


def test_after_an_unknown_outcome_the_chain_is_read_first(state, monkeypatch):
    monkeypatch.setattr(weighing, "SUBMIT_TIMEOUT_S", 0.05)
    peers = rated(state, {1: 0.8})
    found = roster(OWNER, *peers, ME, block=100)
    chain = FakeChain(found)
    chain.hangs = True
    one = setter(chain, state)
    step(one, found)
    chain.hangs = False
    chain.held = {0: 0.5, 1: 0.5}
    step(one, roster(OWNER, *peers, ME, block=101))
    assert state.records.weight_sets()[0].confirmed


def test_what_was_included_and_shows_later_is_not_sent_again(state):
    peers = rated(state, {1: 0.8})
    chain = FakeChain(roster(OWNER, *peers, ME))
    chain.refuses = UNCONFIRMED
    one = setter(chain, state)
    step(one, roster(OWNER, *peers, ME, block=100))
    assert not state.records.weight_sets()[0].confirmed
    chain.refuses, chain.held = None, {0: 0.5, 1: 0.5}
    for block in (103, 119):
        step(one, roster(OWNER, *peers, ME, block=block))
        assert (len(chain.sent), state.records.weight_sets()[0].confirmed) == (1, True)
    step(one, roster(OWNER, *peers, ME, block=120))
    assert len(chain.sent) == 2


def test_a_refusal_does_not_hide_an_earlier_submission_that_shows_late(state):
    peers = rated(state, {1: 0.8})
    chain = FakeChain(roster(OWNER, *peers, ME))
    one = setter(chain, state)
    for block, chain.refuses in ((100, UNCONFIRMED), (102, "rate_limited")):
        step(one, roster(OWNER, *peers, ME, block=block))
    chain.held = {0: 0.5, 1: 0.5}
    step(one, roster(OWNER, *peers, ME, block=104))
    assert len(chain.sent) == 2
    assert [entry.confirmed for entry in state.records.weight_sets()] == [False, True]


def test_who_is_killed_while_sending_reads_the_chain_first(state):
    peers = rated(state, {1: 0.8})
    chain = FakeChain(roster(OWNER, *peers, ME))

    async def kill(weights, version_key):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "submit_weights", kill)
        with pytest.raises(KeyboardInterrupt):
            step(setter(chain, state), roster(OWNER, *peers, ME, block=100))
    assert [entry.code for entry in state.records.weight_sets()] == ["unknown"]
    chain.held = {0: 0.5, 1: 0.5}
    for block in (101, 119):
        step(setter(chain, State(state.records)), roster(OWNER, *peers, ME, block=block))
    assert chain.sent == []
    assert state.records.weight_sets()[0].confirmed


@pytest.mark.parametrize(
    ("held", "same"),
    [
        ({0: 1, 1: 3}, True), ({0: 16384, 1: 49151}, True), ({0: 0.25, 1: 0.74, 2: 0.01}, False),
        ({}, False), ({1: 1.0}, False),
    ],
)  # fmt: skip
def test_a_vector_is_the_same_up_to_rounding(held, same):
    assert is_same({0: 0.25, 1: 0.75}, held) is same


def test_a_tier_of_its_own_pays_its_share(state):
    mine = TierConfig("mine", 1.0, 10, 1.0, 4, 300, target_model=MODEL)
    peers = rated(state, {1: 0.2}, "mine")
    found = vector_for(state, roster(OWNER, *peers, ME), {"mine": mine}, NOW)
    assert found.weights == {1: 1.0}
