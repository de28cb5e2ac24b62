"""The values that nodes are handed."""

from __future__ import annotations

import dataclasses

import pytest

from neural_condense_core.chain.base import Peer, Roster

PEERS = tuple(
    Peer(uid, f"hot{uid}", f"cold{uid}", None, 0.0, False, 0.0, 0, 0) for uid in (0, 1, 4)
)
ROSTER = Roster(52, 10, 20, 1, "hot0", PEERS, 0.0)


@pytest.mark.parametrize(("hotkey", "uid"), [("hot0", 0), ("hot4", 4), ("cold0", None)])
def test_by_hotkey(hotkey, uid):
    found = ROSTER.by_hotkey(hotkey)
    assert (found.uid if found else None) == uid


@pytest.mark.parametrize(("uid", "hotkey"), [(0, "hot0"), (4, "hot4"), (2, None)])
def test_by_uid(uid, hotkey):
    found = ROSTER.by_uid(uid)
    assert (found.hotkey if found else None) == hotkey


def test_a_roster_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROSTER.block = 11
    assert dataclasses.replace(ROSTER) == ROSTER
