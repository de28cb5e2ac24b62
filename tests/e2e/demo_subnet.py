"""``condense demo`` and ``condense up`` over backends and a judge without models."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAKE_BACKEND = Path(__file__).with_name("fake_backend.py")
FAKE_JUDGE = ROOT / "tests" / "integration" / "subnet_fakes.py"
HIDDEN = 64
STORY = "The hare ran past the tortoise and slept under a tree. The tortoise won the race. " * 3
GOOD, FAIR, POOR = 0.8, 0.4, -0.2
QUALITIES = {"good": GOOD, "fair": FAIR, "poor": POOR}


class Stage:
    """A folder, and the command lines that play in it.

    Every process that is started inherits the folder as TMPDIR, so all of them can be found.
    """

    def __init__(self, folder, target):
        self.folder = folder
        self.target = target
        self.pids = folder / "pids"
        self.pids.touch()
        (folder / "story.txt").write_text(STORY, encoding="utf-8")

    @property
    def environment(self):
        return {**os.environ, "TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT)}

    def condense(self, *words):
        return [sys.executable, "-m", "neural_condense_core.cli", *map(str, words)]

    def backend(self, extra=""):
        return (
            f"{sys.executable} {FAKE_BACKEND} {{port}} --pids {self.pids} --target {self.target} "
            f"{extra}"
        )

    def subnet(self, *miners, broken=()):
        """Return the flags of a subnet: ``TIER=CONDENSER`` each, condensers as in QUALITIES."""
        words = ["--judge", f"{sys.executable} {FAKE_JUDGE} judge {{port}} {self.target} {HIDDEN}"]
        for miner in miners:
            words += ["--miner", miner]
        for name in dict.fromkeys(miner.partition("=")[2] for miner in miners):
            extra = "--die" if name in broken else f"--quality {QUALITIES[name]}"
            words += ["--miner_backend", f"{name}={self.backend(extra)}"]
        return words

    def demo(self, port, *flags):
        return self.condense(
            "demo", "--file", self.folder / "story.txt", "--target_model", self.target,
            "--question", "Who won?", "--gold", "The tortoise",
            "--max_new_tokens", 4, "--port", port, "--json", self.folder / "report.json",
            "--backend", f"one={self.backend()}", *flags,
        )  # fmt: skip

    def report(self):
        return json.loads((self.folder / "report.json").read_text())

    def start(self, argv):
        return subprocess.Popen(
            argv, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, start_new_session=True, cwd=self.folder,
        )  # fmt: skip

    def left_behind(self, wait_s=5.0):
        """Return the command lines of processes that still run, a moment after the end."""
        give_up_s = time.monotonic() + wait_s
        while (found := self._living()) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        return found

    def _living(self):
        mark = f"TMPDIR={self.folder}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


def end(process, number=signal.SIGTERM, wait_s=60):
    """Signal a process and return its exit code and what it had not said yet."""
    os.kill(process.pid, number)
    said = process.stderr.read()
    return process.wait(timeout=wait_s), said


def read_until(process, words):
    """Return what a process says up to a line that holds the words."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return "".join(seen)
    raise AssertionError(f"it never said {words!r}:\n{''.join(seen)}")
