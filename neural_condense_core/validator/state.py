"""``State``: what a validator must not forget, in the file of its records.

Where it sits: ``node.py`` reads it to plan rounds and weights; a finished round is written by it.

Design decisions

* Everything of a miner is keyed by its hotkey and by the block at which that hotkey took its place.
  A new owner of a uid starts fresh, and so does a hotkey that lost its place and bought another.
* A round is two transactions. The first, before anybody is asked, notes who is asked; the second
  writes replies, scores and ratings together. Killed in between, a round has scored nobody, and
  those who were asked stand at the end of the queue all the same.
* Who waited longest is asked next. So everybody is asked once before anybody is asked twice,
  across restarts and whatever an epoch has room for.
* Silence is not a tier change: a miner that does not answer keeps its tier and its rating, and
  loses by the rounds that it misses.
* One validator a file: the file names its hotkey and subnet.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from neural_condense_core.chain.base import Peer, Roster
from neural_condense_core.constants import EPOCH_LENGTH_S, TierConfig
from neural_condense_core.errors import ConfigError
from neural_condense_core.records import Records, ScoreRow
from neural_condense_core.records.standing import TIERS_FACT, write_incentives
from neural_condense_core.scoring.ratings import Rating, rate
from neural_condense_core.validator.replies import DORMANT, SILENT, MinerInfo
from neural_condense_core.validator.results import MinerResult

DORMANT_AFTER = 3
"""Silent rounds in a row after which a miner is tried only now and then."""
MAX_DORMANCY_S = 16.0 * EPOCH_LENGTH_S
MAX_RATING_AGE_S = 24 * 3600.0
"""A rating that nothing has confirmed for so long earns nothing."""

_INCENTIVES_FACT = "incentives_epoch"

_SCHEMA = """
create table if not exists miners (
    hotkey text primary key, registered_at integer not null, tier text not null,
    target_model text not null, seen_at real not null
) strict;
create table if not exists ratings (
    hotkey text not null, tier text not null, registered_at integer not null, value real not null,
    n integer not null, updated_round integer not null, updated_at real not null,
    primary key (hotkey, tier)
) strict;
create table if not exists asked (
    tier text not null, hotkey text not null, last_round integer not null, n integer not null,
    primary key (tier, hotkey)
) strict;
create table if not exists silence (
    hotkey text primary key, registered_at integer not null, n_rounds integer not null,
    retry_at real not null
) strict;
"""


@dataclass(frozen=True)
class Silence:
    """How long a miner has said nothing.

    Parameters
    ----------
    n_rounds : silent rounds in a row
    retry_at : seconds since 1970; not asked before
    """

    n_rounds: int = 0
    retry_at: float = 0.0

    def after(self, was_silent: bool, now: float) -> Silence:
        """Return the state after a round in which it was really asked."""
        if not was_silent:
            return Silence()
        n_rounds = self.n_rounds + 1
        if n_rounds < DORMANT_AFTER:
            return Silence(n_rounds)
        doublings = min(n_rounds - DORMANT_AFTER, 10)
        return Silence(n_rounds, now + min(EPOCH_LENGTH_S * 2.0**doublings, MAX_DORMANCY_S))


class State:
    """What a validator knows of its miners; every method is one transaction or one query.

    Parameters
    ----------
    records : the open log; the state lives in the same file
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        with records.transaction() as connection:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)

    def claim(self, hotkey: str, netuid: int, network: str) -> None:
        """Bind the file to a validator, or check that it is bound to this one.

        Parameters
        ----------
        hotkey, netuid, network : whose state this is

        Raises
        ------
        ConfigError
            The file belongs to another hotkey or subnet.
        """
        mine = f"{network}/{netuid}/{hotkey}"
        found = self.fact("owner")
        if found is None:
            self.remember("owner", mine)
        elif found != mine:
            raise ConfigError(
                f"{self.records.path} holds the state of {found}, not of {mine}; give this "
                "validator a folder of its own"
            )

    def fact(self, name: str) -> str | None:
        """Return what was remembered under a name."""
        return self.records.fact(name)

    def remember(self, name: str, value: str) -> None:
        """Keep a small fact across restarts."""
        with self.records.transaction() as connection:
            connection.execute("insert or replace into facts values (?, ?)", (name, value))

    def remember_tiers(self, tiers: Mapping[str, TierConfig]) -> None:
        """Keep the limits that scores are made with, for whoever reads the records."""
        self.remember(TIERS_FACT, json.dumps([asdict(tier) for tier in tiers.values()]))

    def note_incentives(self, roster: Roster, now: float) -> None:
        """Keep what the chain pays, once an epoch of the subnet."""
        epoch = str(roster.last_epoch)
        if self.fact(_INCENTIVES_FACT) == epoch:
            return
        shares = {peer.uid: (peer.hotkey, peer.incentive) for peer in roster.peers}
        write_incentives(self.records, roster.block, now, shares)
        self.remember(_INCENTIVES_FACT, epoch)

    def met(self, peer: Peer, info: MinerInfo, now: float) -> None:
        """Note what a miner says of itself."""
        row = (peer.hotkey, peer.registered_at, info.tier, info.target_model, now)
        with self.records.transaction() as connection:
            connection.execute("insert or replace into miners values (?, ?, ?, ?, ?)", row)

    def members(self, roster: Roster) -> dict[str, list[Peer]]:
        """Return tier -> its miners, of those on the roster, as they last said."""
        found: dict[str, list[Peer]] = {}
        peers = {(peer.hotkey, peer.registered_at): peer for peer in roster.peers}
        for hotkey, registered_at, tier in self.records.select(
            "select hotkey, registered_at, tier from miners"
        ):
            if (peer := peers.get((hotkey, registered_at))) is not None:
                found.setdefault(tier, []).append(peer)
        return found

    def queue(self, tier: str, peers: Iterable[Peer], seed: int) -> list[Peer]:
        """Return miners in the order in which they are to be asked.

        Parameters
        ----------
        tier : of the round
        peers : the tier's miners
        seed : of the order among equals
        """
        rows = self.records.select("select hotkey, last_round, n from asked where tier = ?", tier)
        # Of those that were asked in one round, some for the second time, the others come first.
        last = {hotkey: (last_round, n) for hotkey, last_round, n in rows}
        order = list(peers)
        random.Random(seed).shuffle(order)  # noqa: S311 - fairness among equals, no secret
        return sorted(order, key=lambda peer: last.get(peer.hotkey, (0, 0)))

    def silence(self, peer: Peer) -> Silence:
        """Return how long a miner has been silent."""
        found = self.records.select(
            "select n_rounds, retry_at from silence where hotkey = ? and registered_at = ?",
            peer.hotkey, peer.registered_at,
        )  # fmt: skip
        return Silence(*found[0]) if found else Silence()

    def begin_round(self, tier: str, block: int, peers: Sequence[Peer], now: float) -> int:
        """Note who is about to be asked; return the round's id.

        Parameters
        ----------
        tier, block : of the round
        peers : everybody whose turn it is
        now : seconds since 1970
        """
        epoch = int(now // EPOCH_LENGTH_S)
        with self.records.transaction() as connection:
            made = self.records.open_round(connection, tier, epoch, block, now)
            connection.executemany(
                "insert into asked values (?, ?, ?, 1) on conflict do update"
                " set last_round = excluded.last_round, n = n + 1",
                [(tier, peer.hotkey, made) for peer in peers],
            )
        return made

    def finish_round(
        self, round_id: int, tier: str, results: Sequence[MinerResult], now: float
    ) -> bool:
        """Write a judged round and move the ratings; all of it, or nothing.

        Parameters
        ----------
        round_id : of ``begin_round``
        tier : of the round
        results : one a miner
        now : seconds since 1970

        Returns
        -------
        False if the round is closed already; then nothing is changed
        """
        with self.records.transaction() as connection:
            if not self.records.close_round(connection, round_id, now):
                return False
            scores = [self._rated(connection, round_id, tier, one, now) for one in results]
            replies = [row for one in results for row in one.rows(round_id)]
            self.records.write_round(connection, replies, scores)
            for one in results:
                _write_silence(connection, one, now)
        return True

    def ratings(self, tier: str, peers: Iterable[Peer], now: float) -> dict[str, float]:
        """Return hotkey -> rating of those that have a current one.

        Parameters
        ----------
        tier : of the ratings
        peers : whose; a rating of an earlier registration does not count
        now : seconds since 1970; a rating nothing has confirmed for a day does not count
        """
        known = {
            (hotkey, registered_at): value
            for hotkey, registered_at, value in self.records.select(
                "select hotkey, registered_at, value from ratings"
                " where tier = ? and updated_at > ?",
                tier, now - MAX_RATING_AGE_S,
            )
        }  # fmt: skip
        return {
            peer.hotkey: known[peer.hotkey, peer.registered_at]
            for peer in peers
            if (peer.hotkey, peer.registered_at) in known
        }

    def ratings_by_tier(self, roster: Roster, now: float) -> dict[str, dict[int, float]]:
        """Return tier -> uid -> rating, each miner in the tier that it serves now."""
        found: dict[str, dict[int, float]] = {}
        for tier, peers in self.members(roster).items():
            uids = {peer.hotkey: peer.uid for peer in peers}
            ratings = self.ratings(tier, peers, now)
            found[tier] = {uids[hotkey]: value for hotkey, value in ratings.items()}
        return found

    def _rated(
        self, connection: sqlite3.Connection, round_id: int, tier: str, one: MinerResult, now: float
    ) -> ScoreRow:
        peer = one.peer
        row = connection.execute(
            "select value, n, updated_round from ratings"
            " where hotkey = ? and tier = ? and registered_at = ?",
            (peer.hotkey, tier, peer.registered_at),
        ).fetchone()
        old = None if row is None else Rating(peer.hotkey, *row)
        new = rate(old, one.score, hotkey=peer.hotkey, updated_round=round_id)
        connection.execute(
            "insert or replace into ratings values (?, ?, ?, ?, ?, ?, ?)",
            (peer.hotkey, tier, peer.registered_at, new.value, new.n, new.updated_round, now),
        )
        return one.score_row(round_id, tier, new.value)


def _write_silence(connection: sqlite3.Connection, one: MinerResult, now: float) -> None:
    asked = [reply.status for reply in one.replies if reply.status != DORMANT]
    if not asked:
        return
    peer = one.peer
    row = connection.execute(
        "select n_rounds, retry_at from silence where hotkey = ? and registered_at = ?",
        (peer.hotkey, peer.registered_at),
    ).fetchone()
    silence = (Silence(*row) if row else Silence()).after(SILENT.issuperset(asked), now)
    connection.execute(
        "insert or replace into silence values (?, ?, ?, ?)",
        (peer.hotkey, peer.registered_at, silence.n_rounds, silence.retry_at),
    )
