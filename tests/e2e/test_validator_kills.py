"""Kill -9 at random moments, and a chain file that cannot be used: nothing is counted twice."""

import os
import random
import sqlite3
import sys
import time

import pytest
from validator_process import FAKES, Subnet, pair, until

from neural_condense_core.records import Records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

N_KILLS = 20
SPECS = {f"m{i}": {"tier": "research", "quality": 0.2 * i, "delay_s": 0.05} for i in range(1, 5)}


@pytest.fixture(scope="module")
def subnet(tmp_path_factory):
    made = Subnet(tmp_path_factory.mktemp("subnet"), SPECS)
    yield made
    made.close()


def check_books(subnet):
    """Every judged round is whole and counted once; every other round counts for nothing."""
    with subnet.records() as records:
        assert records.select("pragma integrity_check") == [("ok",)]
        status = {one.id: one.status for one in records.rounds(10_000)}
        scored = {one.round for one in records.scores(limit=10_000)}
        replied = {one.round for one in records.replies(limit=10_000)}
        judged = {made for made, found in status.items() if found == "judged"}
        assert scored == replied == judged
        counted = dict(records.select("select hotkey, n from ratings"))
        rows = dict(records.select("select hotkey, count(*) from scores group by hotkey"))
        assert counted == rows
        for name, spec in SPECS.items():
            rating = records.latest_scores()
            mine = [one.rating for one in rating if one.hotkey == pair(name).ss58_address]
            assert mine == [pytest.approx(spec["quality"], abs=0.01)]
    return len(judged), len(status)


def start_and_kill(subnet, n_rounds, after_s):
    validator = subnet.validator()
    until(lambda: "validating subnet" in validator.log, "a start", lambda: validator.log)
    until(lambda: subnet.n_judged() >= n_rounds, "a round", lambda: validator.log)
    time.sleep(after_s)
    validator.process.kill()
    validator.process.wait()


def test_kill_9_at_random_moments_of_a_round(subnet, capsys):
    rng = random.Random(5)
    phases = []
    for i in range(N_KILLS):
        start_and_kill(subnet, subnet.n_judged() + (i == 0), rng.uniform(0.0, 3.0))
        with Records(subnet.state_folder / "validator.sqlite", read_only=True) as records:
            phases.append(records.rounds(1)[0].status)
        check_books(subnet)
    before = subnet.n_judged()
    validator = subnet.validator()
    until(lambda: subnet.n_judged() >= before + 3, "rounds to go on", lambda: validator.log)
    assert validator.stop() == 0
    n_judged, n_rounds = check_books(subnet)
    with capsys.disabled():
        cut = sum(phase == "open" for phase in phases)
        sys.stdout.write(
            f"\n{N_KILLS} kills, {cut} within a round; {n_judged} of {n_rounds} rounds judged\n"
        )
    assert "open" in phases, "no kill fell into a round; it proves nothing"


def test_the_rest_goes_on_while_the_judge_is_killed_and_comes_back(subnet):
    validator = subnet.validator()
    before = subnet.n_judged()
    until(lambda: subnet.n_judged() > before, "a round", lambda: validator.log)
    port = subnet.judge.port()
    subnet.judge.process.kill()
    subnet.judge.process.wait()
    until(lambda: "could not be reached" in validator.log, "the loss", lambda: validator.log)
    during = subnet.n_judged()
    time.sleep(2)
    assert subnet.n_judged() == during
    subnet.judge = subnet.start([FAKES, "judge", str(port)])
    until(lambda: subnet.n_judged() > during, "the return", lambda: validator.log)
    assert validator.stop() == 0
    check_books(subnet)


@pytest.mark.parametrize("fault", ["locked", "moved away", "unreadable", "read-only"])
def test_rounds_go_on_while_the_chains_file_cannot_be_used(subnet, fault):
    if os.geteuid() == 0 and fault in {"unreadable", "read-only"}:
        pytest.skip("nothing is unreadable for root")
    validator = subnet.validator()
    before = subnet.n_judged()
    until(lambda: subnet.n_judged() > before, "a round", lambda: validator.log)
    aside = subnet.chain_path.with_suffix(".aside")
    mode = subnet.chain_path.stat().st_mode
    lock = sqlite3.connect(subnet.chain_path, isolation_level=None)
    try:
        if fault == "locked":
            lock.execute("begin exclusive")
        elif fault == "moved away":
            subnet.chain_path.rename(aside)
        else:
            subnet.chain_path.chmod(0o000 if fault == "unreadable" else 0o444)
        during = subnet.n_judged()
        until(lambda: subnet.n_judged() > during + 1, "rounds", lambda: validator.log)
    finally:
        lock.close()
        if aside.exists():
            aside.rename(subnet.chain_path)
        subnet.chain_path.chmod(mode)
    after = subnet.n_judged()
    until(lambda: subnet.n_judged() > after, "rounds afterwards", lambda: validator.log)
    assert validator.process.poll() is None
    assert validator.stop() == 0
    check_books(subnet)


def test_a_second_validator_of_the_same_hotkey_is_refused(subnet):
    first = subnet.validator()
    until(lambda: "validating subnet" in first.log, "a start", lambda: first.log)
    second = subnet.validator()
    assert second.process.wait(60) == 2
    assert "runs already" in second.log
    assert first.stop() == 0
