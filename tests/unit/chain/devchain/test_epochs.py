"""Epochs: permits, masks and pay, run by whoever looks first."""

from __future__ import annotations

import asyncio

import pytest
from dev_world import NETUID, DevWorld, coldkey, hotkey

from neural_condense_core.chain.devchain.epochs import MAX_CATCH_UP


def set_weights(world: DevWorld, name: str, row: dict[int, float]) -> None:
    async def go():
        chain = world.chain(name)
        outcome = await chain.submit_weights(row, 0)
        await chain.close()
        assert outcome.ok, outcome

    asyncio.run(go())


def incentives(world: DevWorld) -> list[float]:
    return [seat.incentive for seat in world.dev.show(NETUID).seats]


def test_a_permit_follows_the_stake_at_the_next_epoch(world):
    world.register("judge")
    world.dev.set_stake(NETUID, hotkey("judge"), 5)
    assert not world.dev.show(NETUID).seats[1].permit
    world.advance(19)
    assert not world.dev.show(NETUID).seats[1].permit
    world.advance(1)
    assert world.dev.show(NETUID).seats[1].permit
    world.dev.set_stake(NETUID, hotkey("judge"), 0)
    world.advance(20)
    assert not world.dev.show(NETUID).seats[1].permit


def test_permits_go_to_the_largest_stakes(tmp_path):
    world = DevWorld(tmp_path, max_validators=2)
    world.register("small", "large", "middle")
    for name, alpha in (("small", 1), ("large", 9), ("middle", 5)):
        world.dev.set_stake(NETUID, hotkey(name), alpha)
    world.advance(20)
    assert [seat.permit for seat in world.dev.show(NETUID).seats] == [False, False, True, True]


def test_weights_become_incentive_at_the_next_epoch_and_are_paid(world):
    judge = world.validator("judge")
    good, poor = world.register("good", "poor")
    world.advance(5)
    set_weights(world, "judge", {good: 3, poor: 1})
    assert incentives(world) == [0.0] * 4
    world.advance(20)
    assert incentives(world) == pytest.approx([0, 0, 0.75, 0.25], abs=1e-4)
    assert world.dev.show(NETUID).seats[judge].dividends == pytest.approx(1)

    async def free(name):
        async with world.client() as client:
            return (await client.balances.get(coldkey(name))).tao

    assert asyncio.run(free("good")) == pytest.approx(20 * 0.41 * 0.75, rel=1e-3)
    assert asyncio.run(free("judge")) == pytest.approx(20 * 0.41, rel=1e-3)


def test_stake_without_weights_counts_against_consensus(world):
    world.register("silent")
    world.dev.set_stake(NETUID, hotkey("silent"), 3000)
    world.validator("judge", alpha=1000)
    (miner,) = world.register("miner")
    world.advance(5)
    set_weights(world, "judge", {miner: 1})
    world.advance(20)
    assert incentives(world) == [0.0] * 4


def test_a_validator_that_fell_silent_no_longer_counts(tmp_path):
    world = DevWorld(tmp_path, activity_cutoff=30)
    world.validator("judge")
    (miner,) = world.register("miner")
    world.advance(5)
    set_weights(world, "judge", {miner: 1})
    world.advance(20)
    assert incentives(world)[miner] == 1.0
    world.advance(40)
    assert incentives(world)[miner] == 0.0


def test_a_weight_on_oneself_pays_nothing_but_to_the_owner(world):
    judge = world.validator("judge")
    world.dev.set_stake(NETUID, hotkey("owner"), 10)
    world.advance(20)
    set_weights(world, "judge", {judge: 1})
    world.advance(20)
    assert incentives(world) == [0.0, 0.0]
    world.dev.set_stake(NETUID, hotkey("judge"), 1)
    set_weights(world, "owner", {0: 1})
    world.advance(20)
    assert incentives(world)[0] == 1.0


def test_after_a_pause_the_epochs_that_are_due_are_run_once(world):
    world.clock.now += 20 * 7 + 3  # a block a second
    first, second = world.dev.show(NETUID), world.dev.show(NETUID)
    assert first == second
    assert (first.epochs, first.last_epoch, first.block) == (7, 141, 144)


def test_after_a_long_pause_only_the_last_epochs_are_paid(world):
    world.advance(20 * (MAX_CATCH_UP + 500))
    found = world.dev.show(NETUID)
    assert found.epochs == MAX_CATCH_UP + 500
    assert found.last_epoch == found.block == 1 + 20 * (MAX_CATCH_UP + 500)

    async def owner():
        async with world.client() as client:
            return (await client.balances.get(coldkey("owner"))).tao

    assert asyncio.run(owner()) == pytest.approx(1000 + MAX_CATCH_UP * 20 * 0.18)
