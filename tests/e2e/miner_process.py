"""A miner node as a process, on a development chain of its own, for its end-to-end tests."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
from bittensor.sp_core import Keypair

from neural_condense_core.chain.devchain.admin import DevChain, make_chain

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 90.0
NETUID = 52
SPECIFIED = (
    "-m neurons.miner --netuid 52 --subtensor.network finney --wallet.name my_wallet "
    "--wallet.key my_key --miner.tier my-tier --miner.backend_host localhost "
    "--miner.backend_port {port}"
)
TIERS = """
[tiers.my-tier]
incentive_share = 0.0
requests_per_epoch = 1000
timeout_s = 20.0
max_condensed_tokens = 32
max_context_chars = 400
target_model = "{model}"
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_free(port):
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def seat(folder, *, miner, validator, stake=1000.0):
    """Make a development chain where a miner is registered and a validator has its permit."""
    owner, cold = (Keypair.create_from_uri(f"//{name}").ss58_address for name in ("Own", "Cold"))
    path = folder / "devchain.sqlite"
    make_chain(path, NETUID, owner, cold)
    chain = DevChain(path)
    chain.register(NETUID, validator, cold)
    chain.set_stake(NETUID, validator, stake)
    if miner is not None:
        chain.register(NETUID, miner, cold)
    chain.advance(50)
    return chain


class Miner:
    """The process; ends with the block it is made for."""

    def __init__(self, folder, backend_port, *, line=SPECIFIED, **environ):
        self.port = free_port()
        words = line.format(port=backend_port).split()
        self.process = subprocess.Popen(
            [sys.executable, *words],
            env={
                **os.environ,
                "HOME": str(folder),
                "XDG_DATA_HOME": str(folder / "data"),
                "PYTHONPATH": str(ROOT),
                "CONDENSE_CHAIN_OVERRIDE": "dev",
                "CONDENSE_DEV_CHAIN": str(folder / "devchain.sqlite"),
                "CONDENSE_TIERS": str(folder / "tiers.toml"),
                "CONDENSE_AXON_PORT": str(self.port),
                **environ,
            },
            cwd=folder,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.ended()
        self.process.stderr.close()

    def _read(self):
        self.lines.extend(self.process.stderr)

    @property
    def log(self):
        return "".join(self.lines)

    def until(self, condition, what):
        give_up_s = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < give_up_s, f"waited too long for {what}:\n{self.log}"
            time.sleep(0.05)
        return found

    def serving(self):
        """Wait until it takes requests."""
        self.until(self._is_ready, "readiness")
        return self

    def _is_ready(self):
        assert self.process.poll() is None, self.log
        with contextlib.suppress(httpx.HTTPError):
            url = f"{self.url}/health/ready"
            return httpx.get(url, trust_env=False, timeout=5).status_code == 200
        return False

    def says(self, pattern):
        return self.until(lambda: re.search(pattern, self.log), pattern)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self):
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code
