"""Servers as processes: started, waited for, watched, ended with all their children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_S = 300.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Peers:
    """Where the peers are installed; None = they are left out."""

    python: Path | None = None

    def command(self, peer: str, kind: str, *flags: str) -> list[str]:
        """Return the words that start a peer; ``{port}`` stands for its port."""
        module = "peer_litserve" if peer == "litserve" else "peers"
        start = [str(self.python), "-m", f"benchmarks.serving.{module}"]
        return [*start, peer, "{port}", "--kind", kind, *flags]


class Server:
    """A server process in a session of its own."""

    def __init__(
        self, words: list[str], ready_path: str, environ: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.ready_path = ready_path
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self.began_s = time.perf_counter()
        self.process = subprocess.Popen(
            [word.format(port=self.port) for word in words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
            stdout=subprocess.DEVNULL,
            stderr=self.log,
            start_new_session=True,
        )

    def is_ready(self) -> bool:
        """Ask whether requests are taken."""
        url = f"http://127.0.0.1:{self.port}{self.ready_path}"
        with contextlib.suppress(OSError), _OPENER.open(url, timeout=5) as reply:
            return bool(reply.status == 200)
        return False

    def ready_workers(self) -> int:
        """Return how many workers our backend says are ready."""
        url = f"http://127.0.0.1:{self.port}{self.ready_path}"
        with contextlib.suppress(OSError), _OPENER.open(url, timeout=5) as reply:
            return int(json.load(reply)["workers"])
        return 0

    def wait_ready(self) -> float:
        """Wait for readiness; return the seconds from the start to it.

        Raises
        ------
        RuntimeError
            The process ended, or took longer than ``START_S``; the message holds its log's end.
        """
        while not self.is_ready():
            if self.process.poll() is not None or time.perf_counter() - self.began_s > START_S:
                raise RuntimeError(f"a server did not come up:\n{self.said()}")
            time.sleep(0.02)
        return time.perf_counter() - self.began_s

    def said(self) -> str:
        """Return the end of its log."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-3000:]

    def tree(self) -> list[int]:
        """Return the process and everything below it."""
        parents = _parents()
        found = [self.process.pid] if self.process.pid in parents else []
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def workers(self) -> list[int]:
        """Return the processes that hold a model."""
        return [
            pid for pid in self.tree() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def cpu_s(self) -> float:
        """Return the processor time of the tree so far."""
        return sum(map(_cpu_s, self.tree()))

    def end(self) -> None:
        """End it and whatever it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@contextlib.contextmanager
def running(
    words: list[str], ready_path: str, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server, ready, for as long as the block lasts."""
    server = Server(words, ready_path, environ)
    try:
        server.wait_ready()
        yield server
    finally:
        server.end()


def backend(
    condenser: str, *flags: str, environ: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[Server]:
    """Run our backend with a condenser of ``condensers.py``, or a shipped one."""
    name = condenser if condenser.islower() else f"benchmarks.serving.condensers:{condenser}"
    words = [sys.executable, "-m", "neural_condense_core.cli", "serve", "--condenser", name]
    quiet = ["--port", "{port}", "--logging_level", "warning"]
    return running([*words, *quiet, *flags], "/health/ready", environ)


def peer(
    peers: Peers, name: str, kind: str, *flags: str, environ: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[Server]:
    """Run a peer with a condenser of a kind."""
    return running(peers.command(name, kind, *flags), "/health", environ)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def living(pids: list[int]) -> list[int]:
    """Return those that still run."""
    parents = _parents()
    return [pid for pid in pids if pid in parents]


def _parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(stat.parent.name)] = int(parent)
    return found


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
