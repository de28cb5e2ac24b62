"""Kill -9 of any process at random moments of a round: the rest goes on and a restart continues.

``test_validator_kills.py`` kills the validator more often; here everybody's turn comes, at moments
drawn from a seed. Echo backends and a fake judge first, real models last.
"""

import random
import sys
import time
from pathlib import Path

import pytest
from killed_subnet import BACKEND, JUDGE, MINER, VALIDATOR, KilledSubnet, phases
from validator_process import FAKES, ROOT, pair, until

from neural_condense_core.records.rows import ABANDONED, JUDGED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

N_KILLS = 20
NODE = "node"
NODE_QUALITY = 0.6
MODEL, HIDDEN = "tiny", 8
N_CONTEXTS = 4
DELAY_S = 0.2
SPECS = {
    name: {"tier": "research", "quality": quality, "delay_s": DELAY_S}
    for name, quality in (("good", 0.8), ("fair", 0.4), ("empty", 0.0))
}
ROUND_S = N_CONTEXTS * DELAY_S + 0.2
INTERVAL_S = 1.0
KINDS = (VALIDATOR, f"{MINER} {NODE}", f"{BACKEND} {NODE}", JUDGE)


@pytest.fixture
def subnet(tmp_path):
    fake = str(Path(__file__).with_name("killed_subnet.py"))
    made = KilledSubnet(
        tmp_path,
        SPECS,
        judge=[FAKES, "judge", "{port}", MODEL, str(HIDDEN)],
        backends={NODE: [fake, "{port}", str(NODE_QUALITY), str(DELAY_S)]},
        tier={"requests_per_epoch": 100_000, "target_model": MODEL},
        interval_s=INTERVAL_S,
    )
    yield made
    made.close()


def kill_in_a_round(subnet, name, wait_s):
    """Kill a part within a round and start it again; return the round's status just then."""
    made = subnet.wait_for_round()
    time.sleep(wait_s)
    subnet.kill(name)
    phase = subnet.status(made)
    subnet.others_live(name)
    if name != VALIDATOR:
        until(lambda: subnet.status(made) in {JUDGED, ABANDONED}, "its end", subnet.logs, 300)
        subnet.others_live(name)
    subnet.restart(name)
    return made, phase


def test_kill_9_of_any_process_at_random_moments_of_a_round(subnet, capsys):
    rng = random.Random(9)
    names = list(KINDS) * (N_KILLS // len(KINDS))
    rng.shuffle(names)
    qualities = {pair(name).ss58_address: spec["quality"] for name, spec in SPECS.items()}
    qualities[subnet.hotkeys[NODE]] = NODE_QUALITY
    everybody = N_CONTEXTS * len(qualities)
    subnet.wait_for_judged(0, everybody)
    cut = dict.fromkeys(KINDS, 0)
    for name in names:
        made, phase = kill_in_a_round(subnet, name, rng.uniform(0.0, ROUND_S))
        cut[name] += phase == "open"
        if phase == "open" and name == JUDGE:
            assert subnet.status(made) == ABANDONED
        elif phase == "open" and name != VALIDATOR:
            assert subnet.status(made) == JUDGED, "the others lost a round to one miner"
        subnet.wait_for_judged(made, everybody)
        subnet.check_books(N_CONTEXTS, qualities)
    subnet.weights_after(time.time())
    assert subnet.parts[VALIDATOR].stop() == 0
    rounds = subnet.check_books(N_CONTEXTS, qualities)
    served = [hotkey for hotkey, quality in qualities.items() if quality > 0]
    subnet.check_pay(served)
    with capsys.disabled():
        sys.stdout.write(f"\n{N_KILLS} kills, within a round: {cut}; rounds: {phases(rounds)}\n")
    assert min(cut.values()) > 0, "a kind of process was never killed within a round"


REAL_CONDENSERS = ("pooled", "truncate-head")
REAL_CONTEXTS = 2
REAL_CHARS = 400


@pytest.fixture
def real_subnet(tmp_path, embedded_cache):
    serve = ["-m", "neural_condense_core.cli", "serve", "--port", "{port}", "--devices", "1"]
    scoring = str(ROOT / "services" / "validator_backend" / "scoring" / "app.py")
    made = KilledSubnet(
        tmp_path,
        {},
        judge=[scoring, "--port", "{port}", "--baselines", "none", "--threads", "1"],
        backends={name: [*serve, "--condenser", name] for name in REAL_CONDENSERS},
        tier={"requests_per_epoch": 100_000, "max_context_chars": REAL_CHARS, "timeout_s": 60},
        environment={"CONDENSE_VALIDATOR_CONTEXTS_PER_ROUND": str(REAL_CONTEXTS)},
    )
    yield made
    made.close()


def test_kill_9_with_real_models(real_subnet, capsys):
    subnet, rng = real_subnet, random.Random(3)
    everybody = REAL_CONTEXTS * len(REAL_CONDENSERS)
    subnet.wait_for_judged(0, everybody)
    found = []
    for name in (f"{BACKEND} {REAL_CONDENSERS[0]}", JUDGE, VALIDATOR):
        last = next(one for one in subnet.rounds() if one.status == JUDGED)
        round_s = last.finished_at - last.started_at
        made, phase = kill_in_a_round(subnet, name, rng.uniform(0.0, round_s))
        found.append((name, phase, f"{round_s:.1f} s a round"))
        subnet.wait_for_judged(made, everybody)
        subnet.check_books(REAL_CONTEXTS)
    subnet.weights_after(time.time())
    assert subnet.parts[VALIDATOR].stop() == 0
    rounds = subnet.check_books(REAL_CONTEXTS)
    earned = subnet.check_pay(subnet.earning())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{found}; rounds: {phases(rounds)}; weights {sorted(earned.values())}\n"
        )
    assert any(phase == "open" for _, phase, _ in found)
