"""How miners stand over time: limits in force, weights sent, incentive paid.

Where it sits: beside ``log.py``, over the same file; the validator notes the incentive that it
reads from the chain, the dashboard draws it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from neural_condense_core.constants import TierConfig
from neural_condense_core.records.log import MAX_ROWS, Records
from neural_condense_core.records.rows import IncentiveRow

TIERS_FACT = "tiers"

_COLUMNS = ", ".join(field.name for field in fields(IncentiveRow))


def tiers(records: Records) -> dict[str, TierConfig]:
    """Return the limits that scores are made with; none before a validator has run."""
    try:
        found = json.loads(records.fact(TIERS_FACT) or "[]")
    except sqlite3.OperationalError:
        # A reader's file that no validator has opened since it was only a log.
        return {}
    return {tier["name"]: TierConfig(**tier) for tier in found}


def write_incentives(
    records: Records, block: int, now: float, shares: Mapping[int, tuple[str, float]]
) -> None:
    """Note what the chain pays.

    Parameters
    ----------
    records : open for writing
    block, now : when it was read, block and seconds since 1970
    shares : uid -> (hotkey, incentive)
    """
    with records.transaction() as connection:
        connection.executemany(
            f"insert or replace into incentives ({_COLUMNS}) values (?, ?, ?, ?, ?)",  # noqa: S608
            [(block, now, uid, hotkey, share) for uid, (hotkey, share) in shares.items()],
        )


def incentives(
    records: Records, hotkey: str | None = None, limit: int = 1_000
) -> list[IncentiveRow]:
    """Return what the chain paid, of one miner or of all, newest first."""
    where, values = ("where hotkey = ?", (hotkey,)) if hotkey is not None else ("", ())
    found = _select(
        records,
        f"select {_COLUMNS} from incentives {where} order by block desc, uid limit ?",  # noqa: S608
        *values,
        min(limit, MAX_ROWS),
    )
    return [IncentiveRow(*row) for row in found]


def latest_incentives(records: Records) -> dict[str, float]:
    """Return hotkey -> incentive as the chain was last read."""
    found = _select(
        records,
        "select hotkey, incentive from incentives"
        " where block = (select max(block) from incentives)",
    )
    return dict(found)


def weights_over_time(records: Records, hotkey: str, limit: int = 500) -> list[tuple[int, float]]:
    """Return (block, weight) of the submissions that name a miner, newest first."""
    return _select(
        records,
        "select block, weight from weights join weight_sets on weight_set = id"
        " where hotkey = ? order by id desc limit ?",
        hotkey,
        min(limit, MAX_ROWS),
    )


def _select(records: Records, sql: str, *values: object) -> list[tuple[Any, ...]]:
    try:
        return records.select(sql, *values)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            # A reader's file, written before there was such a table.
            return []
        raise
