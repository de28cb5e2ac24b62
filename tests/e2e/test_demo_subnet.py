"""The demo's second part and ``condense up``, by real command lines, without models.

``test_demo_real.py`` plays it with the real ones.
"""

import json
import random
import signal
import subprocess
import sys

import pytest
from demo_subnet import FAIR, GOOD, ROOT, Stage, end, read_until

from neural_condense_core.demo.processes import free_port

PHASES = {
    "preparing": "Making a chain",
    "backends": "Starting the backends and the scoring",
    "miners": "Starting the miners",
    "validator": "Starting the validator",
    "rounds": "Playing 2 rounds",
}
MINERS = ("research=good", "research=fair", "research=poor", "inference_0=good")


@pytest.fixture
def stage(tmp_path, tiny_llama):
    return Stage(tmp_path, tiny_llama)


@pytest.fixture
def port():
    """Return a free port, below those that the system gives to outgoing connections."""
    return free_port(random.randrange(10_000, 30_000))


def run(stage, argv):
    return subprocess.run(
        argv, env=stage.environment, capture_output=True, text=True, timeout=280, check=False,
        cwd=stage.folder,
    )  # fmt: skip


def test_the_demo_plays_a_subnet_and_says_what_was_measured(stage, port):
    done = run(stage, stage.demo(port, *stage.subnet(*MINERS)))
    assert done.returncode == 0, done.stderr
    found = stage.report()["subnet"]
    rows = {(row["tier"], row["condenser"]): row for row in found["miners"]}
    assert [(row["tier"], row["condenser"]) for row in found["miners"]] == [
        ("research", "good"), ("research", "fair"), ("research", "poor"), ("inference_0", "good"),
    ]  # fmt: skip
    good, fair, poor = (rows["research", name] for name in ("good", "fair", "poor"))
    assert good["content_recovery"] == pytest.approx(GOOD, abs=1e-3)
    assert good["weight"] / fair["weight"] == pytest.approx((GOOD / FAIR) ** 3, rel=0.01)
    assert good["weight"] + fair["weight"] == pytest.approx(0.5, abs=1e-3)
    assert (poor["score"], poor["weight"], poor["incentive"]) == (0, 0, 0)
    assert "R < 0" in poor["reason"]
    assert good["incentive"] > fair["incentive"] > 0
    assert rows["inference_0", "good"]["weight"] == pytest.approx(0.25, abs=1e-3)
    assert found["unearned"] == pytest.approx(0.25, abs=1e-3)
    assert {row["rounds"] for row in found["miners"]} == {2}
    assert good["replies"] == {"ok": 8}
    assert found["blocks"] > 40
    organic = found["organic"]
    assert (organic["question"], organic["gold"]) == ("Who won?", "The tortoise")
    assert organic["answer"]
    assert organic["hotkey"] == good["hotkey"]
    assert organic["condenser"] == "good"
    for shown in ("Best in research: good", "Without incentive in research: poor", "python -m"):
        assert shown in done.stderr
    assert stage.left_behind() == []
    assert not list(stage.folder.glob("condense-*"))


@pytest.mark.slow
def test_a_miner_without_a_backend_means_exit_1_and_the_others_play(stage, port):
    flags = stage.subnet("research=good", "research=fair", broken=("fair",))
    done = run(stage, stage.demo(port, *flags))
    assert done.returncode == 1, done.stderr
    found = stage.report()["subnet"]
    assert set(found["failures"]) == {"fair backend", "research-fair"}
    assert "cannot go on" in found["failures"]["fair backend"]
    rows = {row["condenser"]: row for row in found["miners"]}
    assert rows["good"]["weight"] == pytest.approx(0.5, abs=1e-3)
    assert rows["fair"]["reason"] == "it was not asked"
    assert stage.left_behind() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "number"),
    [(phase, (signal.SIGINT, signal.SIGTERM)[i % 2]) for i, phase in enumerate(PHASES)],
)
def test_a_signal_in_any_phase_leaves_no_process(stage, port, phase, number):
    with stage.start(stage.demo(port, *stage.subnet(*MINERS))) as process:
        seen = read_until(process, PHASES[phase])
        code, said = end(process, number)
    assert code == 128 + number, seen + said
    assert "no backend is left running" in said
    assert stage.left_behind() == []
    assert not (stage.folder / "report.json").exists()
    assert not list(stage.folder.glob("condense-*"))


@pytest.mark.slow
def test_up_runs_until_a_signal_and_goes_on_where_it_was(stage, port):
    facts = stage.folder / "facts.json"
    argv = stage.condense(
        "up", "--folder", stage.folder / "subnet", "--target_model", stage.target, "--port", port,
        "--gate_port", port + 100, "--ask_interval", 0, "--json", facts,
        *stage.subnet("research=good", "research=fair"),
    )  # fmt: skip
    with stage.start(argv) as process:
        read_until(process, "Best in research: good")
        first = json.loads(facts.read_text())
        join_as_documented(stage, first, port + 200)
        read_until(process, "at block")
        code, said = end(process, signal.SIGINT)
    assert code == 0, said
    assert "no process is left running" in said
    assert stage.left_behind() == []
    with stage.start(argv) as process:
        read_until(process, "Best in research: good")
        again = json.loads(facts.read_text())
        assert end(process)[0] == 0
    assert [row["hotkey"] for row in again["miners"]] == [row["hotkey"] for row in first["miners"]]
    assert stage.left_behind() == []


def join_as_documented(stage, facts, axon_port):
    """Add a miner by the lines of docs/subnet.md, and see that the validator asks it."""
    environment = {**stage.environment, **facts["environment"]}
    backend = facts["miners"][0]["backend"].rpartition(":")[2]

    def condense(*words):
        return subprocess.run(
            stage.condense(*words), env=environment, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    made = condense("dev", "register", "--wallet.name", "mine")
    assert made.returncode == 0, made.stderr
    words = [
        "-m", "neurons.miner", "--netuid", "52", "--subtensor.network", "dev",
        "--wallet.name", "mine", "--miner.tier", "research", "--miner.backend_port", backend,
        "--axon.port", str(axon_port),
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        read_until(process, "published")
        uid = json.loads(condense("dev", "show", "--json", "-").stdout)["subnet"]["seats"][-1][
            "uid"
        ]
        for _ in range(30):
            told = condense("explain", "--uid", str(uid), "--json", "-")
            if told.returncode == 0:
                break
        process.terminate()
        process.stderr.read()
    assert json.loads(told.stdout)["ratings"]["research"] > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--miner", "research"], "TIER=CONDENSER"),
        (["--miner", "reserch=icae"], "did you mean 'research'"),
        (["--fresh"], "leaves it alone"),
    ],
)
def test_wrong_usage_of_up_starts_nothing(stage, flags, said):
    (stage.folder / "mine.txt").touch()
    done = run(stage, stage.condense("up", "--folder", stage.folder, *flags))
    assert done.returncode == 2
    assert said.lower() in done.stderr.lower()
    assert (stage.folder / "mine.txt").exists()
