"""``condense demo`` as a subprocess, with backends that need no model and a tiny target model.

The same code runs with the real backends; what they do is tested with them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neural_condense_core.cli import app

FAKE = Path(__file__).with_name("fake_backend.py")
TEXT = "The hare ran past the tortoise and slept under a tree. The tortoise won the race. " * 3
PHASES = {
    "starting": "$ python",
    "waiting": "Waiting for the backends",
    "condensing": "Condensing the document",
    "loading": "Loading the target model",
    "baselines": "Condensing by the baselines",
    "asking": "Asking",
}


@dataclass
class Scene:
    """A demo to start: its folder, its arguments, and where its backends note their ids."""

    folder: Path
    target: str

    @property
    def pids(self) -> Path:
        return self.folder / "pids"

    @property
    def report(self) -> Path:
        return self.folder / "report.json"

    def argv(self, *flags: str, backends: dict[str, str] | None = None, port: int = 0) -> list[str]:
        argv = [sys.executable, "-m", "neural_condense_core.cli", "demo",
                "--file", str(self.folder / "story.txt"), "--target_model", self.target,
                "--port", str(port or unused_port()), "--max_new_tokens", "4",
                "--json", str(self.report), "--no-subnet"]  # fmt: skip
        for name, extra in (backends or {"one": "", "two": ""}).items():
            argv += ["--backend", f"{name}={sys.executable} {FAKE} {{port}} --pids {self.pids} "
                                  f"--target {self.target} {extra}"]  # fmt: skip
        return [*argv, *flags]

    def run(self, *flags: str, **kwargs) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*flags, **kwargs), capture_output=True, text=True, timeout=120, check=False
        )

    def left_behind(self) -> list[int]:
        """Return the backends' processes that still run, a moment after the end."""
        pids = [int(line) for line in self.pids.read_text().split()]
        deadline = time.monotonic() + 5
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [pid for pid in pids if is_alive(pid)]


@pytest.fixture
def scene(tmp_path, tiny_llama):
    """A short text, and no process started yet."""
    (tmp_path / "story.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "pids").touch()
    return Scene(tmp_path, tiny_llama)


def unused_port() -> int:
    """Return a port with a free one above it, as the demo wants two."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 60_000)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_good_run(scene):
    done = scene.run("--question", "Who won?", "--gold", "the tortoise", "--question", "Who slept?")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    found = json.loads(scene.report.read_text())
    assert list(found) == [
        "schema", "document", "backends", "baselines", "questions", "subnet", "seconds", "ok",
    ]  # fmt: skip
    assert found["ok"] is True
    assert found["document"]["words"] == len(TEXT.split())
    assert found["document"]["n_context_tokens"] == len(TEXT.encode())
    assert [set(row) for row in found["backends"]] == [
        {"condenser", "url", "n_condensed_tokens", "bytes", "ms", "recovery", "content_recovery"}
    ] * 2
    n = -(-len(TEXT) // 4)
    for row, name in zip(found["backends"], ("one", "two"), strict=True):
        assert row["condenser"] == name
        assert row["n_condensed_tokens"] == n
        assert row["bytes"] == n * 64 * 4
        assert row["ms"] > 0
    assert {row["n_condensed_tokens"] for row in found["baselines"]} == {n}
    assert len(found["baselines"]) == 8
    best = max(found["baselines"], key=lambda row: row["content_recovery"] or -9)["condenser"]
    assert [asked["gold"] for asked in found["questions"]] == ["the tortoise", None]
    for asked in found["questions"]:
        forms = list(asked["answers"])
        assert forms[:4] == ["none", "full", "one", "two"]
        assert forms[4:] in ([best], [])  # a random model may get no C from either text
    assert {"ready one", "ready two", "condense", "ask", "total"} <= set(found["seconds"])
    assert scene.left_behind() == []


def test_a_taken_port_is_passed_over_aloud_and_json_is_alone_on_stdout(scene):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = scene.run("--json", "-", port=port, backends={"one": ""})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backends"][0]["url"] != f"http://127.0.0.1:{port}"
    assert f"port {port} is taken" in done.stderr


def test_bad_backends_mean_exit_1_and_the_good_one_is_shown(scene):
    bad = {
        "dies": ("--die", "cannot go on"),
        "fails": ("--fail", "no weights here"),
        "narrow": ("--hidden 32", "32 wide"),
        "slow": ("--ready_after 600", "not ready after 4 s"),
    }
    flags = {name: flag for name, (flag, _) in bad.items()}
    done = scene.run("--ready_timeout", "4", backends={"good": "", **flags})
    assert done.returncode == 1, done.stderr
    for name, (_, said) in bad.items():
        assert f"{name} failed" in done.stderr
        assert said in done.stderr
    found = json.loads(scene.report.read_text())
    assert found["ok"] is False
    rows = {row["condenser"]: row["n_condensed_tokens"] for row in found["backends"]}
    assert rows == {"good": -(-len(TEXT) // 4), **dict.fromkeys(bad)}
    assert found["questions"][0]["answers"]["good"]
    assert scene.left_behind() == []


@pytest.mark.parametrize(
    ("phase", "signum"),
    [(phase, (signal.SIGINT, signal.SIGTERM)[i % 2]) for i, phase in enumerate(PHASES)],
)
def test_a_signal_in_any_phase_leaves_no_process(scene, phase, signum):
    extra = {"waiting": "--ready_after 60", "condensing": "--slow 60"}.get(phase, "")
    with subprocess.Popen(
        scene.argv(backends={"one": extra, "two": ""}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        seen = []
        for line in process.stderr:
            seen.append(line)
            if PHASES[phase] in line:
                break
        os.kill(process.pid, signum)
        seen.append(process.stderr.read())
        code = process.wait(timeout=60)
    assert code == 128 + signum, "".join(seen)
    assert "no backend is left running" in "".join(seen)
    assert scene.left_behind() == []
    assert not scene.report.exists()


FAKE_PIP = """
import os, time
with open(os.environ["PIDS"], "a") as file:
    print(os.getpid(), file=file)
time.sleep(600)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_target_model_is_fetched_leaves_no_pip(scene, signum):
    modules, cache = scene.folder / "modules", scene.folder / "cache"
    modules.mkdir()
    (modules / "pip.py").write_text(FAKE_PIP, encoding="utf-8")
    others = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        "CONDENSE_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join(part for part in (str(modules), others) if part),
        "PIDS": str(scene.pids),
    }
    argv = scene.argv()
    at = argv.index("--target_model")
    with subprocess.Popen(
        [*argv[:at], *argv[at + 2 :]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not scene.pids.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signum)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 128 + signum, said
    assert "Preparing the target model" in said
    assert "no backend is left running" in said
    assert scene.pids.read_text().split(), "pip was never started"
    assert scene.left_behind() == []
    assert not scene.report.exists()
    assert not list(cache.rglob("*.whl"))


def test_a_second_signal_does_not_cut_the_clean_up_short(scene):
    impatient = (
        "from neural_condense_core.cli import main\n"
        "from neural_condense_core.demo.processes import BackendProcesses\n"
        "BackendProcesses.stop.__defaults__ = (1.5,)\n"
        "main()\n"
    )
    argv = scene.argv(backends={"deaf": "--ready_after 600 --deaf"})
    with subprocess.Popen(
        [sys.executable, "-c", impatient, *argv[3:]], stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if PHASES["waiting"] in line:
                break
        while len(scene.pids.read_text().split()) < 2:
            time.sleep(0.05)
        time.sleep(0.5)  # until it is deaf
        for _ in range(3):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.2)
        assert process.poll() is None, "the clean-up waits for the deaf one"
        said = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in said
    assert scene.left_behind() == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gold", "x"], "1 gold answers for 0 questions"),
        (["--backend", "bad"], "NAME=COMMAND"),
        (["--file", "no-such-file.txt"], "No such file"),
    ],
)
def test_wrong_usage_starts_nothing(scene, flags, said):
    result = CliRunner().invoke(app, scene.argv(*flags)[3:])
    assert result.exit_code == 2
    assert said in result.stderr
    assert scene.pids.read_text() == ""
