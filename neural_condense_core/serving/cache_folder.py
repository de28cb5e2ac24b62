"""``AnswerFolder``: answers as files, for a cache that outlives its process.

Where it sits: behind ``cache.py``, which calls it off the event loop.

Design decisions

* A file holds the reply's bytes, its headers and its counts; the name is the key. No context text
  is in it. What it gives away all the same stands in ``docs/wire.md``.
* Nothing in the folder is believed: a file counts only if its digest, its key and its fields are
  right. Those that bear our name and are not right are removed; any other file is left alone, so
  that a folder named by mistake loses nothing.
* Written beside and renamed, never synced: after a crash the digest tells.
* The folder must be the user's own and closed to others. Several backends may share it; each keeps
  it within the bound by what it has counted, and counts anew when that is full.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import orjson

from neural_condense_core.errors import ConfigError
from neural_condense_core.serving.jobs import Answer

log = logging.getLogger(__name__)

MAGIC = b"condense-answer 1\n"
SUFFIX = ".answer"
PART_SUFFIX = ".part"
MAX_HEADER_BYTES = 16 * 1024
STALE_PART_S = 3600.0
"""Age at which a file that was never finished is held to be abandoned."""
ROOM = 0.9
"""Share of the bound that is left filled when the folder is cleared: clearing lists the folder."""
RECOUNT_WRITES = 256
"""After so many writes the folder is counted anew, as others may write into it too."""

_BLOCK = 4096
_NAME = re.compile(r"[0-9a-f]{64}\.answer")
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True)
class _Kept:
    """One file: when it was last used, seconds, and the bytes it takes."""

    used_s: float
    n_bytes: int
    path: Path


class AnswerFolder:
    """Answers on disk; usable by several threads and processes.

    Parameters
    ----------
    path : made if it is not there
    max_bytes : for all files together

    Raises
    ------
    ConfigError
        The folder cannot be made, or others may look into it.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._lock = Lock()
        self._numbers = itertools.count()
        self._n_writes = 0
        self._warned = False
        _make_private(path)
        try:
            self._n_bytes = self._clear(max_bytes)
        except OSError as error:
            raise ConfigError(f"the cache folder {path} cannot be read: {error.strerror}") from None

    @property
    def n_bytes(self) -> int:
        """Bytes that the files take, as far as this process has counted."""
        return self._n_bytes

    def read(self, key: bytes) -> Answer | None:
        """Return the answer that is kept under a key; None if there is none that can be used.

        Parameters
        ----------
        key : (32,) bytes
        """
        path = self._path(key)
        try:
            raw = self._bytes_of(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", error)
            return None
        answer = None if raw is None else unpack(raw, key)
        if answer is None:
            log.info("the cache file %s is damaged or not ours; removing it", path.name)
            self._remove(path)
        return answer

    def write(self, key: bytes, answer: Answer) -> None:
        """Keep an answer; one that does not fit the bound, or the disk, is not kept."""
        parts = pack(key, answer)
        n_bytes = _taken(sum(map(len, parts)))
        if n_bytes > self.max_bytes:
            return
        try:
            with self._lock:
                self._n_writes += 1
                full = self._n_bytes + n_bytes > self.max_bytes
                if full or self._n_writes % RECOUNT_WRITES == 0:
                    self._n_bytes = self._clear(self.max_bytes - n_bytes)
                self._n_bytes += n_bytes
            self._write(self._path(key), parts)
        except OSError as error:
            self._warn("write", error)

    def _path(self, key: bytes) -> Path:
        return self.path / f"{key.hex()}{SUFFIX}"

    def _bytes_of(self, path: Path) -> bytes | None:
        descriptor = os.open(path, os.O_RDONLY | _OPEN)
        with open(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_size > self.max_bytes:
                return None
            raw = file.read(about.st_size + 1)
        with contextlib.suppress(OSError):
            os.utime(path)  # last used: the oldest are the first to go
        return raw

    def _write(self, path: Path, parts: list[bytes]) -> None:
        part = path.with_name(f"{path.stem}.{os.getpid()}.{next(self._numbers)}{PART_SUFFIX}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                for piece in parts:
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
            part.replace(path)
        except OSError:
            self._remove(part)
            raise

    def _clear(self, most: int) -> int:
        """Remove the files used longest ago where they pass a bound; return the bytes left."""
        kept = sorted(self._kept(), key=lambda each: each.used_s)
        n_bytes = sum(each.n_bytes for each in kept)
        if n_bytes <= most:
            return n_bytes
        for each in kept:
            if n_bytes <= ROOM * most:
                break
            self._remove(each.path)
            n_bytes -= each.n_bytes
        return n_bytes

    def _kept(self) -> Iterator[_Kept]:
        now_s = time.time()
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    if _NAME.fullmatch(entry.name) and stat.S_ISREG(about.st_mode):
                        yield _Kept(about.st_mtime, _taken(about.st_size), Path(entry.path))
                    elif _is_stale_part(entry.name, now_s - about.st_mtime):
                        self._remove(Path(entry.path))

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()

    def _warn(self, verb: str, error: OSError) -> None:
        if not self._warned:
            log.warning("the cache folder cannot be %s: %s; going on without", verb, error.strerror)
        self._warned = True


def pack(key: bytes, answer: Answer) -> list[bytes]:
    """Return a file's bytes in pieces.

    Returns
    -------
    magic; sha256 of the rest; length of the header; header; body
    """
    header = orjson.dumps({
        "key": key.hex(),
        "headers": dict(answer.headers),
        "n_context_tokens": answer.n_context_tokens,
        "n_condensed_tokens": answer.n_condensed_tokens,
    })
    prefix = len(header).to_bytes(4, "little") + header
    digest = hashlib.sha256(prefix)
    digest.update(answer.body)
    return [MAGIC, digest.digest(), prefix, answer.body]


def unpack(raw: bytes, key: bytes) -> Answer | None:
    """Return the answer in a file's bytes; None if they are not exactly what ``pack`` writes."""
    view = memoryview(raw)
    digest_at = len(MAGIC)
    header_at = digest_at + 32 + 4
    if view[:digest_at] != MAGIC or len(view) < header_at:
        return None
    if hashlib.sha256(view[digest_at + 32 :]).digest() != view[digest_at : digest_at + 32]:
        return None
    length = int.from_bytes(view[header_at - 4 : header_at], "little")
    if length > MAX_HEADER_BYTES or header_at + length > len(view):
        return None
    try:
        header = orjson.loads(view[header_at : header_at + length])
    except orjson.JSONDecodeError:
        return None
    if not _is_header(header) or header["key"] != key.hex():
        return None
    return Answer(
        body=bytes(view[header_at + length :]),
        headers=header["headers"],
        n_context_tokens=header["n_context_tokens"],
        n_condensed_tokens=header["n_condensed_tokens"],
    )


def _is_header(header: Any) -> bool:
    if not isinstance(header, dict) or header.keys() != {
        "key", "headers", "n_context_tokens", "n_condensed_tokens",
    }:  # fmt: skip
        return False
    headers = header["headers"]
    counts = (header["n_context_tokens"], header["n_condensed_tokens"])
    return (
        isinstance(headers, dict)
        and all(isinstance(v, str) and v.isascii() and v.isprintable() for v in headers.values())
        and all(name.isascii() and name.isprintable() for name in headers)
        and all(type(count) is int and count > 0 for count in counts)
    )


def _make_private(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = path.stat()
    except OSError as error:
        raise ConfigError(f"the cache folder {path} cannot be made: {error.strerror}") from None
    if about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise ConfigError(
            f"the cache folder {path} is not yours alone, and what it keeps is private; name "
            f"another one, or 'chmod 700 {path}'"
        )


def _taken(n_bytes: int) -> int:
    return -(-n_bytes // _BLOCK) * _BLOCK


def _is_stale_part(name: str, age_s: float) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{64}\.\d+\.\d+\.part", name) and age_s > STALE_PART_S)
