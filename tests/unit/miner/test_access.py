import pytest
from miner_parts import MINER, OTHER_VALIDATOR, STRANGER, TIER, VALIDATOR, peer, roster

from neural_condense_core.constants import EPOCH_LENGTH_S
from neural_condense_core.errors import ForbiddenError, OverloadedError, UnavailableError
from neural_condense_core.miner.access import Access


def access(*peers, least_stake=0.0):
    made = Access(TIER, least_stake)
    made.update(roster(*peers))
    return made


def refusal(gate, key):
    with pytest.raises(ForbiddenError) as caught:
        gate.admit(key.ss58_address)
    assert caught.value.status == 403
    return caught.value.detail["reason"]


def test_validators_with_permit_and_stake_are_let_in():
    access().admit(VALIDATOR.ss58_address)
    access(least_stake=300.0).admit(VALIDATOR.ss58_address)


def test_trap_27_unknown_callers_get_one_short_refusal():
    gate = access(least_stake=200.0)
    assert refusal(gate, STRANGER) == "unregistered"
    assert refusal(gate, MINER) == "no_permit"
    assert refusal(gate, OTHER_VALIDATOR) == "low_stake"


def test_nobody_is_let_in_before_the_chain_was_read():
    with pytest.raises(UnavailableError):
        Access(TIER, 0.0).admit(VALIDATOR.ss58_address)


def test_the_allowance_is_shared_by_stake_among_those_who_may_ask():
    gate = access()
    assert gate.allowance(VALIDATOR.ss58_address) == 30
    assert gate.allowance(OTHER_VALIDATOR.ss58_address) == 10
    assert gate.allowance(MINER.ss58_address) == gate.allowance(STRANGER.ss58_address) == 0


def test_trap_32_zero_stake_everywhere_divides_by_nothing():
    gate = access(peer(1, VALIDATOR, stake=0.0), peer(2, OTHER_VALIDATOR, stake=0.0))
    assert gate.allowance(VALIDATOR.ss58_address) == 20


def test_too_many_are_told_when_to_come_back():
    gate = access()
    for i in range(30):
        gate.count(VALIDATOR.ss58_address, float(i))
    with pytest.raises(OverloadedError) as caught:
        gate.count(VALIDATOR.ss58_address, 30.0)
    assert caught.value.status == 429
    assert 0 < caught.value.retry_after_s <= EPOCH_LENGTH_S
    gate.count(OTHER_VALIDATOR.ss58_address, 30.0)


def test_trap_7_the_allowance_comes_back_and_a_new_roster_does_not_bring_it_early():
    gate = access(peer(1, VALIDATOR))
    for i in range(40):
        gate.count(VALIDATOR.ss58_address, float(i))
    gate.update(roster(peer(1, VALIDATOR), block=9))
    with pytest.raises(OverloadedError):
        gate.count(VALIDATOR.ss58_address, 41.0)
    gate.count(VALIDATOR.ss58_address, 41.0 + EPOCH_LENGTH_S)


def test_a_new_roster_decides():
    gate = access()
    gate.update(roster(peer(1, OTHER_VALIDATOR)))
    assert refusal(gate, VALIDATOR) == "unregistered"
