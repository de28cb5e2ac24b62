"""The command lines that pm2 is given, run by the real pm2 (``make test-pm2``).

What they start is real too: the shipped ``icae``, a miner node and a development chain; the full
set runs on a tiny model.
"""

import os
import random
import shutil
import signal

import httpx
import pytest
from miner_parts import PATH, VALIDATOR, asked, signed, write_wallet
from miner_process import NETUID, SPECIFIED, TIERS, free_port, is_free, seat
from pm2_daemon import PM2, Pm2, is_ready

from neural_condense_core.chain.connect import OVERRIDE_ENV
from neural_condense_core.condensers.checkpoints import DEFAULT_TARGET_MODEL
from neural_condense_core.demo.plan import SubnetPlan, parse_miners
from neural_condense_core.demo.processes import free_port as free_port_from
from neural_condense_core.demo.world import HOTKEY, World
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PM2, reason="no pm2; 'make test-pm2' installs one and runs this"),
]

BACKEND = (
    "python services/miner_backend/serving/icae_app.py --port {port} --devices 1 "
    "--workers_per_device 1"
)
TEXT = "The hare ran past the tortoise and slept under a tree. The tortoise won the race. " * 4
FULL_SET = "deploy/ecosystem.all.config.js"


class Receiver:
    """What ``signed`` needs to know of a miner."""

    def __init__(self, hotkey):
        self.ss58_address = hotkey


def port_for(wanted):
    return wanted if is_free(wanted) else free_port()


@pytest.fixture
def hotkey(tmp_path):
    (tmp_path / "tiers.toml").write_text(TIERS.format(model=DEFAULT_TARGET_MODEL))
    return write_wallet(tmp_path / ".bittensor" / "wallets")


@pytest.fixture
def chain(tmp_path, hotkey):
    made = seat(tmp_path, miner=hotkey, validator=VALIDATOR.ss58_address)
    yield made
    made.close()


@pytest.fixture
def axon_port():
    return free_port()


@pytest.fixture
def pm2(tmp_path, chain, axon_port, embedded_cache):
    with Pm2(
        HOME=str(tmp_path),
        XDG_DATA_HOME=str(tmp_path / "data"),
        CONDENSE_CHAIN_OVERRIDE="dev",
        CONDENSE_DEV_CHAIN=str(tmp_path / "devchain.sqlite"),
        CONDENSE_TIERS=str(tmp_path / "tiers.toml"),
        CONDENSE_AXON_PORT=str(axon_port),
    ) as daemon:
        yield daemon


def ask(url, hotkey):
    body = asked(TEXT, tier="my-tier", target_model=DEFAULT_TARGET_MODEL)
    headers = signed(body, key=VALIDATOR, receiver=Receiver(hotkey))
    return httpx.post(url + PATH, content=body, headers=headers, trust_env=False, timeout=60)


def test_both_lines_of_the_specification(pm2, hotkey, axon_port):
    port = port_for(8080)
    backend, miner = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{axon_port}"
    pm2.run("start", "--name", "condense_backend", BACKEND.format(port=port))
    words = SPECIFIED.format(port=port).split()
    pm2.run("start", "--name", "condense_miner", "--", "python", *words)

    # The second line reads the root's ecosystem file: no third process.
    apps = pm2.apps()
    assert sorted(apps) == ["condense_backend", "condense_miner"]
    # The active environment's python, with exactly the words that follow the dashes.
    assert apps["condense_miner"]["pm2_env"]["pm_exec_path"] == shutil.which(
        "python", path=pm2.environ["PATH"]
    )
    assert apps["condense_miner"]["pm2_env"]["args"] == words
    pm2.ready(miner)
    assert {each["pm2_env"]["restart_time"] for each in pm2.apps().values()} == {0}
    assert "ready after" in pm2.log("condense_backend")
    shown = pm2.run("logs", "condense_backend", "--nostream", "--lines", 50)
    assert "condense-backend-error.log" in shown

    reply = ask(miner, hotkey)
    assert reply.status_code == 200, reply.text
    tokens = from_safetensors(reply.content, Limits(10**7, 32, 576))
    assert 1 <= len(tokens.embeds) <= 32

    first = pm2.apps()["condense_miner"]["pid"]
    pm2.run("restart", "condense_miner")
    assert pm2.apps()["condense_miner"]["pid"] != first
    pm2.ready(miner)
    second = pm2.apps()["condense_miner"]["pid"]
    os.kill(second, signal.SIGKILL)
    pm2.until(lambda: pm2.apps()["condense_miner"]["pid"] not in (0, second), "a new process")
    pm2.ready(miner)
    assert ask(miner, hotkey).status_code == 200

    pm2.run("stop", "condense_miner", "condense_backend")
    assert {each["pm2_env"]["status"] for each in pm2.apps().values()} == {"stopped"}
    pm2.until(lambda: not pm2.alive(), "all processes to end")
    for name in ("condense_miner", "condense_backend"):
        assert "stopping: no new requests" in pm2.log(name)
    assert not is_ready(backend)
    assert not is_ready(miner)


def test_a_bare_start_runs_the_node_which_says_what_is_missing(pm2):
    pm2.run("start")
    assert list(pm2.apps()) == ["condense_miner"]
    pm2.until(lambda: "netuid" in pm2.log("condense_miner"), "the node's complaint")
    # Told once, then tried again ever more slowly, not in a loop.
    pm2.until(lambda: pm2.status("condense_miner") == "waiting restart", "a pause")
    assert pm2.apps()["condense_miner"]["pm2_env"]["restart_time"] <= 3


def test_a_name_of_ones_own(pm2):
    pm2.run("start", "--name", "mine", "--", "python", "-c", "import time; time.sleep(600)")
    assert [(name, pm2.status(name)) for name in pm2.apps()] == [("mine", "online")]


@pytest.fixture
def world(tmp_path, tiny_llama):
    plan = SubnetPlan(parse_miners(["research=truncate-head"]), target_model=tiny_llama, n_rounds=1)
    made = World(tmp_path / "world", plan)
    made.make([])
    return made


def full_set(world, ports):
    (miner,) = world.plan.miners
    target = f"--target_model {world.plan.target_model}"
    return world.environment(threads=1) | {
        OVERRIDE_ENV: "dev",
        "CONDENSE_NETUID": str(NETUID),
        "CONDENSE_BACKEND_ARGS": (
            f"--condenser {miner.condenser} --port {ports['backend']} --devices 1 {target}"
        ),
        "CONDENSE_MINER_ARGS": (
            f"--wallet.name {miner.name} --wallet.hotkey {HOTKEY} --miner.tier {miner.tier} "
            f"--miner.backend_port {ports['backend']} --axon.port {ports['miner']}"
        ),
        "CONDENSE_SCORING_ARGS": f"--port {ports['scoring']} --baselines none --threads 1 {target}",
        "CONDENSE_VALIDATOR_ARGS": (
            f"--wallet.name validator --wallet.hotkey {HOTKEY} "
            f"--validator.score_backend.port {ports['scoring']} "
            f"--validator.gate_port {ports['validator']} --validator.ask_interval 0 "
            "--validator.ask_gap 0"
        ),
        "CONDENSE_GATEWAY_ARGS": (
            f"--port {ports['gateway']} --target {world.plan.target_model} "
            f"--condense_with backend=http://127.0.0.1:{ports['backend']}"
        ),
    }


def test_the_full_set_plays_a_round_on_a_development_chain(world):
    names = ("backend", "miner", "scoring", "validator", "gateway")
    ports, last = {}, random.randrange(10_000, 30_000)
    for name in names:
        last = free_port_from(last + 1)
        ports[name] = last
    with Pm2(**full_set(world, ports)) as pm2:
        pm2.run("start", FULL_SET)
        assert sorted(pm2.apps()) == sorted(f"condense_{name}" for name in names)
        for name in names:
            pm2.ready(f"http://127.0.0.1:{ports[name]}")
        pm2.until(lambda: "miners, " in pm2.log("condense_validator"), "a round")
        statuses = {name: each["pm2_env"]["status"] for name, each in pm2.apps().items()}
        assert set(statuses.values()) == {"online"}, statuses
        pm2.run("stop", "all")
        pm2.until(lambda: not pm2.alive(), "all processes to end")
        assert pm2.apps()["condense_validator"]["pm2_env"]["status"] == "stopped"
