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


def n_rounds(made, now=0.0):
    n = 0
    while made.is_due(TIER, MINER, 4, now, 0.0):
        made.reserve(TIER, [MINER], 4, now)
        n += 1
    return n


@pytest.mark.parametrize(
    ("others", "n_users", "n_mine"), [((), 50, 12), ((RIVAL,), 38, 9), ((RIVAL, POOR), 38, 9)]
)
def test_the_part_follows_the_stake(others, n_users, n_mine):
    made = allowances(*others)
    assert (n_allowed(made), n_rounds(made)) == (n_users, n_mine)


def test_trap_32_without_any_stake_everybody_has_a_part():
    made = Allowances({TIER.name: TIER})
    made.update(roster(MINER, peer(2, "me"), peer(3, "b", permit=True)), "me", 0.0)
    assert n_allowed(made) == 25


def test_trap_07_the_allowance_returns_with_the_next_window():
    made = allowances()
    assert n_allowed(made, 0.0) == 50
    assert n_allowed(made, EPOCH_LENGTH_S - 1) == 0
    assert n_allowed(made, EPOCH_LENGTH_S) == 50


def test_rounds_leave_half_to_users():
    made = allowances()
    assert n_rounds(made) == 12
    assert n_allowed(made) == 50


def test_no_traffic_of_users_keeps_a_miner_from_being_judged():
    made = allowances()
    for hour in range(10):
        now = hour * EPOCH_LENGTH_S
        n_users = n_allowed(made, now)
        assert n_rounds(made, now) == 12
        assert n_users + 12 * 4 <= 100


def test_users_find_the_smallest_part_closed_rather_than_rounds():
    rich = [peer(10 + i, f"v{i}", stake=1e6, permit=True) for i in range(3)]
    made = Allowances({TIER.name: TIER}, n_contexts=8)
    made.update(roster(MINER, ME, *rich), "me", 10.0)
    assert n_allowed(made) == 2
    assert made.is_due(TIER, MINER, 8, 0.0)


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
    assert n_allowed(made, 50.0) == 20
    assert n_allowed(made, 50.0 - 100.0 + EPOCH_LENGTH_S + 15) == 16
    assert n_rounds(made, 50.0) == 12


def test_nobody_unknown_is_asked():
    assert not allowances().may_ask(TIER, peer(77, "stranger"), 0.0)
