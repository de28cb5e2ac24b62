"""The real pm2, with a daemon and a home of its own that end with the test."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
PM2 = os.environ.get("CONDENSE_TEST_PM2", "")
"""Path of the program; ``make test-pm2`` installs one and says where."""
WAIT_S = 240.0


class Pm2:
    """Runs pm2 in the repository's folder, as its documents say, with an environment active."""

    def __init__(self, **environ):
        # Short: the path of its sockets is bounded.
        self.home = Path(tempfile.mkdtemp(prefix="pm2-", dir="/tmp"))
        self.environ = {
            **os.environ,
            "PM2_HOME": str(self.home),
            "PM2_DISCRETE_MODE": "true",
            # By default a process has 1.6 s to end, which no drain fits into.
            "PM2_KILL_TIMEOUT": "40000",
            "VIRTUAL_ENV": sys.prefix,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            **environ,
        }
        self.seen = set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run("kill", check=False)
        left = self.until(lambda: not self.alive(), "everything to end", fail=False)
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        shutil.rmtree(self.home, ignore_errors=True)
        assert left, "processes outlived pm2"

    def run(self, *words, check=True, **environ):
        done = subprocess.run(
            [PM2, *map(str, words)], cwd=ROOT, env={**self.environ, **environ},
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def apps(self):
        """Return name -> what pm2 says of it."""
        listed = self.run("jlist")
        found = {each["name"]: each for each in json.loads(listed[listed.index("[") :])}
        self.seen |= {each["pid"] for each in found.values() if each["pid"]}
        return found

    def status(self, name):
        return self.apps()[name]["pm2_env"]["status"]

    def log(self, name):
        """Return what a process has said, from the files that ``pm2 logs`` shows."""
        found = self.apps()[name]["pm2_env"]
        paths = [Path(found[key]) for key in ("pm_out_log_path", "pm_err_log_path")]
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def alive(self):
        """Return the processes of apps seen so far, and of their children, that still run."""
        return {pid for pid in self.seen if not _ended(pid)} | _children(self.seen)

    def until(self, condition, what, fail=True):
        give_up_s = time.monotonic() + WAIT_S
        while not (found := condition()):
            if time.monotonic() > give_up_s:
                assert not fail, f"waited too long for {what}\n{self._logs()}"
                return found
            time.sleep(0.2)
        return found

    def ready(self, url):
        """Wait until what listens at a URL takes requests."""
        self.until(lambda: is_ready(url), f"readiness of {url}")

    def _logs(self):
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted((self.home / "logs").glob("*.log"))
        )


def is_ready(url):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health/ready", trust_env=False, timeout=5).status_code == 200
    return False


def _ended(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def _children(parents):
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and int(parent) in parents:
                found.add(int(stat.parent.name))
    return found
