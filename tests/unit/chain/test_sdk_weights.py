"""The adapter over the development chain: rosters and weights, as they are read back."""

from __future__ import annotations

import asyncio

import bittensor as bt
import pytest
from dev_world import DevWorld, hotkey, wallet
from stub_client import included

from neural_condense_core.chain.base import Outcome, Peer

# The roster


def test_a_roster_says_all_of_a_peer(world):
    world.validator("judge")
    world.register("miner")

    async def go():
        chain = world.chain("miner")
        await chain.publish("2001:db8::1", 8091)
        world.clock.now += 1.0
        roster = await chain.roster()
        await chain.close()
        return roster

    roster = asyncio.run(go())
    assert roster.fetched_at == world.clock.now
    assert roster.by_uid(2) == Peer(
        uid=2,
        hotkey=hotkey("miner"),
        coldkey=wallet("miner").coldkey.ss58_address,
        endpoint="[2001:db8::1]:8091",
        stake=0.0,
        permit=False,
        incentive=0.0,
        last_update=21,
        registered_at=21,
    )
    assert roster.by_hotkey(hotkey("judge")).stake == 1000.0
    assert roster.by_hotkey(hotkey("nobody")) is None
    assert (roster.tempo, roster.last_epoch) == (20, 21)


# Weights


def test_weights_are_read_back(world):
    judge = world.validator("judge")
    world.register("a", "b")

    async def go():
        chain = world.chain("judge")
        outcome = await chain.submit_weights({2: 1e-3, 3: 3e-3}, 0)
        assert outcome == Outcome(True, "ok", "the chain holds these weights", 21)
        row = (await chain.weights())[judge]
        await chain.close()
        return row

    assert asyncio.run(go()) == pytest.approx({2: 0.25, 3: 0.75}, abs=1e-4)


def test_weights_above_the_subnet_s_limit_are_clipped_and_still_confirmed(tmp_path):
    world = DevWorld(tmp_path, max_weight=32767)
    judge = world.validator("judge")
    world.register("a", "b", "c")

    async def go():
        chain = world.chain("judge")
        outcome = await chain.submit_weights({2: 8.0, 3: 1.0, 4: 1.0}, 0)
        assert outcome.ok, outcome
        row = (await chain.weights())[judge]
        await chain.close()
        return row

    row = asyncio.run(go())
    assert max(row.values()) <= 0.5 + 1e-4
    assert row[3] == pytest.approx(row[4])


def test_weights_that_were_sent_but_are_not_there_are_unconfirmed(world):
    world.validator("judge")
    world.register("a")

    class Forgetful:
        """A client whose chain includes weights and then does not hold them."""

        def __init__(self, client):
            self._client = client

        def __getattr__(self, name):
            return getattr(self._client, name)

        async def execute(self, *args, **kwargs):
            return included(21)

    async def go():
        chain = world.chain("judge", make=lambda: Forgetful(world.client()))
        outcome = await chain.submit_weights({2: 1.0}, 0)
        await chain.close()
        return outcome

    outcome = asyncio.run(go())
    assert (outcome.ok, outcome.code, outcome.block) == (False, "unconfirmed", 21)


def test_weights_lost_on_the_way_are_found_on_the_chain(world):
    world.validator("judge")
    world.register("a")

    class Mute:
        """A client whose writes arrive and whose answers do not."""

        def __init__(self, client):
            self._client = client

        def __getattr__(self, name):
            return getattr(self._client, name)

        async def execute(self, *args, **kwargs):
            await self._client.execute(*args, **kwargs)
            raise bt.RpcConnectionError("connection lost")

    async def go():
        chain = world.chain("judge", make=lambda: Mute(world.client()))
        outcome = await chain.submit_weights({2: 1.0}, 0)
        again = await chain.publish("127.0.0.1", 8091)
        await chain.close()
        return outcome, again

    for outcome in asyncio.run(go()):
        assert (outcome.ok, outcome.code) == (True, "ok"), outcome


def test_time_locked_weights_are_pending_not_set(tmp_path):
    world = DevWorld(tmp_path, commit_reveal=1)
    world.validator("judge")
    world.register("a")

    async def go():
        chain = world.chain("judge")
        outcome = await chain.submit_weights({2: 1.0}, 0)
        held = await chain.weights()
        await chain.close()
        return outcome, held

    outcome, held = asyncio.run(go())
    assert outcome.ok
    assert outcome.pending_reveal_round > 0
    assert held == {}


def test_an_old_version_key_is_refused(tmp_path):
    world = DevWorld(tmp_path, version_key=3)
    world.validator("judge")
    world.register("a")

    async def go():
        chain = world.chain("judge")
        old, new = [await chain.submit_weights({2: 1.0}, key) for key in (2, 3)]
        await chain.close()
        return old, new

    old, new = asyncio.run(go())
    assert (old.ok, old.code) == (False, "invalid_argument")
    assert "IncorrectWeightVersionKey" in old.message
    assert new.ok
