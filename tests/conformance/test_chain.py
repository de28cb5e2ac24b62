"""What every chain promises to the nodes, over the one adapter.

Runs on the development chain, and unchanged on the node that ``CONDENSE_TEST_SUBTENSOR`` names.
There, blocks take their time, and a subnet may lock weights until a later epoch (commit-reveal).
"""

from __future__ import annotations

import asyncio
import os
import time

import dev_world
import pytest
from live_world import LiveWorld

from neural_condense_core.chain.base import Chain, Outcome, Peer

ENDPOINT = os.environ.get("CONDENSE_TEST_SUBTENSOR")
NO_SUCH_NETUID = 4000
PORT = 8091
VERSION_KEY = 0


class EmbeddedWorld(dev_world.DevWorld):
    def hotkey(self, name: str) -> str:
        return dev_world.hotkey(name)


WORLDS = [
    "dev",
    pytest.param(
        "live", marks=pytest.mark.skipif(not ENDPOINT, reason="CONDENSE_TEST_SUBTENSOR names none")
    ),
]


@pytest.fixture(params=WORLDS)
def world(request, tmp_path):
    return EmbeddedWorld(tmp_path) if request.param == "dev" else LiveWorld(str(ENDPOINT))


async def registered(world, name: str) -> Chain:
    chain = world.chain(name)
    await world.fund(name)
    outcome = await chain.register()
    assert outcome.ok, outcome
    return chain


async def peer_of(world, chain: Chain, name: str) -> Peer:
    roster = await chain.roster()
    assert roster is not None
    peer = roster.by_hotkey(world.hotkey(name))
    assert peer is not None
    return peer


def test_blocks_only_go_forward(world):
    async def go():
        chain = world.chain(None)
        first = await chain.block()
        await world.pass_blocks(2)
        assert await chain.block() >= first + 2
        await chain.close()

    asyncio.run(go())


def test_a_roster_is_the_subnet_at_one_block(world):
    async def go():
        chain = await registered(world, "reader")
        before = await chain.block()
        roster = await chain.roster()
        assert roster.netuid == world.netuid
        assert before <= roster.block <= before + 2
        assert roster.tempo > 0
        assert roster.last_epoch <= roster.block
        assert [peer.uid for peer in roster.peers] == list(range(len(roster.peers)))
        assert roster.by_hotkey(roster.owner_hotkey).uid == 0
        assert roster.by_uid(0).hotkey == roster.owner_hotkey
        assert roster.by_uid(len(roster.peers)) is None
        await chain.close()

    asyncio.run(go())


def test_a_subnet_that_is_not_there_has_no_roster(world):
    async def go():
        chain = world.chain(None, NO_SUCH_NETUID)
        assert await chain.roster() is None
        assert await chain.weights() == {}
        await chain.close()

    asyncio.run(go())


def test_registering_gives_a_seat_once(world):
    async def go():
        chain = await registered(world, "newcomer")
        peer = await peer_of(world, chain, "newcomer")
        assert peer.endpoint is None
        assert peer.stake == 0
        assert not peer.permit
        assert peer.incentive == 0
        assert peer.registered_at <= await chain.block()
        seats = len((await chain.roster()).peers)
        again = await chain.register()
        assert again.ok, again
        assert len((await chain.roster()).peers) == seats
        assert await chain.price() >= 0
        await chain.close()

    asyncio.run(go())


def test_registering_without_money_is_refused(world):
    async def go():
        chain = world.chain("pauper")
        outcome = await chain.register()
        assert (outcome.ok, outcome.code) == (False, "insufficient_balance"), outcome
        assert (await chain.roster()).by_hotkey(world.hotkey("pauper")) is None
        await chain.close()

    asyncio.run(go())


def test_an_endpoint_is_published_once(world):
    async def go():
        chain = await registered(world, "server")
        outcome = await chain.publish(world.ip, PORT)
        assert outcome.ok, outcome
        assert outcome.block is not None
        assert (await peer_of(world, chain, "server")).endpoint == f"{world.ip}:{PORT}"
        again = await chain.publish(world.ip, PORT)
        assert again.ok, again
        assert again.block is None, "nothing was sent"
        await chain.close()

    asyncio.run(go())


def test_only_registered_hotkeys_publish_and_weigh(world):
    async def go():
        chain = world.chain("stranger")
        for outcome in (
            await chain.publish(world.ip, PORT),
            await chain.submit_weights({0: 1.0}, VERSION_KEY),
        ):
            assert (outcome.ok, outcome.code) == (False, "not_registered"), outcome
            assert outcome.message
        await chain.close()

    asyncio.run(go())


@pytest.mark.parametrize("ip", ["localhost", "example.org", "1.2.3", ""])
def test_an_address_is_literal(world, ip):
    async def go():
        chain = await registered(world, "server")
        outcome = await chain.publish(ip, PORT)
        assert (outcome.ok, outcome.code) == (False, "invalid_argument"), outcome
        await chain.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    "weights", [{}, {0: 0.0}, {0: float("nan")}, {0: float("inf")}, {0: -1.0, 1: 2.0}]
)
def test_weights_that_are_none_never_leave(world, weights):
    async def go():
        chain = world.chain("anybody")
        outcome = await chain.submit_weights(weights, VERSION_KEY)
        assert (outcome.ok, outcome.code) == (False, "invalid_argument"), outcome
        await chain.close()

    asyncio.run(go())


def test_weights_are_held_as_given_and_pay_a_tempo_later(world):
    async def go():
        judge = await registered(world, "judge")
        for name in ("good", "poor"):
            await (await registered(world, name)).close()
        await world.stake("judge", 1000)
        await world.pass_epoch()
        me, good, poor = [await peer_of(world, judge, name) for name in ("judge", "good", "poor")]
        assert me.permit
        assert me.stake > 0
        outcome = await judge.submit_weights({good.uid: 3.0, poor.uid: 1.0}, VERSION_KEY)
        assert outcome.ok, outcome
        if outcome.pending_reveal_round is None:
            row = (await judge.weights())[me.uid]
            assert row == pytest.approx({good.uid: 0.75, poor.uid: 0.25}, abs=1e-4)
            assert (await peer_of(world, judge, "judge")).last_update == outcome.block
            await world.pass_epoch()
            assert (await peer_of(world, judge, "good")).incentive > 0
        await judge.close()

    asyncio.run(go())


def test_weights_too_soon_are_refused_with_the_wait(world):
    async def go():
        judge = await registered(world, "hasty")
        outcome = await judge.submit_weights({0: 1.0}, VERSION_KEY)
        assert (outcome.ok, outcome.code) == (False, "rate_limited"), outcome
        assert "blocks" in outcome.message
        await judge.close()

    asyncio.run(go())


def test_nobody_s_connection_reads_and_does_not_write(world):
    async def go():
        chain = world.chain(None)
        assert await chain.block() > 0
        for outcome in (
            await chain.register(),
            await chain.publish(world.ip, PORT),
            await chain.submit_weights({0: 1.0}, VERSION_KEY),
        ):
            assert isinstance(outcome, Outcome)
            assert (outcome.ok, outcome.code) == (False, "wallet")
        await chain.close()

    asyncio.run(go())


def test_a_closed_chain_may_be_closed_again(world):
    async def go():
        chain = world.chain(None)
        await chain.close()
        began = time.monotonic()
        await chain.block()
        await chain.close()
        await chain.close()
        assert time.monotonic() - began < 10

    asyncio.run(go())
