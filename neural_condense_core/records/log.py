"""``Records``: the SQLite file behind the validator's log.

Where it sits: the validator writes it; ``condense explain``, the miners' own questions and the
dashboard read it, each from its own process.

Design decisions

* Append-only but for two facts that come later: that a round was judged, and that the chain holds
  a weight. Old rows go by age, never one by one.
* One file with the validator's state, so that a round's rows and the ratings that it moved are one
  transaction: a process killed between two statements has done neither.
* Write-ahead logging: readers never wait for the writer, nor the writer for readers.
* A context is a number of characters here and never its text.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

from neural_condense_core.errors import ConfigError
from neural_condense_core.records.rows import (
    ABANDONED,
    JUDGED,
    OPEN,
    OrganicRow,
    ReplyRow,
    RoundRow,
    ScoreRow,
    WeightRow,
    WeightSet,
)

FILE_NAME = "validator.sqlite"
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 5.0
MAX_ROWS = 10_000


_SCHEMA = """
create table if not exists rounds (
    id integer primary key, tier text not null, epoch integer not null, block integer not null,
    started_at real not null, finished_at real, status text not null, reason text not null
) strict;
create table if not exists replies (
    round integer not null, hotkey text not null, uid integer not null, challenge text not null,
    kind text not null, status text not null, code text not null, elapsed_s real,
    n_condensed integer, primary key (round, hotkey, challenge)
) strict;
create table if not exists scores (
    round integer not null, hotkey text not null, uid integer not null, tier text not null,
    content_recovery real, recovery real, best_baseline_name text, best_baseline_c real,
    score real not null, rating real not null, parts text not null, primary key (round, hotkey)
) strict;
create index if not exists scores_by_hotkey on scores (hotkey, round);
create table if not exists weight_sets (
    id integer primary key, block integer not null, at real not null, code text not null,
    message text not null, confirmed integer not null, is_dry_run integer not null
) strict;
create table if not exists weights (
    weight_set integer not null, uid integer not null, hotkey text not null, weight real not null,
    primary key (weight_set, uid)
) strict;
create table if not exists organic (
    id integer primary key, at real not null, caller text not null, tier text not null,
    hotkey text not null, uid integer not null, status text not null, code text not null,
    elapsed_s real, n_chars integer not null, n_condensed integer, is_sampled integer not null
) strict;
"""
_BY_ROUND = ("replies", "scores")


class Records:
    """The log; usable by several threads.

    Parameters
    ----------
    path : the SQLite file; made, with its folder, unless ``read_only``
    read_only : for readers; ``ConfigError`` where there is no file
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = _connect(path, read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called again."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for writing: everything of the block is kept, or nothing."""
        with self._lock:
            self._connection.execute("begin immediate")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("rollback")
                raise
            self._connection.execute("commit")

    def select(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def open_round(
        self, connection: sqlite3.Connection, tier: str, epoch: int, block: int, now: float
    ) -> int:
        """Begin a round, inside the caller's transaction, and return its id.

        Parameters
        ----------
        connection : of ``transaction``
        tier, epoch, block : as in ``RoundRow``
        now : seconds since 1970
        """
        cursor = connection.execute(
            "insert into rounds (tier, epoch, block, started_at, status, reason)"
            " values (?, ?, ?, ?, ?, '')",
            (tier, epoch, block, now, OPEN),
        )
        return int(cursor.lastrowid or 0)

    def abandon_rounds(self, reason: str, now: float, *, round_id: int | None = None) -> int:
        """Mark open rounds as abandoned, all or one; what they asked is scored for nobody."""
        with self.transaction() as connection:
            cursor = connection.execute(
                "update rounds set status = ?, reason = ?, finished_at = ?"
                " where status = ? and (? is null or id = ?)",
                (ABANDONED, reason, now, OPEN, round_id, round_id),
            )
        return cursor.rowcount

    def close_round(self, connection: sqlite3.Connection, round_id: int, now: float) -> bool:
        """Mark an open round as judged, inside the caller's transaction.

        Parameters
        ----------
        connection : of ``transaction``
        round_id : an open round
        now : seconds since 1970

        Returns
        -------
        False if the round is not open any more: it must not be scored twice
        """
        done = connection.execute(
            "update rounds set status = ?, finished_at = ? where id = ? and status = ?",
            (JUDGED, now, round_id, OPEN),
        )
        return done.rowcount == 1

    def write_round(
        self,
        connection: sqlite3.Connection,
        replies: Sequence[ReplyRow],
        scores: Sequence[ScoreRow],
    ) -> None:
        """Write what a round found, inside the caller's transaction.

        Parameters
        ----------
        connection : of ``transaction``
        replies, scores : the round's rows
        """
        _insert(connection, "replies", replies)
        _insert(connection, "scores", scores)

    def write_weights(
        self,
        block: int,
        weights: Mapping[int, tuple[str, float]],
        *,
        code: str,
        message: str = "",
        is_dry_run: bool = False,
        now: float | None = None,
    ) -> int:
        """Write a submission of weights, not confirmed yet, and return its id.

        Parameters
        ----------
        block : when they were sent
        weights : uid -> (hotkey, weight)
        code, message : what the chain said
        is_dry_run : they were not sent
        now : seconds since 1970; None = the clock's
        """
        at = time.time() if now is None else now
        with self.transaction() as connection:
            cursor = connection.execute(
                "insert into weight_sets (block, at, code, message, confirmed, is_dry_run)"
                " values (?, ?, ?, ?, 0, ?)",
                (block, at, code, message, is_dry_run),
            )
            made = int(cursor.lastrowid or 0)
            rows = [WeightRow(made, uid, hotkey, w) for uid, (hotkey, w) in weights.items()]
            _insert(connection, "weights", rows)
        return made

    def confirm_weights(self, weight_set: int) -> None:
        """Note that the chain was read and holds a submission."""
        with self.transaction() as connection:
            connection.execute("update weight_sets set confirmed = 1 where id = ?", (weight_set,))

    def write_organic(self, row: OrganicRow) -> None:
        """Write one attempt to serve a user."""
        with self.transaction() as connection:
            _insert(connection, "organic", [row])

    def prune(self, before: float) -> None:
        """Drop what is older.

        Parameters
        ----------
        before : seconds since 1970
        """
        with self.transaction() as connection:
            old = "(select id from rounds where started_at < ?)"
            for table in _BY_ROUND:
                connection.execute(f"delete from {table} where round in {old}", (before,))  # noqa: S608
            connection.execute("delete from rounds where started_at < ?", (before,))
            connection.execute("delete from organic where at < ?", (before,))
            sets = "(select id from weight_sets where at < ?)"
            connection.execute(f"delete from weights where weight_set in {sets}", (before,))  # noqa: S608
            connection.execute("delete from weight_sets where at < ?", (before,))

    def rounds(self, limit: int = 100, *, tier: str | None = None) -> list[RoundRow]:
        """Return the newest rounds, newest first."""
        found = self.select(
            f"select {_columns(RoundRow)} from rounds where ? is null or tier = ?"  # noqa: S608
            " order by id desc limit ?",
            tier, tier, min(limit, MAX_ROWS),
        )  # fmt: skip
        return [RoundRow(*row) for row in found]

    def scores(self, hotkey: str | None = None, limit: int = 100) -> list[ScoreRow]:
        """Return the newest scores, of one miner or of all, newest first."""
        found = self.select(
            f"select {_columns(ScoreRow)} from scores where ? is null or hotkey = ?"  # noqa: S608
            " order by round desc, uid limit ?",
            hotkey, hotkey, min(limit, MAX_ROWS),
        )  # fmt: skip
        return [_score(row) for row in found]

    def latest_scores(self) -> list[ScoreRow]:
        """Return the newest score of each miner in each tier, best rating first."""
        found = self.select(
            f"select {_columns(ScoreRow)} from scores s where round = (select max(round)"  # noqa: S608
            " from scores where hotkey = s.hotkey and tier = s.tier)"
            " order by rating desc, uid limit ?",
            MAX_ROWS,
        )
        return [_score(row) for row in found]

    def replies(
        self, *, round_id: int | None = None, hotkey: str | None = None, limit: int = 1_000
    ) -> list[ReplyRow]:
        """Return replies of one round, of one miner, or both; newest rounds first."""
        found = self.select(
            f"select {_columns(ReplyRow)} from replies"  # noqa: S608
            " where (? is null or round = ?) and (? is null or hotkey = ?)"
            " order by round desc, uid, challenge limit ?",
            round_id, round_id, hotkey, hotkey, min(limit, MAX_ROWS),
        )  # fmt: skip
        return [ReplyRow(*row) for row in found]

    def reply_counts(self, since_round: int = 0) -> dict[str, dict[str, int]]:
        """Return hotkey -> code -> how many replies, from a round on."""
        counts: dict[str, dict[str, int]] = {}
        sql = "select hotkey, code, count(*) from replies where round >= ? group by hotkey, code"
        for hotkey, code, count in self.select(sql, since_round):
            counts.setdefault(hotkey, {})[code] = count
        return counts

    def asked_since(self, since: float) -> list[tuple[str, str, float]]:
        """Return (tier, hotkey, when) of requests to miners, oldest first.

        Parameters
        ----------
        since : seconds since 1970
        """
        return self.select(
            "select tier, hotkey, started_at as at from replies join rounds on round = id"
            " where kind = 'synthetic' and replies.status <> 'dormant' and code <> 'given_up'"
            " and at >= ?"
            " union all select tier, hotkey, at from organic where at >= ? order by 3 limit ?",
            since, since, 10 * MAX_ROWS,
        )  # fmt: skip

    def weight_sets(self, limit: int = 20) -> list[WeightSet]:
        """Return the newest submissions of weights, newest first."""
        found = self.select(
            f"select {_columns(WeightSet)} from weight_sets order by id desc limit ?",  # noqa: S608
            min(limit, MAX_ROWS),
        )
        return [WeightSet(*row[:5], *map(bool, row[5:])) for row in found]

    def weights(self, weight_set: int) -> list[WeightRow]:
        """Return the weights of a submission by uid."""
        sql = f"select {_columns(WeightRow)} from weights where weight_set = ? order by uid"  # noqa: S608
        return [WeightRow(*row) for row in self.select(sql, weight_set)]

    def organic(self, limit: int = 100, *, hotkey: str | None = None) -> list[OrganicRow]:
        """Return the newest attempts to serve users, of one miner or of all, newest first."""
        found = self.select(
            f"select {_columns(OrganicRow)} from organic where ? is null or hotkey = ?"  # noqa: S608
            " order by id desc limit ?",
            hotkey, hotkey, min(limit, MAX_ROWS),
        )  # fmt: skip
        return [
            OrganicRow(**{**_named(OrganicRow, row), "is_sampled": bool(row[-1])}) for row in found
        ]

    def hotkey_of(self, uid: int) -> str | None:
        """Return the hotkey that was last seen at a uid; None if none was."""
        found = self.select("select hotkey from scores where uid = ? order by round desc", uid)
        return str(found[0][0]) if found else None


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    if read_only and not path.is_file():
        raise ConfigError(f"there are no records at {path}; has a validator run with this folder?")
    try:
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
            uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        found = int(connection.execute("pragma user_version").fetchone()[0])
        if not read_only and found <= SCHEMA_VERSION:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.executescript(_SCHEMA)
            connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"cannot open the records at {path}: {error}") from error
    if read_only and found == 0:
        connection.close()
        raise ConfigError(f"there are no records at {path} yet; try again")
    if found > SCHEMA_VERSION:
        connection.close()
        raise ConfigError(f"{path} was written by a newer version; update, or move it away")
    return connection


def _columns(row: type) -> str:
    return ", ".join(f.name for f in fields(row))


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[Any]) -> None:
    if not rows:
        return
    names = [f.name for f in fields(rows[0])]
    marks = ", ".join("?" * len(names))
    sql = f"insert into {table} ({', '.join(names)}) values ({marks})"  # noqa: S608
    connection.executemany(sql, [tuple(map(_cell, asdict(row).values())) for row in rows])


def _cell(value: object) -> object:
    return json.dumps(value, allow_nan=False) if isinstance(value, Mapping) else value


def _score(row: tuple[Any, ...]) -> ScoreRow:
    return ScoreRow(**{**_named(ScoreRow, row), "parts": json.loads(row[-1])})


def _named(kind: type, row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip((f.name for f in fields(kind)), row, strict=True))
