"""Backends and nodes as child processes: start, watch, stop all.

Design decisions

* Each backend leads a process group of its own: one signal reaches its workers too, and Ctrl-C in
  the terminal reaches only us, who then stop the others in order.
* An ended leader is not reaped before its group has been killed: until then nobody else can have
  its number.
* What a backend prints goes to a file, never to a pipe that nobody reads; its end is shown when
  the backend fails.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neural_condense_core.errors import ConfigError
from neural_condense_core.signals import held_signals

HOST = "127.0.0.1"
GRACE_S = 10.0
"""How long a backend may drain after SIGTERM before it is killed."""

LOG_TAIL_LINES = 12
PORT_FIELD = "{port}"


@dataclass(frozen=True)
class Backend:
    """How to start one backend.

    Parameters
    ----------
    name : of the condenser
    argv : command line; ``{port}`` in it stands for the port
    """

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Running:
    """A started backend.

    Parameters
    ----------
    backend : what was started
    port : where it listens
    process : leader of the process group
    log : file with what it prints
    """

    backend: Backend
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Where to reach it."""
        return f"http://{HOST}:{self.port}"

    def has_ended(self) -> bool:
        """Return whether the leader has ended; leaves it unreaped."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.process.pid, flags) is not None
        except ChildProcessError:  # reaped by a stop that was cut short
            return True

    def log_tail(self) -> str:
        """Return the last lines it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


def free_port(first: int, taken: Collection[int] = ()) -> int:
    """Return the first port from ``first`` on that nobody listens on.

    Parameters
    ----------
    first : port to begin with
    taken : ports that are promised to others

    Raises
    ------
    ConfigError
        No port up to 65535 is free.
    """
    for port in range(first, 65536):
        if port not in taken and is_free(port):
            return port
    raise ConfigError(f"no port from {first} to 65535 is free; give a lower --port")


def is_free(port: int) -> bool:
    """Return whether one can listen on a loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are only waiting to expire is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class BackendProcesses:
    """All backends of one demo.

    Parameters
    ----------
    cwd : working directory of the backends
    environment : variables to set for them, on top of our own
    logs : folder that keeps what they print, a file a name; None = kept only while they run
    """

    def __init__(
        self,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        logs: Path | None = None,
    ) -> None:
        self._cwd = cwd
        self._environment = {**os.environ, **(environment or {})}
        self._kept_logs = logs
        self._logs = tempfile.TemporaryDirectory(
            prefix="condense-demo-", ignore_cleanup_errors=True
        )
        self.running: list[Running] = []

    def start(self, backend: Backend, port: int) -> Running:
        """Start a backend.

        Raises
        ------
        ConfigError
            The command cannot be run.
        """
        argv = [part.replace(PORT_FIELD, str(port)) for part in backend.argv]
        log = self._log_of(backend.name)
        with held_signals(), log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._cwd,
                    env=self._environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise ConfigError(f"cannot run {argv[0]!r}: {error.strerror}") from error
            running = Running(backend, port, process, log)
            self.running.append(running)
        return running

    def _log_of(self, name: str) -> Path:
        if self._kept_logs is None:
            return Path(self._logs.name) / f"{len(self.running)}.log"
        self._kept_logs.mkdir(parents=True, exist_ok=True)
        return self._kept_logs / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.log"

    def stop(self, grace_s: float = GRACE_S) -> None:
        """End all backends and their workers; may be called again."""
        _signal_groups(self.running, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and not all(each.has_ended() for each in self.running):
            time.sleep(0.02)
        _signal_groups(self.running, signal.SIGKILL)
        while self.running:
            self.running[-1].process.wait()
            self.running.pop()
        self._logs.cleanup()


def _signal_groups(running: Sequence[Running], signum: signal.Signals) -> None:
    for each in running:
        try:
            os.killpg(each.process.pid, signum)
        except (
            ProcessLookupError,
            PermissionError,
        ):  # the latter: macOS, nothing but a zombie left
            continue
