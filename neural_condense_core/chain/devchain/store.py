"""The development chain's file: connections, transactions and the block clock.

Design decisions

* No daemon: a block's number follows from the wall clock and an offset kept in the file. Whoever
  opens a transaction past the end of an epoch runs that epoch first (``on_overdue``).
* Every access is one transaction: a reader sees one state, a writer excludes all others, and a
  process that dies leaves nothing half-written (WAL).
* The connection is dropped after any failure, and when the path holds another file than the one
  that was opened, so that a chain that was moved, restored or made anew is seen at once.
* Block numbers never go back, even if the clock does: the highest one written is kept.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from neural_condense_core.chain.base import Clock
from neural_condense_core.errors import ChainError, ChainUnavailable, ConfigError

T = TypeVar("T")

APPLICATION_ID = 0x4E43_4443
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 2.0
FIRST_BLOCK = 1

SCHEMA = """
CREATE TABLE clock (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    started_at REAL NOT NULL, block_time_s REAL NOT NULL,
    offset INTEGER NOT NULL, highest INTEGER NOT NULL
);
CREATE TABLE subnet (
    netuid INTEGER PRIMARY KEY,
    owner_hotkey TEXT NOT NULL, owner_coldkey TEXT NOT NULL, created_at INTEGER NOT NULL,
    tempo INTEGER NOT NULL CHECK (tempo > 0), last_epoch INTEGER NOT NULL,
    epochs INTEGER NOT NULL, burn INTEGER NOT NULL, immunity INTEGER NOT NULL,
    max_uids INTEGER NOT NULL, max_validators INTEGER NOT NULL,
    weights_rate_limit INTEGER NOT NULL, serving_rate_limit INTEGER NOT NULL,
    min_weights INTEGER NOT NULL, max_weight INTEGER NOT NULL, version_key INTEGER NOT NULL,
    commit_reveal INTEGER NOT NULL, kappa INTEGER NOT NULL, bonds_average INTEGER NOT NULL,
    activity_cutoff INTEGER NOT NULL
);
CREATE TABLE account (
    address TEXT PRIMARY KEY, free INTEGER NOT NULL CHECK (free >= 0), nonce INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE owner (hotkey TEXT PRIMARY KEY, coldkey TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE stake (
    netuid INTEGER NOT NULL, hotkey TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (netuid, hotkey)
) WITHOUT ROWID;
CREATE TABLE neuron (
    netuid INTEGER NOT NULL, uid INTEGER NOT NULL, hotkey TEXT NOT NULL, coldkey TEXT NOT NULL,
    registered_at INTEGER NOT NULL, last_update INTEGER NOT NULL,
    permit INTEGER NOT NULL DEFAULT 0, active INTEGER NOT NULL DEFAULT 1,
    incentive INTEGER NOT NULL DEFAULT 0, dividends INTEGER NOT NULL DEFAULT 0,
    consensus INTEGER NOT NULL DEFAULT 0, trust INTEGER NOT NULL DEFAULT 0,
    emission INTEGER NOT NULL DEFAULT 0,
    ip TEXT, port INTEGER NOT NULL DEFAULT 0, ip_type INTEGER NOT NULL DEFAULT 4,
    protocol INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 0,
    served_at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (netuid, uid), UNIQUE (netuid, hotkey)
) WITHOUT ROWID;
CREATE TABLE weight (
    netuid INTEGER NOT NULL, uid INTEGER NOT NULL, target INTEGER NOT NULL,
    value INTEGER NOT NULL, PRIMARY KEY (netuid, uid, target)
) WITHOUT ROWID;
CREATE TABLE bond (
    netuid INTEGER NOT NULL, uid INTEGER NOT NULL, target INTEGER NOT NULL,
    value INTEGER NOT NULL, PRIMARY KEY (netuid, uid, target)
) WITHOUT ROWID;
CREATE TABLE weight_commit (
    netuid INTEGER NOT NULL, epoch INTEGER NOT NULL, hotkey TEXT NOT NULL,
    block INTEGER NOT NULL, ciphertext BLOB NOT NULL, reveal_round INTEGER NOT NULL
);
CREATE TABLE extrinsic (
    block INTEGER NOT NULL, position INTEGER NOT NULL, hash TEXT NOT NULL,
    signer TEXT NOT NULL, module TEXT NOT NULL, function TEXT NOT NULL, error TEXT,
    PRIMARY KEY (block, position)
) WITHOUT ROWID;
CREATE INDEX extrinsic_hash ON extrinsic (hash);
"""


class Transaction:
    """One transaction on the chain, at one block.

    Parameters
    ----------
    db : an open transaction
    block : number of the block it happens in
    """

    def __init__(self, db: sqlite3.Connection, block: int) -> None:
        self.db = db
        self.block = block

    def one(self, sql: str, *values: object) -> sqlite3.Row | None:
        """Return the first row, or None."""
        row: sqlite3.Row | None = self.db.execute(sql, values).fetchone()
        return row

    def all(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Return all rows."""
        return self.db.execute(sql, values).fetchall()

    def run(self, sql: str, *values: object) -> None:
        """Execute a statement that returns nothing."""
        self.db.execute(sql, values)

    def subnet(self, netuid: int) -> sqlite3.Row | None:
        """Return a subnet's row, or None."""
        return self.one("SELECT * FROM subnet WHERE netuid = ?", netuid)

    def neuron(self, netuid: int, hotkey: str) -> sqlite3.Row | None:
        """Return the row of a hotkey's neuron, or None where it is not registered."""
        return self.one("SELECT * FROM neuron WHERE netuid = ? AND hotkey = ?", netuid, hotkey)

    def neurons(self, netuid: int) -> list[sqlite3.Row]:
        """Return the rows of a subnet's neurons, by uid."""
        return self.all("SELECT * FROM neuron WHERE netuid = ? ORDER BY uid", netuid)


Overdue = Callable[[Transaction], None]


class Store:
    """The file, for one process and one thread at a time.

    Parameters
    ----------
    path : of the file, which must exist
    on_overdue : runs the epochs that are due; called in a transaction that may write
    clock : seconds since 1970
    busy_timeout_s : how long to wait for other processes' transactions
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        on_overdue: Overdue,
        *,
        clock: Clock = time.time,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path = Path(path)
        self._on_overdue = on_overdue
        self._clock = clock
        self._busy_timeout_s = busy_timeout_s
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` on one state of the chain, after the epochs that are due."""
        return self._guarded(lambda: self._read(work))

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` alone; all it wrote is kept, or none where it raises."""
        return self._guarded(lambda: self._write(work))

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        db, self._db, self._file = self._db, None, None
        if db is not None:
            db.close()

    def _guarded(self, access: Callable[[], T]) -> T:
        try:
            return access()
        except (sqlite3.Error, OSError) as error:
            self._abandon()
            raise ChainUnavailable(
                f"the development chain {str(self.path)!r} cannot be used now: {error}"
            ) from error
        except BaseException:
            self._roll_back()
            raise

    def _abandon(self) -> None:
        db, self._db, self._file = self._db, None, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _roll_back(self) -> None:
        if self._db is not None and self._db.in_transaction:
            self._db.rollback()

    def _read(self, work: Callable[[Transaction], T]) -> T:
        db = self._connection()
        db.execute("BEGIN")
        now = Transaction(db, self._block(db))
        if is_overdue(now):
            db.rollback()
            self._write(lambda _: None)
            db.execute("BEGIN")
            now = Transaction(db, self._block(db))
        result = work(now)
        db.rollback()
        return result

    def _write(self, work: Callable[[Transaction], T]) -> T:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        now = Transaction(db, self._block(db))
        now.run("UPDATE clock SET highest = ?", now.block)
        if is_overdue(now):
            self._on_overdue(now)
        result = work(now)
        db.commit()
        return result

    def _block(self, db: sqlite3.Connection) -> int:
        row = db.execute("SELECT * FROM clock").fetchone()
        elapsed = max(0.0, self._clock() - row["started_at"])
        current = FIRST_BLOCK + int(elapsed / row["block_time_s"]) + int(row["offset"])
        return max(current, int(row["highest"]))

    def _connection(self) -> sqlite3.Connection:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._abandon()
            raise ChainUnavailable(
                f"there is no development chain at {str(self.path)!r}; "
                "make one with 'condense dev init'"
            ) from None
        if self._db is None or self._file != (status.st_dev, status.st_ino):
            self._abandon()
            self._db = self._open()
            self._file = (status.st_dev, status.st_ino)
        return self._db

    def _open(self) -> sqlite3.Connection:
        db = _connect(self.path, self._busy_timeout_s)
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS]
        if found != [APPLICATION_ID, SCHEMA_VERSION]:
            db.close()
            raise ChainError(
                f"{str(self.path)!r} is no development chain of this version; "
                "make one with 'condense dev init --force'"
            )
        return db


_MARKS = ("application_id", "user_version")


def is_overdue(now: Transaction) -> bool:
    """Return whether some subnet's epoch is due."""
    return now.one("SELECT 1 FROM subnet WHERE last_epoch + tempo <= ?", now.block) is not None


def create(
    path: Path,
    fill: Callable[[Transaction], None],
    *,
    block_time_s: float,
    replace: bool = False,
    clock: Clock = time.time,
) -> None:
    """Make a chain's file; it appears complete or not at all.

    Parameters
    ----------
    path : of the file; its folder is made
    fill : writes the first state, in block 1
    block_time_s : seconds between blocks
    replace : whether a file that is there may be lost
    clock : seconds since 1970

    Raises
    ------
    ConfigError
        There is a file already, or it cannot be made.
    """
    if path.exists() and not replace:
        raise ConfigError(
            f"there is a development chain at {str(path)!r}; --force makes a new one in its place"
        )
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_draft(draft, fill, block_time_s, clock())
        for part in ("", "-wal", "-shm"):  # before the new file: an old log must not meet it
            Path(f"{path}{part}").unlink(missing_ok=True)
        os.replace(draft, path)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ConfigError(f"cannot make {str(path)!r}: {error}") from error


def _write_draft(
    draft: Path, fill: Callable[[Transaction], None], block_time_s: float, now_s: float
) -> None:
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    db = _connect(draft, BUSY_TIMEOUT_S)
    try:
        db.executescript(SCHEMA)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO clock VALUES (0, ?, ?, 0, ?)", (now_s, block_time_s, FIRST_BLOCK))
        fill(Transaction(db, FIRST_BLOCK))
        db.commit()
        db.execute("PRAGMA journal_mode = WAL")
    finally:
        db.close()


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA synchronous = NORMAL")
    return db
