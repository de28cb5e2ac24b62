"""The shell session of one page: blocks in order, services that stay, and the end of all of it.

Design decisions

* One bash for the page, so that variables, functions and folders last from block to block.
* A block that fails ends it; which line of the page failed comes from bash itself.
* A service has a process group of its own, which is ended with everything that it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from code_blocks import Block, commands_of, script_of

RUN_S = 180.0
SLOW_S = 1800.0
END_S = 40.0
TAIL_LINES = 25


class BlockError(Exception):
    """A block did not do what its page says; the message begins with page and line."""


class PageShell:
    """A bash whose working folder is the page's.

    Parameters
    ----------
    folder : where it starts
    notes : a folder for what the session itself writes
    """

    def __init__(self, folder: Path, notes: Path) -> None:
        self._notes = notes
        self._status = notes / "status"
        self._log = notes / "shell.log"
        self._services: list[tuple[int, Path]] = []
        with self._log.open("wb") as log:
            self._bash = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                process_group=0,
            )  # fmt: skip

    def play(self, block: Block) -> None:
        """Execute a block, or start its services and wait until they are ready."""
        if not block.ports:
            self._execute(block)
            return
        commands = commands_of(block)
        ports = block.ports * len(commands) if block.alternatives else block.ports
        if len(ports) != len(commands):
            raise BlockError(
                f"{block.place}: {len(commands)} services on {len(ports)} ports; name one for each"
            )
        for i, ((line, command), port) in enumerate(zip(commands, ports, strict=True)):
            self._serve(f"{block.page}:{line}", command, port, _limit_s(block))
            if block.alternatives and i < len(commands) - 1:
                self._end(*self._services.pop())

    def close(self) -> None:
        """End the services, the newest first, the shell, and what it left in the background."""
        while self._services:
            self._end(*self._services.pop())
        with contextlib.suppress(BrokenPipeError):
            self._bash.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._bash.wait(2)
        self._end(self._bash.pid, self._log)
        self._bash.wait()

    def _execute(self, block: Block) -> None:
        script = self._notes / f"block-{block.line}.sh"
        script.write_text(script_of(block), encoding="utf-8")
        begun = self._log.stat().st_size
        strict = block.statuses == (0,)
        told = f'"$LINENO $?" > {self._status}.new; mv {self._status}.new {self._status}'
        self._say(
            *([f"trap 'echo {told}' ERR", "set -eE -o pipefail"] if strict else []),
            f"source {script} < /dev/null",
            f"echo {told}",
            "set +eE; trap - ERR",
        )
        line, status = self._wait_for_status(block, begun)
        if status not in block.statuses:
            place = f"{block.page}:{block.line + line - 1}" if strict else block.place
            raise BlockError(f"{place}: exit status {status}\n{_tail(self._log, begun)}")

    def _wait_for_status(self, block: Block, begun: int) -> tuple[int, int]:
        deadline_s = time.monotonic() + _limit_s(block)
        while not self._status.exists():
            if self._bash.poll() is not None and not self._status.exists():
                raise BlockError(f"{block.place}: the shell ended\n{_tail(self._log, begun)}")
            if time.monotonic() > deadline_s:
                late = f"{block.place}: not done after {_limit_s(block):.0f} s"
                raise BlockError(f"{late}\n{_tail(self._log, begun)}")
            time.sleep(0.05)
        line, status = map(int, self._status.read_text().split())
        self._status.unlink()
        return line, status

    def _serve(self, place: str, command: str, port: int, limit_s: float) -> None:
        if _health(port) is not None:
            raise BlockError(f"{place}: something answers on port {port} already; end it")
        log = self._notes / f"service-{port}-{place.rpartition(':')[2]}.log"
        self._say(
            "set -m", f"( {command}\n) > {log} 2>&1 < /dev/null &",
            f"echo $! > {self._status}.new; mv {self._status}.new {self._status}", "set +m",
        )  # fmt: skip
        deadline_s = time.monotonic() + limit_s
        _wait(self._status.exists, deadline_s)
        pid = int(self._status.read_text())
        self._status.unlink()
        self._services.append((pid, log))
        while _health(port) in {None, 503}:
            if not _is_alive(pid):
                raise BlockError(f"{place}: the service ended\n{_tail(log)}")
            if time.monotonic() > deadline_s:
                raise BlockError(f"{place}: not ready after {limit_s:.0f} s\n{_tail(log)}")
            time.sleep(0.2)

    def _end(self, pid: int, _: Path) -> None:
        for number, patience_s in ((signal.SIGTERM, END_S), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
            if _wait(lambda: self._is_over(pid), time.monotonic() + patience_s):
                return

    def _is_over(self, pid: int) -> bool:
        self._bash.poll()  # a shell that has ended stays in its group until somebody asks
        return not _is_alive(pid)

    def _say(self, *lines: str) -> None:
        try:
            self._bash.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self._bash.stdin.flush()
        except BrokenPipeError:
            raise BlockError(f"the page's shell has ended\n{_tail(self._log)}") from None


def _limit_s(block: Block) -> float:
    return RUN_S if block.mode == "run" else SLOW_S


def _wait(is_done: Callable[[], bool], deadline_s: float) -> bool:
    while not is_done():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _health(port: int) -> int | None:
    """Return the status that a port answers with, None where nobody does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _tail(log: Path, start: int = 0) -> str:
    with log.open("rb") as stream:
        stream.seek(start)
        text = stream.read().decode("utf-8", "replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-TAIL_LINES:])
