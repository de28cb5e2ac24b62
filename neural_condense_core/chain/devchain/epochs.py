"""Epochs of the development chain: masks, Yuma, permits and pay, run when somebody looks.

Design decisions

* Whoever opens a transaction past an epoch's end runs it, inside that transaction.
* After a long pause only the last ``MAX_CATCH_UP`` epochs are run: the others would repeat the same
  weights, and their pay is forgone.
* Pay goes to the coldkeys' free balance, as if unstaked at once, so that stakes stay what the
  developer set them to and miners do not drift into permits.
"""

from __future__ import annotations

import sqlite3

import numpy as np
from numpy.typing import NDArray

from neural_condense_core.chain.devchain.ledger import RAO, U16_MAX, credit
from neural_condense_core.chain.devchain.store import Transaction
from neural_condense_core.chain.yuma import Shares, yuma

MAX_CATCH_UP = 64
EMISSION_PER_BLOCK = RAO
OWNER_CUT = 0.18
MINERS_CUT = 0.41
VALIDATORS_CUT = 0.41
BONDS_SCALE = 1_000_000


def run_overdue(now: Transaction) -> None:
    """Run all epochs that are due by this block, oldest first."""
    for subnet in now.all("SELECT * FROM subnet"):
        tempo = subnet["tempo"]
        due = (now.block - subnet["last_epoch"]) // tempo
        skipped = max(0, due - MAX_CATCH_UP)
        for index in range(skipped + 1, due + 1):
            run_epoch(now, subnet, subnet["last_epoch"] + index * tempo)
        now.run(
            "UPDATE subnet SET last_epoch = ?, epochs = epochs + ? WHERE netuid = ?",
            *(subnet["last_epoch"] + due * tempo, due, subnet["netuid"]),
        )


def run_epoch(now: Transaction, subnet: sqlite3.Row, block: int) -> None:
    """Run one epoch of one subnet.

    Parameters
    ----------
    subnet : its row
    block : at which the epoch was due
    """
    neurons = now.neurons(subnet["netuid"])
    if not neurons:
        return
    stake = _stakes(now, subnet["netuid"], neurons)
    active = _column(neurons, "last_update") + subnet["activity_cutoff"] >= block
    counts = active & (_column(neurons, "permit") > 0)
    weights = _matrix(now, "weight", subnet["netuid"], len(neurons))
    shares = yuma(
        np.where(counts, stake, 0.0),
        np.where(counts[:, None], _masked(weights, neurons), 0.0),
        _matrix(now, "bond", subnet["netuid"], len(neurons)),
        kappa=subnet["kappa"] / U16_MAX,
        bonds_alpha=1 - subnet["bonds_average"] / BONDS_SCALE,
    )
    permits = _permits(stake, subnet["max_validators"])
    _store(now, subnet, neurons, shares, permits, active)
    _store_bonds(now, subnet["netuid"], shares.bonds)


def _stakes(now: Transaction, netuid: int, neurons: list[sqlite3.Row]) -> NDArray[np.float64]:
    amounts = dict(
        tuple(row) for row in now.all("SELECT hotkey, amount FROM stake WHERE netuid = ?", netuid)
    )
    return np.array([amounts.get(neuron["hotkey"], 0) for neuron in neurons], dtype=np.float64)


def _column(neurons: list[sqlite3.Row], name: str) -> NDArray[np.int64]:
    return np.array([neuron[name] for neuron in neurons], dtype=np.int64)


def _matrix(now: Transaction, table: str, netuid: int, size: int) -> NDArray[np.float64]:
    matrix = np.zeros((size, size))
    rows = now.all(f"SELECT uid, target, value FROM {table} WHERE netuid = ?", netuid)  # noqa: S608
    for uid, target, value in rows:
        if uid < size and target < size:
            matrix[uid, target] = value / U16_MAX
    return matrix


def _masked(weights: NDArray[np.float64], neurons: list[sqlite3.Row]) -> NDArray[np.float64]:
    set_at = _column(neurons, "last_update")[:, None]
    fresh = set_at > _column(neurons, "registered_at")[None, :]
    others = ~np.eye(len(neurons), dtype=bool)
    others[0, 0] = True  # the owner may weigh itself
    return np.where(fresh & others, weights, 0.0)


def _permits(stake: NDArray[np.float64], places: int) -> NDArray[np.bool_]:
    best = np.argsort(-stake, kind="stable")[:places]
    permits = np.zeros(len(stake), dtype=bool)
    permits[best] = True
    return permits & (stake > 0)


def _store(
    now: Transaction,
    subnet: sqlite3.Row,
    neurons: list[sqlite3.Row],
    shares: Shares,
    permits: NDArray[np.bool_],
    active: NDArray[np.bool_],
) -> None:
    pot = EMISSION_PER_BLOCK * subnet["tempo"]
    pay = pot * (MINERS_CUT * shares.incentive + VALIDATORS_CUT * shares.dividends)
    credit(now, subnet["owner_coldkey"], int(pot * OWNER_CUT))
    for uid, neuron in enumerate(neurons):
        if pay[uid]:
            credit(now, neuron["coldkey"], int(pay[uid]))
        now.run(
            "UPDATE neuron SET permit = ?, active = ?, incentive = ?, dividends = ?,"
            " consensus = ?, trust = ?, emission = ? WHERE netuid = ? AND uid = ?",
            *(int(permits[uid]), int(active[uid])),
            *(
                int(vector[uid] * U16_MAX)
                for vector in (shares.incentive, shares.dividends, shares.consensus, shares.trust)
            ),
            *(int(pay[uid]), subnet["netuid"], uid),
        )


def _store_bonds(now: Transaction, netuid: int, bonds: NDArray[np.float64]) -> None:
    stored = (bonds * U16_MAX).astype(int)
    now.run("DELETE FROM bond WHERE netuid = ?", netuid)
    now.db.executemany(
        "INSERT INTO bond VALUES (?, ?, ?, ?)",
        [
            (netuid, int(uid), int(target), int(stored[uid, target]))
            for uid, target in np.argwhere(stored)
        ],
    )
