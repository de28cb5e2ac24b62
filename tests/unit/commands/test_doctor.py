"""``condense doctor`` and its checks."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from neural_condense_core.cli import app
from neural_condense_core.commands import checks, doctor
from neural_condense_core.commands.checks import Check
from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.constants import TIERS
from neural_condense_core.errors import CheckpointError

RUNNER = CliRunner()
CPU = Check("device", "warn", "CPU", figures={"devices": ["cpu"]})
GPU = Check("device", "ok", "H100", figures={"devices": ["H100"]})


def ticking(step_s):
    now = [0.0]

    def clock():
        now[0] += step_s
        return now[0]

    return clock


def echo():
    return EchoCondenser.load(LoadOptions("echo"))


def test_python():
    assert checks.check_python((3, 12, 1)).status == "ok"
    old = checks.check_python((3, 10, 9))
    assert (old.status, old.message) == ("fail", "3.10.9")
    assert "3.11" in old.advice


def test_packages():
    assert checks.check_packages().status == "ok"
    missing = checks.check_packages(["numpy", "no-such-package-at-all"])
    assert missing.status == "fail"
    assert "no-such-package-at-all" in missing.message
    assert missing.advice


def test_device_is_named():
    found = checks.check_device()
    assert found.status in {"ok", "warn"}
    assert found.figures["devices"]


@pytest.mark.parametrize(
    ("cached", "installed", "reachable", "status"),
    [
        (True, False, False, "ok"),
        (False, True, False, "warn"),
        (False, False, True, "warn"),
        (False, False, False, "fail"),
    ],
)
def test_target_model(monkeypatch, cached, installed, reachable, status):
    spec = object() if installed else None
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: spec)
    found = checks.check_target_model(lambda: cached, lambda requirement: reachable)
    assert found.status == status
    assert bool(found.advice) == (status != "ok")


def test_ports():
    found = checks.check_ports(lambda port: port != 8081)
    assert [(check.name, check.status) for check in found] == [
        ("port 8080", "ok"),
        ("port 8081", "warn"),
    ]


def test_a_checkpoint_that_does_not_load_is_a_failure():
    def broken(name):
        raise CheckpointError("damaged")

    check, condenser = checks.check_checkpoint("pooled-fast", broken)
    assert (check.status, check.message, condenser) == ("fail", "damaged", None)
    check, condenser = checks.check_checkpoint("echo", lambda name: echo(), ticking(2.0))
    assert check.message == "loads in 2.0 s, for echo"
    assert condenser is not None


@pytest.mark.parametrize(
    ("seconds", "statuses"),
    [(0.5, ["ok", "ok"]), (5.0, ["warn", "warn"]), (25.0, ["warn", "warn"])],
)
def test_speed_is_held_against_each_tier(seconds, statuses):
    found = checks.check_speed(echo(), "cpu", "abc " * 10, 4.0, TIERS, ticking(seconds))
    assert [check.name for check in found] == [
        "echo on cpu, 1,536 characters",
        "echo on cpu, 4,096 characters",
    ]
    assert [check.status for check in found] == statuses
    assert [check.figures["n_context_tokens"] for check in found] == [1536, 4096]
    assert found[0].figures["meets"] == {"research": seconds < 24, "inference_0": seconds < 4}
    assert found[1].figures["meets"] == {"inference_1": seconds < 4}
    assert found[0].figures["ms"] == seconds * 1e3
    assert found[0].figures["device"] == "cpu"


def test_the_advice_names_a_gpu_only_where_there_is_none():
    for device, said in (("cpu", True), ("cuda", False)):
        slow = checks.check_speed(echo(), device, "abc ", 4.0, TIERS, ticking(60.0))[0]
        assert f"on {device}" in slow.name
        assert "smaller condenser" in slow.advice
        assert ("serve on a machine with a GPU" in slow.advice) is said
        assert "--" not in slow.advice


def test_a_ratio_that_is_not_offered_is_said():
    (check,) = checks.check_speed(echo(), "cpu", "abc ", 0.5)
    assert (check.name, check.status) == ("speed of echo", "warn")
    assert "ratio" in check.message


def test_what_is_timed_was_not_condensed_before(monkeypatch):
    seen = []
    condenser = echo()
    real = condenser.condense
    monkeypatch.setattr(
        condenser,
        "condense",
        lambda contexts, ratio: seen.append(contexts[0]) or real(contexts, ratio),
    )
    checks.check_speed(condenser, "cpu", "abc ", 4.0)
    assert [len(ids) for ids in seen] == [1536, 1536, 4096, 4096]
    assert len({tuple(ids) for ids in seen}) == 4


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_a_failure_changes_the_exit_code(monkeypatch, status, code):
    lines = [Check("one", "ok", "[fine]"), Check("two", status, "so so", "do this")]
    monkeypatch.setattr(doctor, "examine", lambda condenser, ratio: iter(lines))
    result = RUNNER.invoke(app, ["doctor", "--json", "-"])
    assert result.exit_code == code
    found = json.loads(result.stdout)
    assert found["ok"] is (code == 0)
    assert [check["status"] for check in found["checks"]] == ["ok", status]
    assert "[fine]" in result.stderr
    assert "do this" in result.stderr


def test_examines_a_condenser_without_downloading(monkeypatch):
    monkeypatch.setattr(checks, "index_has", lambda requirement: False)
    monkeypatch.setattr(doctor.checks, "check_target_model", lambda cached: Check("t", "warn", ""))
    names = [check.name for check in doctor.examine("truncate-head", 4.0)]
    assert names[:2] == ["python", "packages"]
    assert names[-1] == "checkpoint truncate-head"  # needs the target model, which is not here


def test_times_the_condenser_that_it_is_given(monkeypatch, tiny_llama):
    loaded = load_condenser("truncate-head", tiny_llama)
    monkeypatch.setattr("neural_condense_core.llm.embedded.is_cached", lambda: True)
    monkeypatch.setattr(checks, "check_device", lambda: CPU)
    monkeypatch.setattr(
        "neural_condense_core.condensers.checkpoints.load_condenser", lambda name, device: loaded
    )
    found = {check.name: check for check in doctor.examine("truncate-head", 4.0)}
    assert found["checkpoint truncate-head"].status == "ok"
    line = found["truncate-head on cpu, 4,096 characters"]
    assert line.figures["n_context_tokens"] > 4000


@pytest.mark.parametrize(("check", "device"), [(CPU, "cpu"), (GPU, "cuda")])
def test_times_all_that_load_on_the_best_device(monkeypatch, check, device):
    def load(name, device):
        asked.append((name, device))
        if name == "broken":
            raise CheckpointError("damaged")
        found = echo()
        found.name = name
        return found

    asked = []
    place = "neural_condense_core.condensers.checkpoints"
    monkeypatch.setattr("neural_condense_core.llm.embedded.is_cached", lambda: True)
    monkeypatch.setattr(checks, "check_device", lambda: check)
    monkeypatch.setattr(f"{place}.shipped_names", lambda: ["one", "broken", "two"])
    monkeypatch.setattr(f"{place}.load_condenser", load)
    names = [check.name for check in doctor.examine(None, 4.0)]
    assert asked == [("one", device), ("broken", device), ("two", device)]
    assert names[-4:] == [
        f"{name} on {device}, {n} characters" for name in ("one", "two") for n in ("1,536", "4,096")
    ]


def test_an_unknown_condenser_is_a_failure(monkeypatch):
    monkeypatch.setattr("neural_condense_core.llm.embedded.is_cached", lambda: True)
    found = list(doctor.examine("truncate-haed", 4.0))
    assert found[-1].status == "fail"
    assert "truncate-head" in found[-1].message
