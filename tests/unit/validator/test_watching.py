"""What is known of the subnet, and what a failed read does to it: nothing."""

import asyncio

import pytest
from subnet_fakes import MODEL, TIER, TIERS, FakeChain, peer, roster

from neural_condense_core.errors import ChainUnavailable
from neural_condense_core.records import Records
from neural_condense_core.validator import watching
from neural_condense_core.validator.replies import MinerInfo
from neural_condense_core.validator.state import State
from neural_condense_core.validator.watching import Watch

NOW = 1_000_000.0
A, B = peer(1, "a"), peer(2, "b")
ME = peer(9, "me")


class FakeMetadata:
    def __init__(self, infos):
        self.infos = infos
        self.asked = []

    async def metadata(self, who):
        self.asked.append(who.hotkey)
        return self.infos.get(who.hotkey)


@pytest.fixture
def state(tmp_path):
    with Records(tmp_path / "validator.sqlite") as records:
        yield State(records)


def watch(state, found, infos):
    dendrite = FakeMetadata(infos)
    chain = FakeChain(found)
    made = Watch(chain, dendrite, state, TIERS, "me")
    asyncio.run(made.read_roster())
    return made, dendrite, chain


INFO = MinerInfo(TIER.name, MODEL)


def test_miners_are_met_and_ranked(state):
    made, dendrite, _ = watch(state, roster(A, B, ME), {"a": INFO, "b": INFO})
    asyncio.run(made.meet(0.0, NOW))
    made.rank(NOW)
    assert sorted(dendrite.asked) == ["a", "b"]
    assert {who.hotkey for who, _ in made.board.ranking[TIER.name]} == {"a", "b"}


def test_trap_11_no_answer_keeps_the_tier(state):
    made, dendrite, _ = watch(state, roster(A, ME), {"a": INFO})
    asyncio.run(made.meet(0.0, NOW))
    dendrite.infos.clear()
    asyncio.run(made.meet(100.0, NOW + 100))
    assert made.members(TIER.name) == [A]


def test_who_does_not_answer_is_asked_less_and_less(state):
    made, dendrite, _ = watch(state, roster(A, ME), {})
    for second in range(0, 4000, 10):
        asyncio.run(made.meet(float(second), NOW))
    assert len(dendrite.asked) == 7


def test_a_miner_that_moved_is_asked_at_once(state):
    made, dendrite, chain = watch(state, roster(A, ME), {})
    asyncio.run(made.meet(0.0, NOW))
    chain.found = roster(peer(1, "a", "127.0.0.1:10"), ME)
    asyncio.run(made.read_roster())
    asyncio.run(made.meet(1.0, NOW))
    assert dendrite.asked == ["a", "a"]


def test_trap_33_a_chain_that_hangs_or_fails_leaves_the_roster(state, monkeypatch):
    monkeypatch.setattr(watching, "ROSTER_TIMEOUT_S", 0.05)
    made, _, chain = watch(state, roster(A, ME), {})
    chain.hangs = True
    with pytest.raises(ChainUnavailable):
        asyncio.run(made.read_roster())
    chain.hangs, chain.fails = False, 2
    for _ in range(2):
        with pytest.raises(ChainUnavailable):
            asyncio.run(made.read_roster())
    assert made.board.roster.by_hotkey("a") == A
    asyncio.run(made.read_roster())


def test_an_unknown_tier_or_subnet_changes_nothing(state):
    made, _, chain = watch(state, roster(A, ME), {"a": MinerInfo("none", MODEL)})
    asyncio.run(made.meet(0.0, NOW))
    assert state.members(roster(A)) == {}
    chain.found = None
    with pytest.raises(ChainUnavailable, match="netuid"):
        asyncio.run(made.read_roster())
