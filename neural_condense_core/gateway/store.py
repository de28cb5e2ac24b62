"""Condensed contexts that are kept, to be used again by their ids.

Where it sits: ``contexts.py`` fills it and looks into it; one gateway process, any of its threads.

Design decisions

* An id is made of the text, the model, the condenser, the ratio and the user: the same text again
  is found and not condensed again, and nobody can ask whether another user has sent a text.
* No text is kept, only what it became.
* A context that nobody used for ``ttl_s`` goes. A user has a quota, the gateway a bound; where one
  is reached, contexts that were only kept along the way make room, least recently used first. Those
  that somebody asked to keep stay until they expire, and what finds no room beside them is refused.
* With a folder, contexts outlive the process: one safetensors file each, and beside it what else is
  known. Memory is then a cache. A file that is not what it was is treated as absent, and what an
  end amid writing left behind is removed at the next start.
* Contexts stand in the order of their use, so what has expired stands first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from neural_condense_core.errors import (
    CodecError,
    ConfigError,
    OverloadedError,
    UnknownContextError,
)
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors, to_safetensors
from neural_condense_core.wire.gateway import ID_PATTERN

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 30
_OWNER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ID = re.compile(ID_PATTERN)
_LEFT_OVER = re.compile(rf"{ID_PATTERN}\.(json|safetensors)(\.part)?")

Key = tuple[str, str]
"""Owner and id."""


@dataclass(frozen=True)
class About:
    """What is known of a stored context, its matrix apart.

    Parameters
    ----------
    id, owner : its name, and whose it is
    condenser, target_model : who made it, for whom
    ratio : that was asked for
    n_context_tokens, n_condensed_tokens, hidden_size : of it
    nbytes : of the matrix
    recovery : estimated content recovery; None = not known
    made_at, used_at : seconds since 1970
    is_pinned : whether somebody asked to keep it
    """

    id: str
    owner: str
    condenser: str
    target_model: str
    ratio: float
    n_context_tokens: int
    n_condensed_tokens: int
    hidden_size: int
    nbytes: int
    recovery: float | None
    made_at: float
    used_at: float
    is_pinned: bool


@dataclass(frozen=True, eq=False)
class Stored:
    """A stored context."""

    about: About
    tokens: CondensedTokens


@dataclass(frozen=True)
class Bounds:
    """How much is kept.

    Parameters
    ----------
    memory_bytes : of matrices in memory
    disk_bytes : of matrices in the folder
    quota_bytes : of one owner's matrices
    ttl_s : how long an unused context is kept, seconds
    """

    memory_bytes: int
    disk_bytes: int
    quota_bytes: int
    ttl_s: float


def context_id(owner: str, target_model: str, condenser: str, ratio: float, text: str) -> str:
    """Return the id of a text under an owner."""
    digest = hashlib.sha256()
    for part in (owner, target_model, condenser, f"{ratio:.6g}", text):
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return f"ctx_{digest.hexdigest()[:32]}"


class ContextStore:
    """Keeps condensed contexts, within bounds.

    Parameters
    ----------
    bounds : how much
    folder : where contexts outlive the process; None = memory alone
    clock : seconds since 1970
    """

    def __init__(
        self, bounds: Bounds, folder: Path | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.bounds = bounds
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._all: OrderedDict[Key, About] = OrderedDict()
        self._held: OrderedDict[Key, CondensedTokens] = OrderedDict()
        self._nbytes = 0
        if folder is not None:
            self._read_folder(folder)

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices that are kept."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._all)

    def get(self, owner: str, context_id: str) -> Stored:
        """Return a context, and count it as used.

        Parameters
        ----------
        owner : whose it must be
        context_id : from outside

        Raises
        ------
        UnknownContextError
            There is none, or no more.
        """
        found = self.find(owner, context_id)
        if found is None:
            raise UnknownContextError(
                "no context of yours has this id, or it has expired; condense the text again",
                {"param": "id"},
            )
        return found

    def find(self, owner: str, context_id: str) -> Stored | None:
        """Return a context, and count it as used; None if there is none."""
        with self._lock:
            self._drop_expired()
            key = (owner, context_id)
            about = self._all.get(key)
            if about is None or self.expires_at(about) <= self._clock():
                self._drop(key)
                return None
            tokens = self._held.get(key) or self._read(about)
            if tokens is None:
                self._drop(key)
                return None
            about = replace(about, used_at=self._clock())
            self._list(about)
            self._hold(key, tokens)
            self._touch(about)
            return Stored(about, tokens)

    def put(self, stored: Stored) -> Stored:
        """Keep a context, in place of one of the same id.

        Raises
        ------
        OverloadedError
            There is no room for it beside what its owner, or everybody, asked to keep.
        """
        about = stored.about
        key = (about.owner, about.id)
        with self._lock:
            self._drop_expired()
            before = self._all.get(key)
            if before is not None and before.is_pinned:
                about = replace(about, is_pinned=True)
            within = self.bounds.memory_bytes if self._folder is None else self.bounds.disk_bytes
            mine = self._make_room(about, self.bounds.quota_bytes, about.owner)
            if not mine or not self._make_room(about, within, None):
                raise OverloadedError(
                    "there is no room for this context beside those that are kept; delete some",
                    {"reason": "quota", "quota_bytes": self.bounds.quota_bytes},
                    retry_after_s=60.0,
                )
            self._list(about)
            self._write(about, stored.tokens)
            self._touch(about)
            self._hold(key, stored.tokens)
        return Stored(about, stored.tokens)

    def list(self, owner: str) -> list[About]:
        """Return an owner's contexts, the newest first."""
        with self._lock:
            self._drop_expired()
            found = [about for about in self._all.values() if about.owner == owner]
        return sorted(found, key=lambda about: -about.made_at)

    def delete(self, owner: str, context_id: str) -> None:
        """Forget a context.

        Raises
        ------
        UnknownContextError
            There is none.
        """
        with self._lock:
            if (owner, context_id) not in self._all:
                raise UnknownContextError("no context of yours has this id", {"param": "id"})
            self._drop((owner, context_id))

    def expires_at(self, about: About) -> float:
        """Return when a context goes if nobody uses it, seconds since 1970."""
        return about.used_at + self.bounds.ttl_s

    def _make_room(self, new: About, within: int, owner: str | None) -> bool:
        key = (new.owner, new.id)
        rivals = {
            each: about
            for each, about in self._all.items()
            if each != key and (owner is None or about.owner == owner)
        }
        taken = new.nbytes + sum(about.nbytes for about in rivals.values())
        spare = sum(about.nbytes for about in rivals.values() if not about.is_pinned)
        if taken - spare > within:
            return False
        for each, about in rivals.items():
            if taken <= within:
                break
            if not about.is_pinned:
                taken -= about.nbytes
                self._drop(each)
        return True

    def _hold(self, key: Key, tokens: CondensedTokens) -> None:
        self._held[key] = tokens
        self._held.move_to_end(key)
        held = sum(each.nbytes for each in self._held.values())
        while self._folder is not None and held > self.bounds.memory_bytes and len(self._held) > 1:
            _, gone = self._held.popitem(last=False)
            held -= gone.nbytes

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._all:
            key, oldest = next(iter(self._all.items()))
            if self.expires_at(oldest) > now:
                return
            self._drop(key)

    def _list(self, about: About) -> None:
        key = (about.owner, about.id)
        before = self._all.get(key)
        self._all[key] = about
        self._all.move_to_end(key)
        self._nbytes += about.nbytes - (before.nbytes if before is not None else 0)

    def _drop(self, key: Key) -> None:
        self._held.pop(key, None)
        about = self._all.pop(key, None)
        if about is None:
            return
        self._nbytes -= about.nbytes
        if self._folder is not None:
            for path in self._paths(about):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _paths(self, about: About) -> tuple[Path, Path]:
        folder = (self._folder or Path()) / about.owner
        return folder / f"{about.id}.json", folder / f"{about.id}.safetensors"

    def _touch(self, about: About) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                os.utime(self._paths(about)[0], (about.used_at, about.used_at))

    def _write(self, about: About, tokens: CondensedTokens) -> None:
        if self._folder is None:
            return
        said, matrix = self._paths(about)
        try:
            said.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The description last: a matrix without one is never read.
            _replace(matrix, to_safetensors(tokens))
            _replace(said, json.dumps(asdict(about)).encode())
        except OSError as error:
            log.warning("a context could not be written: %s", error.strerror)

    def _read(self, about: About) -> CondensedTokens | None:
        if self._folder is None:
            return None
        limits = Limits(MAX_FILE_BYTES, about.n_condensed_tokens, hidden_size=about.hidden_size)
        try:
            return from_safetensors(
                self._paths(about)[1].read_bytes(), limits, target_model=about.target_model
            )
        except (OSError, CodecError) as error:
            log.warning("a stored context cannot be read again: %s", type(error).__name__)
            return None

    def _read_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = [_about(path) for path in folder.glob("*/ctx_*.json")]
            known = [about for about in found if about is not None]
            _remove_left_over(folder, {path for about in known for path in self._paths(about)})
        except OSError as error:
            raise ConfigError(f"cannot use {folder} for contexts: {error.strerror}") from None
        now = self._clock()
        for about in sorted(known, key=lambda each: each.used_at):
            # A clock that was set back must not keep a context for ever.
            self._list(replace(about, used_at=min(about.used_at, now)))
        self._drop_expired()


def _replace(path: Path, body: bytes) -> None:
    draft = path.with_suffix(path.suffix + ".part")
    draft.write_bytes(body)
    draft.replace(path)


def _remove_left_over(folder: Path, known: set[Path]) -> None:
    for path in folder.glob("*/ctx_*"):
        is_ours = _LEFT_OVER.fullmatch(path.name) and _OWNER.fullmatch(path.parent.name)
        if is_ours and path not in known:
            path.unlink(missing_ok=True)


def _about(path: Path) -> About | None:
    try:
        about = About(**json.loads(path.read_bytes()))
        sane = (
            _OWNER.fullmatch(about.owner) is not None
            and _ID.fullmatch(about.id) is not None
            and path.parent.name == about.owner
            and path.stem == about.id
            and about.nbytes > 0
            and math.isfinite(about.made_at)
        )
        return replace(about, used_at=path.stat().st_mtime) if sane else None
    except (OSError, ValueError, TypeError):
        return None
