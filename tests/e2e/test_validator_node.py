"""The validator by the specification's own command line, as a process."""

import json
import signal
import subprocess
import sys

import pytest
from validator_process import ROOT, Subnet, pair, until

GOOD, FAIR, POOR = 0.8, 0.4, 0.0
SPECS = {
    "good": {"tier": "research", "quality": GOOD},
    "fair": {"tier": "research", "quality": FAIR},
    "poor": {"tier": "research", "quality": POOR},
}


@pytest.fixture(scope="module")
def subnet(tmp_path_factory):
    made = Subnet(tmp_path_factory.mktemp("subnet"), SPECS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worked(subnet):
    """The subnet after a validator has set weights and was told to stop."""
    validator = subnet.validator()
    until(lambda: subnet.n_judged() >= 3, "rounds", lambda: validator.log)
    until(subnet.weights, "weights", lambda: validator.log)
    log = validator.log
    code = validator.stop()
    return subnet, code, log, validator.log


def condense(subnet, *words):
    done = subprocess.run(
        [sys.executable, "-m", "neural_condense_core.cli", *words],
        env=subnet.environment, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_chain_holds_the_weights_that_the_ratings_call_for(worked):
    subnet, code, _, _ = worked
    assert code == 0
    weights = subnet.weights()
    good, fair = weights[subnet.uid("good")], weights[subnet.uid("fair")]
    assert good + fair == pytest.approx(0.5, abs=1e-3)
    assert good / fair == pytest.approx((GOOD / FAIR) ** 3, rel=0.01)
    assert subnet.uid("poor") not in weights
    assert weights[0] == pytest.approx(0.5, abs=1e-3)


def test_the_records_say_that_the_chain_holds_them(worked):
    subnet = worked[0]
    with subnet.records() as records:
        assert any(one.confirmed for one in records.weight_sets())


def test_everybody_was_asked_equally(worked):
    subnet = worked[0]
    with subnet.records() as records:
        asked = dict(records.select("select hotkey, n from asked"))
    assert asked.keys() == {pair(name).ss58_address for name in SPECS}
    assert max(asked.values()) - min(asked.values()) <= 1


def test_trap_28_no_text_reaches_the_log(worked):
    log = worked[3]
    assert "round 1" in log
    assert len(max(log.splitlines(), key=len)) < 400


def test_explain_says_why(worked):
    subnet = worked[0]
    address = pair("fair").ss58_address
    found = json.loads(condense(subnet, "explain", "--hotkey", address, "--json", "-"))
    assert found["ratings"]["research"] == pytest.approx(FAIR, abs=0.01)
    assert found["rounds"][0]["content_recovery"] == pytest.approx(FAIR, abs=0.01)
    assert "S = 0.4" in found["why"][0]
    by_uid = ["explain", "--uid", str(subnet.uid("fair")), "--json", "-"]
    assert json.loads(condense(subnet, *by_uid))["hotkey"] == address


def test_a_dry_run_sets_nothing(worked, tmp_path):
    subnet = worked[0]
    with subnet.opened() as chain:
        chain.advance(20)
    before = {seat.uid: seat.last_update for seat in subnet.show().seats}
    folder = str(tmp_path / "state")
    validator = subnet.validator("--validator.dry_run", "--state_dir", folder)
    until(lambda: "dry_run" in validator.log, "a dry run", lambda: validator.log)
    assert validator.stop(signal.SIGINT) == 0
    assert {seat.uid: seat.last_update for seat in subnet.show().seats} == before


def test_trap_34_an_unknown_flag_is_an_error_with_a_suggestion(subnet):
    validator = subnet.validator("--validator.gate_prt", "0")
    assert validator.process.wait(60) == 2
    assert "did you mean '--validator.gate_port'" in validator.log
    assert "Traceback" not in validator.log


def test_all_faults_are_told_together(subnet, tmp_path):
    validator = subnet.validator(
        "--wallet.key", "my_key", "--tiers", str(tmp_path / "none.toml"),
        "--validator.score_backend.token_file", str(tmp_path / "none"),
    )  # fmt: skip
    assert validator.process.wait(60) == 2
    assert "none.toml" in validator.log
    assert "token_file" in validator.log


def test_trap_37_a_port_clash_is_seen_at_the_start(subnet):
    validator = subnet.validator("--validator.gate_port", str(subnet.judge.port()))
    assert validator.process.wait(60) == 2
    assert "is the scoring service's port" in validator.log


@pytest.mark.slow
def test_a_chain_out_of_reach_is_exit_3_within_a_minute(subnet):
    validator = subnet.validator(CONDENSE_CHAIN_OVERRIDE="ws://127.0.0.1:9")
    assert validator.process.wait(75) == 3  # a minute, and the start of Python
    assert "Traceback" not in validator.log
