"""Where condensers are pulled from: the Hugging Face hub, or this machine.

Design decisions

* ``huggingface_hub`` does the fetching: it knows mirrors, tokens, proxies and broken downloads.
* A revision is pinned to its commit before anything is listed, so what is fetched is what was
  shown.
* The hub states a SHA-256 for large files and a git hash for small ones; both are compared with
  what arrived (``Listed.check``).
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from neural_condense_core.condensers.installed import sha256
from neural_condense_core.errors import ConfigError, FetchError

HUB_NAME = re.compile(r"(?P<repo>[\w][\w.-]*(?:/[\w][\w.-]*)?)(?:@(?P<revision>[\w][\w./-]*))?")
LIST_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Listed:
    """A file that can be fetched.

    Parameters
    ----------
    path : within the source, with forward slashes
    size : bytes
    sha256 : as the source states it, or empty
    git_sha1 : hash of git, as the source states it, or empty
    """

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""

    def check(self, fetched: Path) -> str:
        """Compare a fetched file with what was listed.

        Returns
        -------
        its SHA-256

        Raises
        ------
        FetchError
            Size or hash differ.
        """
        size = fetched.stat().st_size
        if size != self.size:
            raise FetchError(f"{self.path} has {size} bytes, {self.size} were listed")
        found = sha256(fetched)
        stated, own = self.sha256, found
        if not stated and self.git_sha1:
            stated, own = self.git_sha1, _git_sha1(fetched)
        if stated and stated != own:
            raise FetchError(
                f"{self.path} is not the file that was listed: its hash is {own}, not {stated}; "
                "nothing was installed"
            )
        return found


def _git_sha1(path: Path) -> str:
    # git names a file by the hash of its length and its content; only small files come here
    body = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


class Source(Protocol):
    """Somewhere that files come from."""

    name: str
    revision: str

    def files(self) -> list[Listed]:
        """Return what there is."""

    def fetch(self, listed: Listed, folder: Path) -> Path:
        """Bring one file into a folder, under its path; return where it is."""


class LocalSource:
    """A file or folder of this machine.

    Parameters
    ----------
    path : which
    """

    revision = ""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path = path

    def files(self) -> list[Listed]:
        """Return the file, or all files of the folder; links that lead out of it are left out."""
        if self.path.is_file():
            return [Listed(self.path.name, self.path.stat().st_size)]
        base = self.path.resolve()
        return [
            Listed(path.relative_to(self.path).as_posix(), path.stat().st_size)
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.resolve().is_relative_to(base)
        ]

    def fetch(self, listed: Listed, folder: Path) -> Path:
        """Copy one file.

        Raises
        ------
        FetchError
            It cannot be read or written.
        """
        origin = self.path if self.path.is_file() else self.path / listed.path
        copied = folder / listed.path
        try:
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, copied)
        except OSError as error:
            raise FetchError(f"cannot copy {origin}: {error.strerror}") from error
        return copied


class HubSource:
    """A repository of the Hugging Face hub.

    Parameters
    ----------
    repo : ``owner/name``
    revision : branch, tag or commit; None = the default branch
    """

    def __init__(self, repo: str, revision: str | None) -> None:
        self.name = repo
        self._asked = revision
        self.revision = ""

    def files(self) -> list[Listed]:
        """Return the repository's files, and pin its commit.

        Raises
        ------
        FetchError
            It cannot be reached or read.
        """
        from huggingface_hub import HfApi

        try:
            info = HfApi().model_info(
                self.name, revision=self._asked, files_metadata=True, timeout=LIST_TIMEOUT_S
            )
        except (OSError, ValueError) as error:
            raise FetchError(f"cannot list {self.name!r}: {_reason(error)}") from error
        if info.sha is None or info.siblings is None:
            raise FetchError(f"{self.name!r} states neither a commit nor files")
        self.revision = info.sha
        return [
            Listed(
                file.rfilename,
                file.size or 0,
                file.lfs.sha256 if file.lfs else "",
                "" if file.lfs else file.blob_id or "",
            )
            for file in info.siblings
        ]

    def fetch(self, listed: Listed, folder: Path) -> Path:
        """Download one file of the pinned commit.

        Raises
        ------
        FetchError
            It cannot be reached, read or written.
        """
        from huggingface_hub import hf_hub_download

        try:
            found = hf_hub_download(
                self.name, listed.path, revision=self.revision, local_dir=folder
            )
        except (OSError, ValueError) as error:
            raise FetchError(f"cannot fetch {listed.path}: {_reason(error)}") from error
        return Path(found)


def _reason(error: Exception) -> str:
    """Return what to tell of the hub library's errors: their first line, and what to do."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"{type(error).__name__}: {first}"


def find_source(spec: str) -> Source:
    """Return the source that a user means: an existing path, else a name on the hub.

    Raises
    ------
    ConfigError
        Neither.
    """
    if Path(spec).exists():
        return LocalSource(Path(spec))
    match = HUB_NAME.fullmatch(spec)
    if match is None:
        raise ConfigError(f"{spec!r} is neither a path that exists nor a name OWNER/NAME[@REV]")
    return HubSource(match["repo"], match["revision"])


def total_bytes(files: Sequence[Listed]) -> int:
    """Return the size of all files."""
    return sum(file.size for file in files)
