"""A small subnet of processes around a validator: dev chain, echo miners, fake judge."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from subnet_fakes import pair  # noqa: E402

from neural_condense_core.chain.connect import open_chain  # noqa: E402
from neural_condense_core.chain.devchain.admin import DevChain, make_chain  # noqa: E402
from neural_condense_core.chain.devchain.ledger import SubnetRules  # noqa: E402
from neural_condense_core.chain.wallets import open_hotkey  # noqa: E402
from neural_condense_core.commands.wallet_flags import open_or_make_wallet  # noqa: E402
from neural_condense_core.errors import ConfigError  # noqa: E402
from neural_condense_core.records import FILE_NAME, Records  # noqa: E402

NETUID = 52
WAIT_S = 120.0
FAKES = str(ROOT / "tests" / "integration" / "subnet_fakes.py")


def until(condition, what, log=lambda: "", wait_s=WAIT_S):
    give_up_s = time.monotonic() + wait_s
    while not (found := condition()):
        assert time.monotonic() < give_up_s, f"waited too long for {what}:\n{log()}"
        time.sleep(0.05)
    return found


class Process:
    """A child process whose output goes to a file."""

    def __init__(self, words, environment, folder):
        self.words = words
        self.environment = environment
        self.output = Path(tempfile.mkstemp(dir=folder, suffix=".log")[1])
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *words], env=environment, stdout=output, stderr=output, cwd=ROOT
            )

    @property
    def log(self):
        return self.output.read_text()

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def port(self):
        until(lambda: "PORT" in self.log or self.process.poll() is not None, "a port", self.log)
        return int(self.log.split("PORT")[1].split()[0])


class Subnet:
    """The processes, the chain's file, the wallets and the validator's state of one test."""

    def __init__(self, folder, specs, tempo=20, block_time_s=0.2):
        self.folder = folder
        self.specs = specs
        self.chain_path = folder / "chain.sqlite"
        wallets = folder / "wallets"
        tiers = folder / "tiers.toml"
        # Tests play many rounds in one epoch.
        tiers.write_text("[tiers.research]\nrequests_per_epoch = 100000\n")
        self.environment = {
            **os.environ,
            "CONDENSE_TIERS": str(tiers),
            "PYTHONPATH": str(ROOT),
            "CONDENSE_DEV_CHAIN": str(self.chain_path),
            "CONDENSE_CHAIN_OVERRIDE": "dev",
            "CONDENSE_STATE_DIR": str(folder / "state"),
            "CONDENSE_VALIDATOR_ASK_INTERVAL": "0",
            "CONDENSE_VALIDATOR_ASK_GAP": "0",
            "BT_WALLET_PATH": str(wallets),
            "OMP_NUM_THREADS": "1",
        }
        self.children = []
        owner = pair("owner").ss58_address
        make_chain(
            self.chain_path, NETUID, owner, owner, rules=SubnetRules(tempo=tempo),
            block_time_s=block_time_s,
        )  # fmt: skip
        open_or_make_wallet("my_wallet", "my_key", wallets)
        self.hotkey = open_hotkey("my_wallet", "my_key", wallets)[1].ss58_address
        self.judge = self.start([FAKES, "judge", "0"])
        self.miners = self.start([FAKES, "miners", "0", json.dumps(specs)])
        with self.opened() as chain:
            chain.register(NETUID, self.hotkey, self.hotkey)
            chain.set_stake(NETUID, self.hotkey, 100_000.0)
            for name in specs:
                address = pair(name).ss58_address
                chain.register(NETUID, address, address)
            chain.advance(tempo)
        asyncio.run(self._publish(self.miners.port()))

    async def _publish(self, port):
        with_env = {"CONDENSE_DEV_CHAIN": str(self.chain_path)}
        os.environ.update(with_env)
        for name in self.specs:
            chain = await open_chain("dev", NETUID, pair(name))
            outcome = await chain.publish("127.0.0.1", port)
            await chain.close()
            assert outcome.ok, outcome

    @contextlib.contextmanager
    def opened(self):
        chain = DevChain(self.chain_path)
        try:
            yield chain
        finally:
            chain.close()

    def show(self):
        with self.opened() as chain:
            return chain.show(NETUID)

    def uid(self, name):
        address = pair(name).ss58_address
        return next(seat.uid for seat in self.show().seats if seat.hotkey == address)

    def start(self, words, **environment):
        child = Process(words, {**self.environment, **environment}, self.folder)
        self.children.append(child)
        return child

    def judge_port(self):
        return self.judge.port()

    def validator(self, *more, **environment):
        words = [
            "-m", "neurons.validator", "--netuid", str(NETUID), "--subtensor.network", "finney",
            "--wallet.name", "my_wallet", "--wallet.hotkey", "my_key",
            "--validator.score_backend.host", "localhost",
            "--validator.score_backend.port", str(self.judge_port()),
        ]  # fmt: skip
        return self.start([*words, *more], **environment)

    @property
    def state_folder(self):
        return self.folder / "state" / "dev" / f"netuid_{NETUID}" / self.hotkey

    def records(self):
        return Records(self.state_folder / FILE_NAME, read_only=True)

    def n_judged(self):
        try:
            records = self.records()
        except ConfigError:  # it has not begun
            return 0
        with records:
            return len([one for one in records.rounds(10_000) if one.status == "judged"])

    def weights(self):
        shown = self.show()
        me = next(seat.uid for seat in shown.seats if seat.hotkey == self.hotkey)
        return shown.weights.get(me, {})

    def close(self):
        for child in self.children:
            child.stop(signal.SIGKILL)
