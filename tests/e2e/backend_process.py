"""Backends as processes, for the tests of their command lines."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = ROOT / "services" / "miner_backend" / "serving"
SERVE = ("-m", "neural_condense_core.serving.cli")
WAIT_S = 150.0
"""Long enough for a machine that has hardly a processor to spare."""


class Server:
    """A backend process, its log and its children."""

    def __init__(self, *args, environment=None, command=SERVE, cwd=None):
        paths = [str(ROOT), str(ROOT / "tests" / "integration")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        self.start_s = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *command, "--port", "0", *args],
            env=self.environment,
            cwd=cwd,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.lines = []
        self.url = None
        # No kept connections: whether the server is there is asked anew each time.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(timeout=WAIT_S, limits=limits, verify=False, trust_env=False)  # noqa: S501
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(r" at (http://[^/]+)(/\S*):", line):
                self.url, self.path = match.groups()

    @property
    def log(self):
        return "".join(self.lines)

    def until(self, condition, what):
        give_up_s = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < give_up_s, f"waited too long for {what}:\n{self.log}"
            time.sleep(0.05)
        return found

    def bound(self):
        self.until(lambda: self.url or self.process.poll() is not None, "the port")
        assert self.url, self.log
        return self

    def ready(self):
        self.bound()
        self.until(self.is_ready, "readiness")
        return self

    def is_ready(self):
        assert self.process.poll() is None, self.log
        return self.get("/health/ready").status_code == 200

    def get(self, path, **kwargs):
        return self.client.get(self.url + path, **kwargs)

    def post(self, body, *, path=None, **kwargs):
        return self.client.post(self.url + (path or self.path), json=body, **kwargs)

    def condense(self, text, **headers):
        return self.post({"context": text}, headers=headers)

    def children(self):
        return [pid for pid, parent in processes().items() if parent == self.process.pid]

    def workers(self):
        return [pid for pid in self.children() if b"spawn_main" in command_of(pid)]

    def stop(self, *numbers):
        everyone = self.children()
        for number in numbers or (signal.SIGTERM,):
            self.process.send_signal(number)
        return self.ended(everyone)

    def ended(self, everyone):
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        self.until(lambda: not any(map(alive, everyone)), "the children to end")
        return code


def processes():
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(stat.parent.name)] = int(fields[1])
    return found


def alive(pid):
    return pid in processes()


def command_of(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextlib.contextmanager
def serving(*args, **kwargs):
    server = Server(*args, **kwargs)
    try:
        yield server
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(WAIT_S)


def run(*args, command=SERVE, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command, *args],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def read_batches(path):
    lines = path.read_text().splitlines() if path.exists() else []
    found = [entry["batch"] for entry in map(json.loads, lines) if "batch" in entry]
    return [batch for batch in found if not batch[0].startswith("The harbour")]


def error_of(reply):
    return reply.status_code, reply.json()["error"]["code"]


def waited_s(pid):
    """Seconds that a process was ready to run and had no processor, 0 where nobody counts."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
