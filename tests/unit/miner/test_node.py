import asyncio
import contextlib
import os
import signal

import httpx
import pytest
from bittensor.sp_core import Keypair
from miner_parts import HIDDEN, MINER, TIER, VALIDATOR, FakeChain, peer, roster

from neural_condense_core.chain.base import Outcome
from neural_condense_core.config import MinerSettings
from neural_condense_core.errors import ChainUnavailable, ConfigError
from neural_condense_core.miner import node
from neural_condense_core.miner.checks import Prepared
from neural_condense_core.miner.endpoint import Endpoint
from neural_condense_core.miner.node import MinerNode, main
from neural_condense_core.miner.probe import Fit
from neural_condense_core.wire.listening import bind

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(node, "DEV_REFRESH_S", 0.02)
    monkeypatch.setattr(node, "DEV_PUBLISH_RETRY_S", 0.05)


@contextlib.contextmanager
def prepared(tmp_path, key):
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        settings = MinerSettings(
            netuid=52, network="dev", tier="my-tier", axon_port=port, state_dir=tmp_path
        )
        endpoint, fit = Endpoint("127.0.0.1", port), Fit(HIDDEN, 0.1)
        yield Prepared(settings, TIER, None, key, fit, endpoint, listener)


async def until(condition):
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - the node under test has no event for it
            await asyncio.sleep(0.01)


def run_node(tmp_path, chain, test, *, key=MINER, before=lambda ready: None):
    """Run a node, let a test look at it, and stop it as a supervisor does."""
    with prepared(tmp_path, key) as ready:
        before(ready)

        async def connect(network, netuid, wallet):
            assert (network, netuid) == ("dev", 52)
            return chain

        async def run():
            made = MinerNode(ready, connect)
            running = asyncio.create_task(made.run())
            try:
                if test is not None:
                    await test(made)
                    os.kill(os.getpid(), signal.SIGTERM)
                async with asyncio.timeout(WAIT_S):
                    await running
            finally:
                running.cancel()

        asyncio.run(run())


async def ask_ready(made):
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(f"http://{made.prepared.endpoint}/health/ready")


def holding(endpoint):
    return roster(peer(0, MINER, endpoint=str(endpoint)), peer(1, VALIDATOR))


def test_it_serves_publishes_once_and_stops_with_its_signal(tmp_path):
    chain = FakeChain()

    async def test(made):
        await until(lambda: chain.published)
        assert (await ask_ready(made)).json() == {"state": "ready", "workers": 1}
        before = chain.reads
        await until(lambda: chain.reads > before + 5)

    run_node(tmp_path, chain, test)
    assert len(chain.published) == 1
    assert chain.is_closed
    assert list(tmp_path.rglob("requests.sqlite"))


def test_it_does_not_publish_what_the_chain_holds(tmp_path):
    chain = FakeChain()

    def set_up(ready):
        chain.now = holding(ready.endpoint)

    async def test(made):
        await until(lambda: chain.reads > 5)

    run_node(tmp_path, chain, test, before=set_up)
    assert chain.published == []


def test_it_publishes_again_when_the_chain_holds_something_else(tmp_path, caplog):
    chain = FakeChain(roster(peer(0, MINER, endpoint="127.0.0.1:1")))
    chain.outcome = Outcome(False, "rate_limited", "50 blocks to wait")

    async def test(made):
        await until(lambda: len(chain.published) > 2)

    run_node(tmp_path, chain, test)
    assert "50 blocks to wait (rate_limited); next try" in caplog.text


def test_an_outage_of_the_chain_is_survived(tmp_path, caplog):
    chain = FakeChain()

    async def test(made):
        await until(lambda: chain.published)
        for failure in (ChainUnavailable("away"), ValueError("a surprise"), TimeoutError()):
            chain.failure, before = failure, chain.reads
            await until(lambda before=before: chain.reads > before + 2)
            assert (await ask_ready(made)).status_code == 200
            made.access.admit(VALIDATOR.ss58_address)
        chain.failure = None
        chain.now = roster(peer(0, MINER))
        await until(lambda: made.access.roster is chain.now)

    run_node(tmp_path, chain, test)
    assert "could not read the subnet: away; serving goes on" in caplog.text
    assert "a surprise" not in caplog.text


def test_losing_the_place_on_the_subnet_is_said_once(tmp_path, caplog):
    chain = FakeChain()

    async def test(made):
        await until(lambda: chain.published)
        chain.now = roster(peer(1, VALIDATOR))
        await until(lambda: made.access.roster is chain.now)
        before = chain.reads
        await until(lambda: chain.reads > before + 5)

    run_node(tmp_path, chain, test)
    assert caplog.text.count("has lost its place") == 1
    assert "condense register --netuid 52" in caplog.text


def test_trap_33_a_chain_that_hangs_at_the_start_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "START_TIMEOUT_S", 0.1)

    class Hanging(FakeChain):
        async def roster(self):
            await asyncio.sleep(60)

    with pytest.raises(ChainUnavailable, match="did not answer within") as caught:
        run_node(tmp_path, Hanging(), None)
    assert caught.value.exit_code == 3


def test_trap_33_a_chain_that_hangs_later_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "CHAIN_CALL_TIMEOUT_S", 0.05)
    chain = FakeChain()

    async def hang():
        chain.reads += 1
        await asyncio.sleep(60)

    async def test(made):
        await until(lambda: chain.published)
        chain.roster = hang
        before = chain.reads
        await until(lambda: chain.reads > before + 2)
        assert (await ask_ready(made)).status_code == 200

    run_node(tmp_path, chain, test)


def test_an_unregistered_hotkey_is_told_the_command(tmp_path):
    with pytest.raises(ConfigError, match="condense register --netuid 52") as caught:
        run_node(tmp_path, FakeChain(), None, key=Keypair.create_from_uri("//Nobody"))
    assert caught.value.exit_code == 2


def test_no_such_subnet(tmp_path):
    chain = FakeChain()

    async def nothing():
        return None

    chain.roster = nothing
    with pytest.raises(ConfigError, match="no subnet 52"):
        run_node(tmp_path, chain, None)


def test_a_wrong_command_line_is_exit_2_without_a_traceback(capsys):
    assert main(["--netuid", "52", "--miner.teir", "x"], {}) == 2
    shown = capsys.readouterr().err
    assert shown == "error: unknown flag --miner.teir; did you mean '--miner.tier'?\n"


def test_local_faults_are_exit_2_and_no_chain_is_contacted(tmp_path, capsys, monkeypatch):
    async def contact(*args):
        raise AssertionError("the chain was contacted")

    monkeypatch.setattr(node, "open_chain", contact)
    argv = ["--netuid", "52", "--miner.backend_port", "9", "--wallet.path", str(tmp_path)]
    assert main(argv, {"CONDENSE_CHAIN_OVERRIDE": "dev"}) == 2
    shown = capsys.readouterr().err
    assert "error: this miner cannot start" in shown
    assert "Traceback" not in shown
