"""The SDK over the development chain: what it can ask, and several processes at once."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from pathlib import Path

import bittensor as bt
import pytest
from bittensor._substrate import Substrate
from dev_world import NETUID, coldkey, hotkey, wallet

from neural_condense_core.chain.devchain.admin import DevChain, make_chain
from neural_condense_core.chain.devchain.calls import compose
from neural_condense_core.chain.devchain.substrate import DevSubstrate


def ask(world, question):
    async def go():
        async with world.client() as client:
            return await question(client)

    return asyncio.run(go())


def test_it_has_all_of_the_sdk_s_protocol():
    wanted = {name for name in vars(Substrate) if not name.startswith("_")}
    assert "query_map" in wanted
    assert wanted <= {name for name in dir(DevSubstrate) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (lambda c: c.subnets.burn(NETUID), bt.Balance.from_tao(0.1)),
        (lambda c: c.neurons.uid(hotkey("miner"), NETUID), 1),
        (lambda c: c.neurons.uid(hotkey("nobody"), NETUID), None),
        (lambda c: c.neurons.netuids_for_hotkey(hotkey("miner")), [NETUID]),
        (lambda c: c.neurons.hotkey_owner(hotkey("miner")), coldkey("miner")),
        (lambda c: c.block_time(), 1.0),
        (lambda c: c.spec_version(), 1),
        (lambda c: c.finalized_block(), 1),
        (lambda c: c.weights.bonds(NETUID), {}),
        (lambda c: c.epochs.next_epoch_start_block(NETUID), 21),
        (lambda c: c.epochs.blocks_until_next_epoch(NETUID), 20),
        (lambda c: c.epochs.blocks_since_last_update(NETUID, 1), 0),
        (lambda c: c.hyperparameters.weights_rate_limit(netuid=NETUID), 5),
    ],
)
def test_the_sdk_s_reads_are_answered(world, question, answer):
    world.register("miner")
    assert ask(world, question) == answer


def test_the_sdk_s_compound_reads_are_answered(world):
    world.register("miner")
    assert ask(world, lambda c: c.subnets.subnets())[0].neuron_count == 2
    assert ask(world, lambda c: c.subnets.subnet_hyperparameters(NETUID))["tempo"] == 20
    assert ask(world, lambda c: c.epochs.epoch_status(NETUID))["next_epoch_start_block"] == 21
    assert ask(world, lambda c: c.timestamp()).timestamp() == world.clock.now + 1
    assert ask(world, lambda c: c.block_info()).number == 1
    batch = ask(
        world, lambda c: c.query_batch(("SubtensorModule", "Tempo"), [[NETUID], [NETUID + 1]])
    )
    assert batch == [20, None]


def test_a_plan_costs_nothing_and_changes_nothing(world):
    world.register("miner")
    plan = ask(
        world,
        lambda c: c.plan(bt.ServeAxon(netuid=NETUID, ip="127.0.0.1", port=8091), wallet("miner")),
    )
    assert plan.ok
    assert plan.fee.rao == 0
    assert world.dev.show(NETUID).seats[1].endpoint is None


@pytest.mark.parametrize(
    "question",
    [
        lambda c: c.query(("SubtensorModule", "NoSuchItem"), [NETUID]),
        lambda c: c.query_map(("SubtensorModule", "NoSuchMap")),
        lambda c: c.runtime(("NoSuchApi", "method"), []),
        lambda c: c.constant(("NoSuch", "Constant")),
        lambda c: c.decode_scale("u8", "0x00"),
        lambda c: c.prepare_call(
            bt.calls.SubtensorModule.burned_register(netuid=NETUID, hotkey="5"),
            address=coldkey("miner"),
        ),
    ],
)
def test_what_is_not_kept_is_said(world, question):
    with pytest.raises(bt.ChainError, match="does not keep"):
        ask(world, question)


def test_a_signature_must_be_the_account_s(world):
    world.register("miner")

    class Forger:
        ss58_address = hotkey("miner")
        public_key = wallet("miner").hotkey.public_key
        crypto_type = 1

        def sign(self, payload):
            return wallet("thief").hotkey.sign(payload)

    result = ask(
        world,
        lambda c: c.execute(bt.ServeAxon(netuid=NETUID, ip="127.0.0.1", port=1), Forger()),
    )
    assert not result.success
    assert result.error.name == "BadProof"
    assert world.dev.show(NETUID).seats[1].endpoint is None


def test_a_signer_may_take_its_time(world):
    world.register("miner")

    class Remote:
        ss58_address = hotkey("miner")
        public_key = wallet("miner").hotkey.public_key
        crypto_type = 1

        async def sign(self, payload):
            await asyncio.sleep(0)
            return wallet("miner").hotkey.sign(payload)

    assert ask(
        world,
        lambda c: c.execute(bt.ServeAxon(netuid=NETUID, ip="127.0.0.1", port=1), Remote()),
    ).success


def test_a_nonce_is_used_once(world):
    world.register("miner")
    call = compose("SubtensorModule", "serve_axon", {
        **{"netuid": NETUID, "version": 1, "ip": 1, "port": 1, "ip_type": 4, "protocol": 4},
        **{"placeholder1": 0, "placeholder2": 0},
    })  # fmt: skip

    async def go():
        substrate = world.substrate()
        try:
            return [
                (await substrate.submit(call, wallet("miner").hotkey, nonce=nonce))
                for nonce in (0, 0, 5, 1)
            ]
        finally:
            await substrate.close()

    first, again, ahead, second = asyncio.run(go())
    assert (first.success, second.success) == (True, True)
    assert (again.error.name, ahead.error.name) == ("Stale", "Future")
    assert first.extrinsic_id == "1-0000"


@pytest.mark.parametrize(
    ("name", "value"),
    [("netuid", 65536), ("port", -1), ("ip_type", 256), ("dests", [1, 70000]), ("ip", 1 << 128)],
)
def test_numbers_must_fit_the_chain_s_encoding(name, value):
    with pytest.raises(ValueError, match=name):
        compose("SubtensorModule", "f", {name: value})


def test_waiting_for_blocks_and_epochs(world):
    async def go():
        async with world.client() as client:
            waiting = [
                asyncio.create_task(client.wait_for_block(5, timeout=5)),
                asyncio.create_task(client.wait_for_epoch(NETUID, timeout=5)),
            ]
            await asyncio.sleep(0.05)
            world.clock.now += 25
            return await asyncio.gather(*waiting)

    header, epoch = asyncio.run(go())
    assert header.number >= 5
    assert (epoch.previous, epoch.block) == (1, 21)


NODE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from dev_world import NETUID, wallet
import bittensor as bt
from neural_condense_core.chain.devchain.substrate import DevSubstrate
from neural_condense_core.chain.sdk import SdkChain

async def node(name):
    chain = SdkChain(
        lambda: bt.Client("ws://devchain", substrate=DevSubstrate(sys.argv[2])),
        NETUID, wallet(name), label="dev",
    )
    for step in (chain.register(), chain.publish("127.0.0.1", 8091)):
        outcome = await step
        assert outcome.ok, outcome
    await chain.close()

async def main():
    for name in sys.argv[3].split():
        await node(name)

asyncio.run(main())
"""


@pytest.mark.timeout(120)
def test_several_processes_share_a_chain_whose_epochs_run_meanwhile(world):
    names = [[f"node{process}-{i}" for i in range(3)] for process in range(3)]
    make_chain(
        world.path, NETUID, hotkey("owner"), coldkey("owner"), block_time_s=0.005, replace=True
    )
    dev = DevChain(world.path)
    for name in itertools.chain(*names):
        dev.fund(coldkey(name), 1)
    tests = str(Path(__file__).parents[3])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", NODE, tests, str(world.path), " ".join(mine)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for mine in names
    ]
    errors = [process.communicate(timeout=90)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], errors
    found = dev.show(NETUID)
    dev.close()
    assert [seat.uid for seat in found.seats] == list(range(10))
    assert len({seat.hotkey for seat in found.seats}) == 10
    assert all(seat.endpoint == "127.0.0.1:8091" for seat in found.seats[1:])
    assert found.epochs >= 3
