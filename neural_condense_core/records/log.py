"""``Records``: the SQLite file behind the validator's log.

Where it sits: the validator writes it; ``condense explain``, the miners' own questions and the
dashboard read it, each from its own process.

Design decisions

* Append-only but for what is known later: that a round was judged, what the chain said of weights
  and that it holds them. Old rows go by age, never one by one.
* A query names only the columns that it was given, so that the indices serve it: a miner's
  question reads that miner's rows, however long the log is.
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
from neural_condense_core.records.schema import SCHEMA, SCHEMA_VERSION

FILE_NAME = "validator.sqlite"
BUSY_TIMEOUT_S = 5.0
MAX_ROWS = 10_000

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

    def fact(self, name: str) -> str | None:
        """Return what was remembered under a name."""
        found = self.select("select value from facts where name = ?", name)
        return str(found[0][0]) if found else None

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
        code, message : what the chain said; ``answer_weights`` changes it
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

    def answer_weights(self, weight_set: int, code: str, message: str) -> None:
        """Note what the chain said of a submission."""
        sql = "update weight_sets set code = ?, message = ? where id = ?"
        with self.transaction() as connection:
            connection.execute(sql, (code, message, weight_set))

    def confirm_weights(self, weight_set: int) -> int | None:
        """Note that the chain was read and holds a submission; return the block it was sent at."""
        with self.transaction() as connection:
            connection.execute("update weight_sets set confirmed = 1 where id = ?", (weight_set,))
        found = self.select("select block from weight_sets where id = ?", weight_set)
        return int(found[0][0]) if found else None

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
            connection.execute("delete from incentives where at < ?", (before,))

    def rounds(
        self, limit: int = 100, *, tier: str | None = None, round_id: int | None = None
    ) -> list[RoundRow]:
        """Return the newest rounds, newest first."""
        where, values = _where(tier=tier, id=round_id)
        found = self.select(
            f"select {_columns(RoundRow)} from rounds {where}"  # noqa: S608
            " order by id desc limit ?",
            *values, min(limit, MAX_ROWS),
        )  # fmt: skip
        return [RoundRow(*row) for row in found]

    def scores(
        self, hotkey: str | None = None, limit: int = 100, *, round_id: int | None = None
    ) -> list[ScoreRow]:
        """Return the newest scores, of one miner, one round or all, newest first."""
        where, values = _where(hotkey=hotkey, round=round_id)
        found = self.select(
            f"select {_columns(ScoreRow)} from scores {where}"  # noqa: S608
            " order by round desc, uid limit ?",
            *values, min(limit, MAX_ROWS),
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
        where, values = _where(round=round_id, hotkey=hotkey)
        found = self.select(
            f"select {_columns(ReplyRow)} from replies {where}"  # noqa: S608
            " order by round desc, uid, challenge limit ?",
            *values, min(limit, MAX_ROWS),
        )  # fmt: skip
        return [ReplyRow(*row) for row in found]

    def reply_counts(self, since_round: int = 0) -> dict[str, dict[str, int]]:
        """Return hotkey -> code -> how many replies, from a round on."""
        counts: dict[str, dict[str, int]] = {}
        sql = "select hotkey, code, count(*) from replies where round >= ? group by hotkey, code"
        for hotkey, code, count in self.select(sql, since_round):
            counts.setdefault(hotkey, {})[code] = count
        return counts

    def asked_since(self, since: float, kind: str) -> list[tuple[str, str, float]]:
        """Return (tier, hotkey, when) of requests to miners, oldest first.

        Parameters
        ----------
        since : seconds since 1970
        kind : ``synthetic``, of rounds, or ``organic``, of users
        """
        if kind == "organic":
            sql = "select tier, hotkey, at from organic where at >= ? order by at limit ?"
        else:
            sql = (
                "select tier, hotkey, started_at as at from replies join rounds on round = id"
                " where kind = 'synthetic' and replies.status <> 'dormant'"
                " and code <> 'given_up' and at >= ? order by at limit ?"
            )
        return self.select(sql, since, 10 * MAX_ROWS)

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
        where, values = _where(hotkey=hotkey)
        found = self.select(
            f"select {_columns(OrganicRow)} from organic {where}"  # noqa: S608
            " order by id desc limit ?",
            *values, min(limit, MAX_ROWS),
        )  # fmt: skip
        return [
            OrganicRow(**{**_named(OrganicRow, row), "is_sampled": bool(row[-1])}) for row in found
        ]

    def version(self) -> int:
        """Return a number that changes whenever another connection has written."""
        return int(self.select("pragma data_version")[0][0])

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
            connection.executescript(SCHEMA)
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


def _where(**given: object) -> tuple[str, tuple[object, ...]]:
    wanted = {name: value for name, value in given.items() if value is not None}
    terms = " and ".join(f"{name} = ?" for name in wanted)
    return (f"where {terms}" if terms else ""), tuple(wanted.values())


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
