"""The development chain's rules: each refusal under the chain's name, in the chain's order."""

from __future__ import annotations

import asyncio
import inspect
import re

import bittensor as bt
import pytest
from bittensor._generated.errors import ERRORS
from dev_world import NETUID, DevWorld, coldkey, hotkey, wallet

from neural_condense_core.chain.devchain import ledger
from neural_condense_core.chain.devchain.ledger import SubnetRules
from neural_condense_core.errors import ConfigError

ABSENT = 7


def submit(world: DevWorld, name: str, role: str, function: str, **params) -> str:
    """Run a call past the SDK's own checks; the refusal's name, or ``"ok"``."""

    async def go() -> str:
        async with world.client() as client:
            call = bt.calls.SubtensorModule.__dict__[function].__func__(**params)
            result = await client.submit_call(call, wallet(name), signer=role)
            return "ok" if result.success else result.error.name

    return asyncio.run(go())


def serve(world, name="miner", **changes):
    axon = {
        **{"netuid": NETUID, "version": 1, "ip": 2130706433, "port": 8091, "ip_type": 4},
        **{"protocol": 4, "placeholder1": 0, "placeholder2": 0},
    }
    return submit(world, name, "hotkey", "serve_axon", **(axon | changes))


def weigh(world, name="judge", **changes):
    row = {"netuid": NETUID, "mecid": 0, "dests": [0], "weights": [65535], "version_key": 0}
    return submit(world, name, "hotkey", "set_mechanism_weights", **(row | changes))


def enrol(world, name="miner", netuid=NETUID):
    return submit(world, name, "coldkey", "burned_register", netuid=netuid, hotkey=hotkey(name))


def test_registration_is_refused_in_order(world):
    assert enrol(world, netuid=ABSENT) == "SubnetNotExists"
    assert enrol(world) == "NotEnoughBalanceToStake"
    world.dev.fund(coldkey("miner"), 1)
    assert enrol(world) == "ok"
    assert enrol(world) == "HotKeyAlreadyRegisteredInSubNet"


def test_a_hotkey_belongs_to_one_coldkey(tmp_path):
    world = DevWorld(tmp_path, max_uids=2, immunity=0)
    world.register("miner", "next")  # who comes next takes the only seat
    world.dev.fund(coldkey("thief"), 1)
    stolen = submit(
        world, "thief", "coldkey", "burned_register", netuid=NETUID, hotkey=hotkey("miner")
    )
    assert stolen == "NonAssociatedColdKey"


def test_registration_is_paid(world):
    world.dev.fund(coldkey("miner"), 1)
    enrol(world)

    async def free():
        async with world.client() as client:
            return await client.balances.get(coldkey("miner"))

    assert asyncio.run(free()).tao == pytest.approx(0.9)


def test_a_full_subnet_replaces_who_earns_least_outside_immunity(tmp_path):
    world = DevWorld(tmp_path, max_uids=4, immunity=40)
    judge = world.validator("judge")
    good, poor = world.register("good", "poor")
    world.advance(5)
    assert weigh(world, dests=[good, poor], weights=[60000, 5535]) == "ok"
    world.dev.fund(coldkey("late"), 1)
    assert enrol(world, "late") == "NoNeuronIdAvailable", "all are immune but the owner"
    world.advance(100)
    assert enrol(world, "late") == "ok"
    seats = {seat.hotkey: seat.uid for seat in world.dev.show(NETUID).seats}
    assert seats == {
        hotkey("owner"): 0, hotkey("judge"): judge, hotkey("good"): good, hotkey("late"): poor,
    }  # fmt: skip


def test_who_takes_a_seat_inherits_nothing(tmp_path):
    world = DevWorld(tmp_path, max_uids=4, immunity=30)
    judge = world.validator("judge")
    good, old = world.register("good", "old")
    world.advance(5)
    weigh(world, dests=[good, old], weights=[9, 1])
    serve(world, "old")
    world.advance(40)
    before = world.dev.show(NETUID)
    assert before.seats[old].incentive == pytest.approx(0.1, abs=1e-3)
    assert world.register("new") == [old]
    world.advance(40)
    after = world.dev.show(NETUID)
    fresh = after.seats[old]
    assert (fresh.hotkey, fresh.endpoint) == (hotkey("new"), None)
    assert after.weights == before.weights, "the chain still holds a weight on the seat"
    assert fresh.incentive == 0.0, "which was set before the newcomer came"
    assert after.seats[good].incentive > 0.99
    assert judge in after.weights


def test_serving_is_refused_in_order(world):
    assert serve(world) == "HotKeyNotRegisteredInNetwork"
    world.register("miner")
    assert serve(world, ip_type=5) == "InvalidIpType"
    assert serve(world, ip=1 << 32) == "InvalidIpAddress"
    assert serve(world, port=0) == "InvalidPort"
    assert serve(world) == "ok"
    assert world.dev.show(NETUID).seats[1].endpoint == "127.0.0.1:8091"
    assert serve(world, ip=1, ip_type=6) == "ok"
    assert world.dev.show(NETUID).seats[1].endpoint == "[::1]:8091"
    assert serve(world, ip=0, port=1) == "ok"
    assert world.dev.show(NETUID).seats[1].endpoint is None


def test_serving_again_waits_for_the_rate_limit(tmp_path):
    world = DevWorld(tmp_path, serving_rate_limit=10)
    world.register("miner")
    world.advance(1)
    assert serve(world) == "ok"
    world.advance(9)
    assert serve(world) == "ServingRateLimitExceeded"
    world.advance(1)
    assert serve(world) == "ok"


def test_weights_are_refused_in_order(world):
    assert weigh(world) == "HotKeyNotRegisteredInSubNet"
    world.register("judge")
    world.dev.change_rules(NETUID, SubnetRules(commit_reveal=1))
    assert weigh(world) == "CommitRevealEnabled"
    world.dev.change_rules(NETUID, SubnetRules(version_key=2, min_weights=2))
    assert weigh(world) == "IncorrectWeightVersionKey"
    assert weigh(world, version_key=2) == "SettingWeightsTooFast"
    world.advance(5)
    assert weigh(world, version_key=2) == "NeuronNoValidatorPermit"
    world.dev.set_stake(NETUID, hotkey("judge"), 1)
    world.advance(20)
    assert weigh(world, version_key=2, dests=[0, 0], weights=[1, 1]) == "DuplicateUids"
    assert weigh(world, version_key=2, dests=[0, 9], weights=[1, 1]) == "UidVecContainInvalidOne"
    assert weigh(world, version_key=2) == "WeightVecLengthIsLow"
    assert weigh(world, version_key=2, dests=[0], weights=[]) == "WeightVecNotEqualSize"
    assert weigh(world, version_key=2, mecid=1) == "MechanismDoesNotExist"
    assert weigh(world, version_key=2, dests=[0, 1], weights=[1, 3]) == "ok"
    assert world.dev.show(NETUID).weights == {1: pytest.approx({0: 0.25, 1: 0.75}, abs=1e-4)}


def test_a_weight_on_oneself_needs_no_permit(world):
    (uid,) = world.register("judge")
    world.advance(5)
    assert weigh(world, dests=[uid], weights=[1]) == "ok"


def test_a_weight_above_the_limit_is_refused(tmp_path):
    world = DevWorld(tmp_path, max_weight=32767)
    world.validator("judge")
    world.register("a")
    assert weigh(world, dests=[0, 2], weights=[3, 1]) == "MaxWeightExceeded"
    assert weigh(world, dests=[0, 1, 2], weights=[1, 1, 1]) == "ok"


def test_commits_are_refused_in_order(tmp_path):
    world = DevWorld(tmp_path, commit_reveal=1, weights_rate_limit=1)
    commit = {
        **{"netuid": NETUID, "mecid": 0, "commit": b"sealed", "reveal_round": 5},
        "commit_reveal_version": 4,
    }

    def seal(**changes):
        return submit(
            world, "judge", "hotkey", "commit_timelocked_mechanism_weights", **(commit | changes)
        )

    assert seal() == "HotKeyNotRegisteredInSubNet"
    world.register("judge")
    assert seal() == "CommittingWeightsTooFast"
    for _ in range(10):
        world.advance(1)
        assert seal() == "ok"
    world.advance(1)
    assert seal() == "TooManyUnrevealedCommits"
    world.dev.change_rules(NETUID, SubnetRules())
    assert seal() == "CommitRevealDisabled"


def test_other_calls_are_refused(world):
    refused = submit(
        world, "miner", "coldkey", "add_stake", hotkey=hotkey("miner"), netuid=NETUID,
        amount_staked=1,
    )  # fmt: skip
    assert refused == "CallFiltered"


def test_every_refusal_is_a_name_the_sdk_knows():
    used = set(re.findall(r'Rejected\("(\w+)"\)', inspect.getsource(ledger)))
    assert len(used) > 15
    assert used <= {info.name for info in ERRORS.values()}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda dev: dev.fund(coldkey("a"), -1),
        lambda dev: dev.register(ABSENT, hotkey("a"), coldkey("a")),
        lambda dev: dev.set_stake(NETUID, hotkey("a"), 1),
        lambda dev: dev.set_stake(NETUID, hotkey("owner"), float("nan")),
        lambda dev: dev.advance(-1),
        lambda dev: dev.show(ABSENT),
    ],
)
def test_a_developer_s_mistake_changes_nothing(world, wrong):
    before = world.dev.show(NETUID)
    with pytest.raises(ConfigError):
        wrong(world.dev)
    assert world.dev.show(NETUID) == before


def test_registering_twice_keeps_the_seat(world):
    assert world.register("miner") == [1]
    assert world.register("miner", "other", "miner") == [1, 2, 1]
