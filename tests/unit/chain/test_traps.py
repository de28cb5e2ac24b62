"""What went wrong in the subnet that came before, as far as it concerns the chain."""

from __future__ import annotations

import asyncio
import sqlite3
import time

import bittensor as bt
from dev_world import NETUID, QUICK, DevWorld, wallet
from stub_client import Script, StubChain

from neural_condense_core.chain.sdk import SdkChain


def test_weights_are_never_set(world):
    """A guard compared blocks the wrong way round: one tempo later the chain holds new weights."""
    judge = world.validator("judge")
    first, second = world.register("a", "b")

    async def go():
        chain = world.chain("judge")
        rows = []
        for target in (first, second):
            assert (await chain.submit_weights({target: 1.0}, 0)).ok
            rows.append((await chain.weights())[judge])
            world.advance(20)
        await chain.close()
        return rows

    assert asyncio.run(go()) == [{first: 1.0}, {second: 1.0}]


def test_weights_land_on_the_wrong_uids(world):
    """Only the lowest uids were ever weighed: here each uid keeps its own weight."""
    judge = world.validator("judge")
    uids = world.register(*(f"miner{i}" for i in range(9)))
    wanted = {uid: float(uid % 4 + 1) for uid in reversed(uids)}

    async def go():
        chain = world.chain("judge")
        assert (await chain.submit_weights(wanted, 0)).ok
        row = (await chain.weights())[judge]
        await chain.close()
        return row

    row = asyncio.run(go())
    total = sum(wanted.values())
    assert set(row) == set(wanted)
    assert all(abs(row[uid] - weight / total) < 1e-4 for uid, weight in wanted.items())


def test_a_coroutine_that_fails_twice_is_never_retried():
    """A retry around a coroutine function retried nothing, since calling it never raises."""
    lost = bt.RpcConnectionError("lost")
    stub = StubChain(block=Script(lost, lost, 9))

    async def go():
        chain = SdkChain(stub.make_client, NETUID, None, label="stub", deadlines=QUICK)
        try:
            return await chain.block()
        finally:
            await chain.close()

    assert asyncio.run(go()) == 9


def test_a_hanging_chain_call_freezes_the_node():
    """Weights were set in the main loop, without a deadline: everything else stood still."""
    stub = StubChain(block=Script(Script.HANG))
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def go():
        chain = SdkChain(stub.make_client, NETUID, wallet("judge"), label="stub", deadlines=QUICK)
        ticking = asyncio.create_task(tick())
        began = time.monotonic()
        outcome = await chain.submit_weights({1: 1.0}, 0)
        took = time.monotonic() - began
        ticking.cancel()
        await chain.close()
        return outcome, took

    outcome, took = asyncio.run(go())
    assert (outcome.ok, outcome.code) == (False, "chain_unavailable")
    assert took < QUICK.read_s + QUICK.write_s
    assert ticks > took / 0.01 / 4, "the loop went on"


def test_a_locked_chain_file_freezes_the_node(world):
    """The same for the development chain, whose calls are blocking by nature."""
    world.register("miner")
    lock = sqlite3.connect(world.path, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    gaps = []

    async def tick():
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    async def go():
        chain = world.chain(
            "miner", make=lambda: bt.Client("ws://devchain", substrate=world.substrate(0.3))
        )
        ticking = asyncio.create_task(tick())
        outcome = await chain.publish("127.0.0.1", 8091)
        ticking.cancel()
        await chain.close()
        return outcome

    outcome = asyncio.run(go())
    lock.rollback()
    lock.close()
    assert not outcome.ok
    assert max(gaps) < 0.25, "nobody waited for the lock but the call"


def test_reading_the_chain_pays_a_commit_as_if_it_were_weights(tmp_path):
    """A commit under a time lock was reported as weights set; the row shows nothing yet."""
    world = DevWorld(tmp_path, commit_reveal=1)
    world.validator("judge")
    world.register("a")

    async def go():
        chain = world.chain("judge")
        outcome = await chain.submit_weights({2: 1.0}, 0)
        row = await chain.weights()
        await chain.close()
        return outcome, row

    outcome, row = asyncio.run(go())
    assert outcome.pending_reveal_round is not None
    assert row == {}
