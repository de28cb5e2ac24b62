"""The adapter: what is tried again, what never is, and what the nodes are told."""

from __future__ import annotations

import asyncio
import time

import bittensor as bt
import pytest
from bittensor._transport.errors import StorageFunctionNotFound
from dev_world import NETUID, QUICK, DevWorld, wallet
from stub_client import Script, StubChain, included, refused, signed_then

from neural_condense_core.chain.base import Outcome
from neural_condense_core.chain.sdk import SdkChain
from neural_condense_core.errors import ChainUnavailable

GONE = bt.RpcConnectionError("connection lost")
HANG = Script.HANG


def over(stub: StubChain, keys: object = "miner", label: str = "stub") -> SdkChain:
    return SdkChain(
        stub.make_client,
        NETUID,
        wallet(keys) if isinstance(keys, str) else keys,
        label=label,
        deadlines=QUICK,
    )


def run(stub: StubChain, call, **options):
    async def go():
        chain = over(stub, **options)
        try:
            return await call(chain)
        finally:
            await chain.close()

    return asyncio.run(go())


# Reads


def test_a_read_that_fails_twice_is_answered_over_a_third_connection():
    stub = StubChain(block=Script(GONE, TimeoutError(), 7))
    assert run(stub, lambda chain: chain.block()) == 7
    assert stub.clients == 3
    assert stub.close.calls == 3, "no connection is left behind"


def test_a_read_gives_up_with_what_was_said():
    stub = StubChain(block=Script(GONE))
    with pytest.raises(ChainUnavailable, match="'stub' does not answer: connection lost"):
        run(stub, lambda chain: chain.block())
    assert stub.block.calls == QUICK.attempts


@pytest.mark.parametrize("where", ["connect", "block"])
def test_a_chain_that_hangs_is_left_at_the_deadline(where):
    stub = StubChain(**{where: Script(HANG)})
    began = time.monotonic()
    with pytest.raises(ChainUnavailable):
        run(stub, lambda chain: chain.block())
    assert time.monotonic() - began < QUICK.read_s + 2 * QUICK.close_s


def test_a_connection_that_will_not_close_is_left_as_well():
    stub = StubChain(block=Script(GONE, 7), close=Script(HANG))
    began = time.monotonic()
    assert run(stub, lambda chain: chain.block()) == 7
    assert time.monotonic() - began < 4 * QUICK.close_s


def test_an_error_of_the_sdk_s_transport_does_not_get_through():
    stub = StubChain(block=Script(StorageFunctionNotFound("no such item")))
    with pytest.raises(ChainUnavailable, match="no such item"):
        run(stub, lambda chain: chain.block())


def test_calls_share_a_connection():
    stub = StubChain()

    async def several(chain):
        return await asyncio.gather(*(chain.block() for _ in range(8)))

    assert run(stub, several) == [100] * 8
    assert stub.clients == 1


def test_cancelling_a_read_is_not_swallowed():
    stub = StubChain(block=Script(HANG))

    async def cancelled(chain):
        reading = asyncio.create_task(chain.block())
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    run(stub, cancelled)


# Writes


async def register(chain):
    return await chain.register()


def test_a_write_that_was_not_signed_is_tried_again():
    stub = StubChain(uid=Script(None), execute=Script(GONE, signed_then(included(101))))
    assert run(stub, register) == Outcome(True, "ok", "Success", 101)
    assert stub.execute.calls == 2


def test_a_write_that_was_never_signed_was_not_sent():
    stub = StubChain(uid=Script(None), execute=Script(GONE))
    outcome = run(stub, register)
    assert (outcome.ok, outcome.code) == (False, "chain_unavailable")
    assert "nothing was sent" in outcome.message
    assert stub.execute.calls == QUICK.attempts


@pytest.mark.parametrize(
    "end", [GONE, TimeoutError(), RuntimeError("?"), bt.ChainError("lost"), refused(None)]
)
def test_a_write_that_was_signed_is_never_sent_again_blindly(end):
    stub = StubChain(uid=Script(None), execute=Script(signed_then(end)))
    outcome = run(stub, register)
    assert (outcome.ok, outcome.code) == (False, "unknown")
    assert "read the chain" in outcome.message
    assert stub.execute.calls == 1


def test_a_write_that_hangs_after_signing_is_looked_up_on_the_chain():
    stub = StubChain(uid=Script(None, None, 5), execute=Script(signed_then(HANG)))
    began = time.monotonic()
    outcome = run(stub, register)
    assert (outcome.ok, outcome.code) == (True, "ok")
    assert stub.execute.calls == 1
    assert time.monotonic() - began < QUICK.write_s + QUICK.settle_s + 1


def test_a_write_that_hangs_before_signing_was_not_sent():
    stub = StubChain(uid=Script(None), execute=Script(HANG))
    assert run(stub, register).code == "chain_unavailable"


@pytest.mark.parametrize(
    "name", ["BadProof", "AncientBirthBlock", "Stale", "Future", "PriorityTooLow", "Usurped"]
)
def test_what_the_pool_refuses_is_signed_anew(name):
    stub = StubChain(
        uid=Script(None),
        execute=Script(signed_then(refused(name)), signed_then(included(102))),
    )
    assert run(stub, register).block == 102
    assert stub.execute.calls == 2


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("NotEnoughBalanceToStake", "insufficient_balance"),
        ("SubNetRegistrationDisabled", "disabled"),
        ("SubnetNotExists", "subnet_not_exists"),
    ],
)
def test_what_the_chain_refuses_is_final(name, code):
    stub = StubChain(uid=Script(None), execute=Script(signed_then(refused(name, block=101))))
    outcome = run(stub, register)
    assert (outcome.ok, outcome.code, outcome.block) == (False, code, 101)
    assert outcome.message.startswith(f"{name}: ")
    assert stub.execute.calls == 1


def test_somebody_registered_the_hotkey_meanwhile():
    already = refused("HotKeyAlreadyRegisteredInSubNet", block=101)
    stub = StubChain(uid=Script(None, 4), execute=Script(signed_then(already)))
    assert run(stub, register).ok


@pytest.mark.parametrize("name", ["FinalityTimeout", "Retracted"])
def test_an_undecided_end_is_unknown(name):
    stub = StubChain(uid=Script(None), execute=Script(signed_then(refused(name))))
    assert run(stub, register).code == "unknown"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (bt.ChainError("wait", code=bt.ErrorCode.RATE_LIMITED), "rate_limited"),
        (bt.PolicyError(["over the cap"]), "policy_violation"),
        (bt.BittensorError("duplicate uids"), "invalid_argument"),
        (ValueError("no such address"), "invalid_argument"),
        (StorageFunctionNotFound("MevShield.NextKey"), "runtime_mismatch"),
        (RuntimeError("surprise"), "internal"),
        (FileNotFoundError("coldkey"), "wallet"),
    ],
)
def test_each_refusal_before_signing_has_its_code(error, code):
    stub = StubChain(uid=Script(None), execute=Script(error))
    outcome = run(stub, register, label="finney")
    assert (outcome.ok, outcome.code) == (False, code)
    assert stub.execute.calls == 1


@pytest.mark.parametrize("error", [StorageFunctionNotFound("x"), bt.ChainError("no NextKey yet")])
def test_registering_in_the_clear_is_for_nodes_of_one_s_own(error):
    stub = StubChain(
        uid=Script(None), execute=Script(error), submit_call=Script(signed_then(included(103)))
    )
    assert run(stub, register, label="ws://127.0.0.1:9944").block == 103
    for public in ("finney", "test"):
        assert not run(stub, register, label=public).ok
    assert stub.submit_call.calls == 1


def test_one_write_at_a_time_per_key():
    running = []

    async def slow(intent, signer, **options):
        running.append("in")
        await asyncio.sleep(0.05)
        running.append("out")
        return included()

    stub = StubChain(execute=Script(slow))

    async def twice(chain):
        return await asyncio.gather(*(chain.publish("192.0.2.1", port) for port in (1, 2)))

    assert all(outcome.ok for outcome in run(stub, twice))
    assert running == ["in", "out", "in", "out"]


def test_a_failed_read_does_not_cut_a_write_off():
    async def slow(intent, signer, **options):
        signer.sign(b"payload")
        await asyncio.sleep(0.2)
        assert stub.close.calls == 0, "the write's connection is still open"
        return included()

    stub = StubChain(uid=Script(None), block=Script(100, GONE, 100), execute=Script(slow))

    async def both(chain):
        writing = asyncio.create_task(chain.register())
        await asyncio.sleep(0.05)
        await chain.block()
        return await writing

    assert run(stub, both).ok
    assert stub.clients == 2


def test_a_chain_out_of_reach_is_an_outcome_of_a_write_not_an_exception():
    stub = StubChain(block=Script(GONE), uid=Script(GONE))

    async def all_writes(chain):
        return [
            await chain.register(),
            await chain.publish("192.0.2.1", 1),
            await chain.submit_weights({1: 1.0}, 0),
        ]

    for outcome in run(stub, all_writes):
        assert (outcome.ok, outcome.code) == (False, "chain_unavailable")
        assert "not" in outcome.message


# Wallets


def test_a_miner_without_its_coldkey_serves_and_cannot_register(tmp_path):
    world = DevWorld(tmp_path)
    keys = bt.Wallet("miner", "default", path=str(tmp_path / "wallets"))
    keys.create_new_hotkey(suppress=True)
    world.dev.register(NETUID, keys.hotkey.ss58_address, wallet("elsewhere").coldkey.ss58_address)

    async def go():
        chain = SdkChain(world.client, NETUID, keys, label="dev", deadlines=QUICK)
        published = await chain.publish("192.0.2.1", 8091)
        assert published.ok, published
        assert (await chain.register()).ok, "it is registered: nothing to sign"
        await chain.close()
        stranger = bt.Wallet("stranger", "default", path=str(tmp_path / "wallets"))
        stranger.create_new_hotkey(suppress=True)
        chain = SdkChain(world.client, NETUID, stranger, label="dev", deadlines=QUICK)
        refused_here = await chain.register()
        assert (refused_here.ok, refused_here.code) == (False, "wallet"), refused_here
        await chain.close()

    asyncio.run(go())


def test_a_wallet_without_keys_is_said(tmp_path):
    keys = bt.Wallet("nobody", "default", path=str(tmp_path))
    outcome = run(StubChain(), lambda chain: chain.publish("192.0.2.1", 1), keys=keys)
    assert (outcome.ok, outcome.code) == (False, "wallet")
