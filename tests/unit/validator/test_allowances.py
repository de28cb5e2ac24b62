"""How often a miner may be asked: by stake, half for users, spread over the epoch."""

import pytest
from subnet_fakes import MODEL, peer, roster

from neural_condense_core.constants import EPOCH_LENGTH_S, TierConfig
from neural_condense_core.records import OrganicRow, Records
from neural_condense_core.validator.allowances import Allowances

TIER = TierConfig("research", 1.0, 100, 2.0, 4, 500, target_model=MODEL)
MINER = peer(1, "m")
ME = peer(2, "me", stake=300.0, permit=True)
RIVAL = peer(3, "rival", stake=100.0, permit=True)
POOR = peer(4, "poor", stake=1.0, permit=True)


def allowances(*peers, least_stake=10.0):
    made = Allowances({TIER.name: TIER})
    made.update(roster(MINER, ME, *peers), "me", least_stake)
    return made


def n_allowed(made, now=0.0):
    return sum(made.may_ask(TIER, MINER, now) for _ in range(1000))


@pytest.mark.parametrize(("others", "mine"), [((), 100), ((RIVAL,), 75), ((RIVAL, POOR), 75)])
def test_the_part_follows_the_stake(others, mine):
    assert n_allowed(allowances(*others)) == mine


def test_trap_32_without_any_stake_everybody_has_a_part():
    made = Allowances({TIER.name: TIER})
    made.update(roster(MINER, peer(2, "me"), peer(3, "b", permit=True)), "me", 0.0)
    assert n_allowed(made) == 50


def test_trap_07_the_allowance_returns_with_the_next_window():
    made = allowances()
    assert n_allowed(made, 0.0) == 100
    assert n_allowed(made, EPOCH_LENGTH_S - 1) == 0
    assert n_allowed(made, EPOCH_LENGTH_S) == 100


def test_rounds_leave_half_to_users():
    made = allowances()
    n_rounds = 0
    while made.is_due(TIER, MINER, 4, 0.0, 0.0):
        made.reserve(TIER, [MINER], 4, 0.0)
        n_rounds += 1
    assert n_rounds == 12
    assert n_allowed(made) == 52


def test_rounds_are_spread_over_the_epoch():
    made = allowances()
    made.reserve(TIER, [MINER], 4, 0.0)
    assert not made.is_due(TIER, MINER, 4, 47.0)
    assert made.is_due(TIER, MINER, 4, 48.0)
    assert made.is_due(TIER, MINER, 4, 0.0, 0.0)


def test_the_smallest_part_still_has_room_for_a_round():
    rich = [peer(10 + i, f"v{i}", stake=1e6, permit=True) for i in range(3)]
    assert allowances(*rich).is_due(TIER, MINER, 10, 0.0)


def test_after_a_restart_what_was_asked_still_counts(tmp_path):
    with Records(tmp_path / "log.sqlite") as records:
        for i in range(30):
            records.write_organic(
                OrganicRow(1_000.0 + i, "k", TIER.name, "m", 1, "ok", "ok", 0.1, 9)
            )
        made = Allowances({TIER.name: TIER})
        made.preload(records, now=50.0, wall=1_100.0)
    made.update(roster(MINER, ME), "me", 0.0)
    assert n_allowed(made, 50.0) == 70
    assert n_allowed(made, 50.0 - 100.0 + EPOCH_LENGTH_S + 15) == 16


def test_nobody_unknown_is_asked():
    assert not allowances().may_ask(TIER, peer(77, "stranger"), 0.0)
