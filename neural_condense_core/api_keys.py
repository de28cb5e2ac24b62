"""Who may use an HTTP API of ours: API keys and hotkeys, hashed, counted and revocable.

Where it sits: ``condense keys`` writes, a validator's organic API and a gateway read; both at once
is fine.

Design decisions

* A key is shown once and kept as a SHA-256 of 32 random bytes; that needs no slow hash, since
  nobody can guess it. It names its row, so that one row is compared, in constant time.
* A quota counts requests of a day (UTC) in the file, so a restart forgives nobody.
* A hotkey can stand where a key does: its owner then signs requests and needs no secret of ours.
* What is revoked stays in the list, so that old log lines can still be read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from neural_condense_core.errors import ConfigError, OverloadedError, UnauthorizedError

FILE_NAME = "keys.sqlite"
DEFAULT_QUOTA = 1_000
MAX_NAME_CHARS = 64
DAY_S = 86_400

_TOKEN = re.compile(r"nck_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_HOTKEY = re.compile(r"[1-9A-HJ-NP-Za-km-z]{46,50}")
_SCHEMA = """
create table if not exists keys (
    id text primary key, name text not null, digest blob, hotkey text unique,
    quota integer not null, made_at real not null, revoked_at real
) strict;
create table if not exists used (
    id text not null, day integer not null, n integer not null, primary key (id, day)
) strict;
"""
_COLUMNS = "id, name, hotkey, quota, made_at, revoked_at"


@dataclass(frozen=True)
class ApiUser:
    """Somebody who may use the API.

    Parameters
    ----------
    id : what the records call it
    name : what its maker called it
    hotkey : whose signature it takes; None = it takes a key
    quota : requests a day
    made_at, revoked_at : seconds since 1970; None = it is valid
    """

    id: str
    name: str
    hotkey: str | None
    quota: int
    made_at: float
    revoked_at: float | None = None


class ApiUsers:
    """The list of users; usable by several threads and processes.

    Parameters
    ----------
    path : the SQLite file; made, with its folder
    clock : seconds since 1970
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=5.0, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("pragma journal_mode = wal")
            self._connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cannot open the keys at {path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add(self, name: str, quota: int = DEFAULT_QUOTA) -> tuple[ApiUser, str]:
        """Make a key.

        Parameters
        ----------
        name : whose it is, for the list
        quota : requests a day

        Returns
        -------
        the user, and the key, which is shown this once
        """
        made = secrets.token_hex(6)
        secret = secrets.token_urlsafe(32)
        return self._insert(made, name, quota, _digest(secret), None), f"nck_{made}_{secret}"

    def add_hotkey(self, hotkey: str, name: str, quota: int = DEFAULT_QUOTA) -> ApiUser:
        """Admit a hotkey.

        Parameters
        ----------
        hotkey : ss58 address that signs the requests
        name, quota : as in ``add``

        Raises
        ------
        ConfigError
            It is no address.
        """
        if not _HOTKEY.fullmatch(hotkey):
            raise ConfigError(f"{hotkey!r} is no ss58 address")
        return self._insert(secrets.token_hex(6), name, quota, None, hotkey)

    def all(self) -> list[ApiUser]:
        """Return everybody, the revoked too, oldest first."""
        with self._lock:
            rows = self._connection.execute(f"select {_COLUMNS} from keys order by made_at, id")  # noqa: S608
            return [ApiUser(*row) for row in rows]

    def revoke(self, key_id: str) -> None:
        """End a user's access, from the next request on.

        Parameters
        ----------
        key_id : as listed

        Raises
        ------
        ConfigError
            There is none of that id, or it is revoked already.
        """
        with self._lock:
            done = self._connection.execute(
                "update keys set revoked_at = ? where id = ? and revoked_at is null",
                (self._clock(), key_id),
            )
        if done.rowcount != 1:
            raise ConfigError(f"no valid key has the id {key_id!r}; see condense keys list")

    def by_token(self, token: str) -> ApiUser:
        """Return whose key this is.

        Parameters
        ----------
        token : from outside

        Raises
        ------
        UnauthorizedError
            It is nobody's, or revoked; which of the two is not told.
        """
        match = _TOKEN.fullmatch(token[:128])
        row = None
        if match is not None:
            with self._lock:
                row = self._connection.execute(
                    f"select {_COLUMNS}, digest from keys where id = ?",  # noqa: S608
                    (match[1],),
                ).fetchone()
        given = _digest(match[2] if match else "")
        stored = row[-1] if row is not None and row[-1] is not None else bytes(32)
        is_right = hmac.compare_digest(given, stored)
        if row is None or not is_right or row[5] is not None:
            raise UnauthorizedError("this API key is not known here, or was revoked")
        return ApiUser(*row[:-1])

    def by_hotkey(self, hotkey: str) -> ApiUser | None:
        """Return who signs with a hotkey; None if nobody valid does."""
        with self._lock:
            row = self._connection.execute(
                f"select {_COLUMNS} from keys where hotkey = ? and revoked_at is null",  # noqa: S608
                (hotkey,),
            ).fetchone()
        return None if row is None else ApiUser(*row)

    def charge(self, user: ApiUser) -> int:
        """Count a request and return how many are left today.

        Parameters
        ----------
        user : who asks

        Raises
        ------
        OverloadedError
            The day's quota is used up.
        """
        now = self._clock()
        day = int(now // DAY_S)
        with self._lock:
            row = self._connection.execute(
                "insert into used values (?, ?, 1) on conflict do update set n = n + 1"
                " where n < ? returning n",
                (user.id, day, user.quota),
            ).fetchone()
            if row is not None and row[0] == 1:
                self._connection.execute("delete from used where day < ?", (day - 31,))
        if row is None or row[0] > user.quota:
            raise OverloadedError(
                f"the quota of {user.quota} requests a day is used up",
                {"reason": "quota", "quota": user.quota},
                retry_after_s=(day + 1) * DAY_S - now,
            )
        return int(user.quota - row[0])

    def _insert(
        self, key_id: str, name: str, quota: int, digest: bytes | None, hotkey: str | None
    ) -> ApiUser:
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
            raise ConfigError(f"a name has 1 to {MAX_NAME_CHARS} printable characters")
        if quota < 1:
            raise ConfigError("a quota is at least 1 request a day")
        user = ApiUser(key_id, name, hotkey, quota, self._clock())
        try:
            with self._lock:
                if hotkey is not None:
                    self._connection.execute(
                        "delete from keys where hotkey = ? and revoked_at is not null", (hotkey,)
                    )
                self._connection.execute(
                    "insert into keys values (?, ?, ?, ?, ?, ?, null)",
                    (key_id, name, digest, hotkey, quota, user.made_at),
                )
        except sqlite3.IntegrityError:
            raise ConfigError(f"{hotkey} is admitted already; revoke it first") from None
        return user


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
