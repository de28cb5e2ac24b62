"""A real Ray cluster of two nodes on this machine, one of which can be killed."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 120.0
STORE_BYTES = str(80 << 20)


class Node:
    """A node's processes, in a session of their own."""

    def __init__(self, log, environment, *args):
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
                    "--disable-usage-stats", f"--object-store-memory={STORE_BYTES}", *args,
                ],
                env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def until_started(self):
        give_up_s = time.monotonic() + WAIT_S
        while "Ray runtime started" not in (text := self.log.read_text()):
            assert self.process.poll() is None, text
            assert time.monotonic() < give_up_s, text
            time.sleep(0.2)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)


class Cluster:
    """A head and another node, with two CPUs in all."""

    def __init__(self, folder, port):
        self.folder = folder
        # Not in the test's own folder: sockets have short paths only.
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self.address = f"127.0.0.1:{port}"
        self.loaded = folder / "loaded"
        self.loaded.mkdir()
        self.environment = {**environment(), "LOADED_FOLDER": str(self.loaded)}
        self.nodes = []
        self.head = self._node("head.log", "--head", f"--port={port}", "--include-dashboard=false")
        self.other = self._node("other.log", f"--address={self.address}")

    def _node(self, log, *args):
        temporary = ["--temp-dir", self._temporary.name] if "--head" in args else []
        node = Node(self.folder / log, self.environment, "--num-cpus=1", *args, *temporary)
        self.nodes.append(node)
        node.until_started()
        return node

    def n_loaded(self):
        """Return in how many processes a condenser was ever loaded."""
        return len(list(self.loaded.iterdir()))

    def close(self):
        for node in reversed(self.nodes):
            node.kill()
        self._temporary.cleanup()


def environment():
    # Loopback and no secrets: the token that guards a real cluster would only be in the way.
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
    }


def condense(*args, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "neural_condense_core.cli", *args],
        env=environment(), text=True, **kwargs,
    )  # fmt: skip
