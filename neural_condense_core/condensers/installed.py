"""Condensers that were pulled: where they lie, what was fetched, and that it is still so.

Each is a checkpoint folder in the user's cache, ``condensers/NAME``, with our own ``config.json``
and a record, ``pulled.json``, of every file's size and SHA-256 and of where it came from. Shipped
checkpoints and methods keep their names; an installed one cannot take them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from neural_condense_core.errors import CheckpointError, UnknownNameError
from neural_condense_core.llm.cache import cache_root
from neural_condense_core.registry import suggest

RECORD_FILE = "pulled.json"
NESTED = "published"
"""Folder of an installed condenser that holds the authors' files as they were fetched."""
OWN_TARGET = f"{NESTED}/decoder"
"""Target model of a condenser that comes with its own: a folder below the checkpoint's."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CHUNK = 1 << 20
_MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class Record:
    """``pulled.json``: what was fetched.

    Parameters
    ----------
    source : hub name or path
    revision : commit of the hub, empty for a path
    files : path within the folder -> SHA-256, as hexadecimal digits
    sizes : path within the folder -> bytes
    """

    source: str
    revision: str
    files: Mapping[str, str]
    sizes: Mapping[str, int]

    def write(self, folder: Path) -> None:
        """Write the record into a folder."""
        text = json.dumps({"schema": 1, **asdict(self)}, indent=2) + "\n"
        (folder / RECORD_FILE).write_text(text, encoding="utf-8")


def root() -> Path:
    """Return the folder of all installed condensers; it may not exist."""
    return cache_root() / "condensers"


def installed_names() -> list[str]:
    """Return the names of the installed condensers, sorted."""
    found = (path.parent.name for path in root().glob(f"*/{RECORD_FILE}"))
    return sorted(name for name in found if NAME.fullmatch(name))


def installed_folder(name: str) -> Path:
    """Return the folder of an installed condenser.

    Raises
    ------
    UnknownNameError
        None of that name is installed.
    """
    names = installed_names()
    if name not in names:
        installed = ", ".join(names) or "none"
        raise UnknownNameError(
            f"no condenser {name!r} was pulled.{suggest(name, names)} Pulled: {installed}"
        )
    return root() / name


def read_record(folder: Path) -> Record:
    """Read the record of an installed condenser.

    Raises
    ------
    CheckpointError
        It is missing, too large, or no record.
    """
    path = folder / RECORD_FILE
    try:
        if path.stat().st_size > _MAX_RECORD_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_RECORD_BYTES} bytes")
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            str(raw["source"]), str(raw["revision"]), dict(raw["files"]), dict(raw["sizes"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no record of what was pulled: {error}") from error


def check(name: str) -> Record:
    """Compare every file of an installed condenser with its record.

    Returns
    -------
    the record

    Raises
    ------
    CheckpointError
        A file is missing or another than was fetched.
    """
    folder = installed_folder(name)
    record = read_record(folder)
    for relative, expected in record.files.items():
        path = folder / relative
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; remove {name} and pull it again")
        if sha256(path) != expected:
            raise CheckpointError(
                f"{path} is not what was fetched: its SHA-256 is not {expected}; "
                f"remove {name} and pull it again"
            )
    return record


def remove(name: str) -> Path:
    """Remove an installed condenser; return where it was."""
    folder = installed_folder(name)
    # no longer found by name from here on, whatever becomes of the rest
    (folder / RECORD_FILE).unlink()
    shutil.rmtree(folder)
    return folder


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits.

    Parameters
    ----------
    path : the file
    progress : told of each chunk's bytes
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()
