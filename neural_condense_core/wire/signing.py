"""Signed requests and signed answers between nodes: btauth/1 of the bittensor SDK.

Where it sits: a validator signs its request to a miner with ``sign_request``, the miner checks it
with ``verify_request``, signs the reply with ``sign_answer``, and the validator checks that with
``verify_answer``. The bytes that are signed are the SDK's; nothing here invents cryptography.

Design decisions

* A receiver is always required: otherwise one validator's request can be replayed at every miner.
* An answer is signed as a request to ``TARGET#NONCE``, so it fits the one request it answers and no
  other; nothing has to be remembered for that.
* The replay store is a file: processes share it and a restart does not forget. If it cannot be
  written the request is refused, never waved through.
* Header lengths are bounded before anything is computed from them: decoding an address costs time
  quadratic in its length.
* sr25519 only, the keys that the chain's hotkeys are. Later SDKs want that said explicitly; the
  call below fits both.
* The SDK is imported when it is first needed: it takes half a second.
"""

from __future__ import annotations

import inspect
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from neural_condense_core.errors import SignatureError, UnavailableError

if TYPE_CHECKING:
    from bittensor.signing import WalletLike

Key: TypeAlias = "WalletLike"
"""What signs: a wallet (its hotkey is used) or a key pair."""

MAX_AGE_S = 30.0
"""Oldest request that is taken; covers the upload and clocks that differ."""
ALLOWED_SKEW_S = 2.0
"""How far ahead the sender's clock may be."""
RETENTION_S = 3 * (MAX_AGE_S + ALLOWED_SKEW_S)
"""How long a request is remembered; above twice the window, so that a step of the clock by less
than a window opens no old request again."""

HOTKEY_HEADER = "x-bittensor-hotkey"
NONCE_HEADER = "x-bittensor-nonce"
CRYPTO_HEADER = "x-bittensor-crypto"
MAX_HEADER_CHARS: Mapping[str, int] = {
    "x-bittensor-version": 8,
    HOTKEY_HEADER: 64,
    "x-bittensor-receiver": 64,
    NONCE_HEADER: 24,
    CRYPTO_HEADER: 16,
    "x-bittensor-signature": 160,
}
"""Longest values; an address has 48 characters, a signature 130."""

_SCHEME = "sr25519"
_ANSWERED_METHOD = "POST"
_REASONS = {
    "MalformedAuth": "malformed",
    "WrongReceiver": "receiver",
    "StaleRequest": "stale",
    "BadSignature": "signature",
    "ReplayedRequest": "replayed",
}


@dataclass(frozen=True)
class Caller:
    """Who signed a request.

    Parameters
    ----------
    hotkey : ss58 address
    nonce_ns : when the request was signed, nanoseconds since 1970; an answer is bound to it
    """

    hotkey: str
    nonce_ns: int


class ReplayStore(Protocol):
    """What remembers accepted requests."""

    @property
    def retention(self) -> float:
        """Seconds that a request is remembered."""

    def check_and_store(self, hotkey: str, nonce_ns: int) -> bool:
        """Remember a request; False if it was known."""


class NonceStore:
    """Accepted requests in a SQLite file that all processes of a node share.

    May be used by several threads.

    Parameters
    ----------
    path : the file; its folder is made
    retention_s : seconds that a request is remembered
    clock_ns : nanoseconds since 1970
    """

    def __init__(
        self,
        path: str | Path,
        retention_s: float = RETENTION_S,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        least = 2 * (MAX_AGE_S + ALLOWED_SKEW_S)
        if retention_s < least:
            raise ValueError(f"retention_s must be at least {least:g}, or replays get through")
        self.path = Path(path)
        self._retention_s = retention_s
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._next_purge_ns = 0
        self._connection = self._open()

    @property
    def retention(self) -> float:
        """Seconds that a request is remembered; the SDK compares it with the window."""
        return self._retention_s

    def check_and_store(self, hotkey: str, nonce_ns: int) -> bool:
        """Remember a request.

        Parameters
        ----------
        hotkey : who signed it
        nonce_ns : when

        Returns
        -------
        whether it is new

        Raises
        ------
        UnavailableError
            The file cannot be written, so nothing can be said.
        """
        try:
            with self._lock:
                self._purge()
                done = self._connection.execute(
                    "insert or ignore into nonce(hotkey, nonce_ns) values(?, ?)", (hotkey, nonce_ns)
                )
                return done.rowcount == 1
        except sqlite3.Error as error:
            raise UnavailableError(_unwritable(error), {"reason": "replay_store"}) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=2.0, isolation_level=None, check_same_thread=False
            )
            # A crash of the machine may lose the last moments; requests signed then are stale soon.
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma synchronous=normal")
            connection.execute(
                "create table if not exists nonce(hotkey text not null, nonce_ns integer not null,"
                " primary key(hotkey, nonce_ns)) without rowid"
            )
            connection.execute("create index if not exists by_age on nonce(nonce_ns)")
        except (sqlite3.Error, OSError) as error:
            raise UnavailableError(_unwritable(error), {"reason": "replay_store"}) from error
        return connection

    def _purge(self) -> None:
        now_ns = self._clock_ns()
        if now_ns < self._next_purge_ns:
            return
        retention_ns = int(self._retention_s * 1e9)
        self._connection.execute("delete from nonce where nonce_ns < ?", (now_ns - retention_ns,))
        self._next_purge_ns = now_ns + retention_ns // 8


def sign_request(
    key: Key, *, method: str, target: str, body: bytes, receiver: str
) -> dict[str, str]:
    """Return the headers that make a request signed; a retry needs new ones.

    Parameters
    ----------
    key : the sender's
    method : ``"POST"`` for example
    target : path and query exactly as they go over the wire, percent-encoded
    body : exactly as it goes over the wire
    receiver : hotkey of the node it is for
    """
    from bittensor import http_auth

    return http_auth.sign(key, method=method, path=target, body=body, receiver_ss58=receiver)


def nonce_of(headers: Mapping[str, str]) -> int:
    """Return the nonce of headers that ``sign_request`` made, for ``verify_answer``.

    Raises
    ------
    ValueError
        They hold none.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    if NONCE_HEADER not in lowered:
        raise ValueError("these headers are not signed")
    return int(lowered[NONCE_HEADER])


def claimed_hotkey(headers: Mapping[str, str]) -> str:
    """Return the hotkey that a request claims to come from; nothing is proven by it.

    Lets a node turn strangers away before it reads their body.

    Raises
    ------
    SignatureError
        The signature's headers are missing or longer than they can be.
    """
    bounded = _bounded(headers)
    if not bounded.get(HOTKEY_HEADER):
        raise SignatureError("the request is not signed; see btauth/1", {"reason": "malformed"})
    return bounded[HOTKEY_HEADER]


def verify_request(
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str,
    target: str,
    self_hotkey: str,
    store: ReplayStore,
) -> Caller:
    """Check a signed request; says who sent it, not what that key may do.

    What is wrong comes as ``SignatureError`` whose detail names the reason: ``malformed``,
    ``receiver``, ``stale``, ``signature`` or ``replayed``. A store that cannot be written raises
    ``UnavailableError``. Takes a tenth of a millisecond; off the event loop it is better placed.

    Parameters
    ----------
    headers : of the request
    body : as received, before any parsing
    method : of the request
    target : path and query as received, not percent-decoded
    self_hotkey : our own; the request must be for it
    store : remembers accepted requests
    """
    return _verify(headers, body, method=method, target=target, me=self_hotkey, store=store)


def sign_answer(
    key: Key, *, target: str, nonce_ns: int, body: bytes, receiver: str
) -> dict[str, str]:
    """Return the headers that sign an answer to one request.

    Parameters
    ----------
    key : of the node that answers
    target : of the request
    nonce_ns : of the request, ``Caller.nonce_ns``
    body : the whole answer
    receiver : hotkey that asked
    """
    bound = _bound_to(target, nonce_ns)
    return sign_request(key, method=_ANSWERED_METHOD, target=bound, body=body, receiver=receiver)


def verify_answer(
    headers: Mapping[str, str],
    body: bytes,
    *,
    target: str,
    nonce_ns: int,
    self_hotkey: str,
    peer_hotkey: str,
) -> None:
    """Check that an answer was signed by the asked node for this very request.

    Parameters
    ----------
    headers, body : of the answer
    target : of the request
    nonce_ns : of the request, ``nonce_of`` its headers
    self_hotkey : who asked
    peer_hotkey : who was asked

    Raises
    ------
    SignatureError
        Signed by another key; any other fault raises it with that fault's reason.
    """
    if claimed_hotkey(headers) != peer_hotkey:
        raise SignatureError("the answer is signed by another key", {"reason": "other_key"})
    bound = _bound_to(target, nonce_ns)
    _verify(
        headers, body, method=_ANSWERED_METHOD, target=bound, me=self_hotkey, store=_BoundByNonce()
    )


class _BoundByNonce:
    """No memory: the nonce of our own request in the target already makes an answer unique."""

    retention = math.inf

    def check_and_store(self, hotkey: str, nonce_ns: int) -> bool:
        return True


def _bound_to(target: str, nonce_ns: int) -> str:
    return f"{target}#{nonce_ns}"


def _verify(
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str,
    target: str,
    me: str,
    store: ReplayStore,
) -> Caller:
    from bittensor import http_auth

    try:
        caller = http_auth.verify(
            _bounded(headers),
            body,
            method=method,
            path=target,
            self_hotkey_ss58=me,
            max_age=MAX_AGE_S,
            allowed_skew=ALLOWED_SKEW_S,
            nonce_store=store,
            **_expected_scheme(http_auth.verify),
        )
    except http_auth.AuthError as error:
        reason = _REASONS.get(type(error).__name__, "malformed")
        raise SignatureError(f"signature refused: {error}", {"reason": reason}) from None
    return Caller(caller.hotkey_ss58, caller.nonce_ns)


def _expected_scheme(verify: Callable[..., object]) -> dict[str, Any]:
    if "expected_crypto_type" not in inspect.signature(verify).parameters:
        return {}
    from bittensor.sp_core import CRYPTO_SR25519

    return {"expected_crypto_type": CRYPTO_SR25519}


def _bounded(headers: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        lowered = name.lower()
        limit = MAX_HEADER_CHARS.get(lowered)
        if limit is None:
            continue
        if len(value) > limit or lowered in found:
            raise SignatureError(
                f"header {lowered} is longer than {limit} characters, or there twice",
                {"reason": "malformed"},
            )
        found[lowered] = value
    if found.get(CRYPTO_HEADER, _SCHEME).strip().lower() != _SCHEME:
        raise SignatureError(f"only {_SCHEME} signatures are taken", {"reason": "malformed"})
    return found


def _unwritable(error: Exception) -> str:
    kind = type(error).__name__
    return f"the store of seen requests cannot be written ({kind}); check the disk"
