"""What commands read and where they write: texts in, JSON out, everything else on stderr.

Design decisions

* stdout belongs to the result alone, so that ``--json -`` can be piped; progress, tables and
  messages go to stderr.
* ``-`` is stdin where a command reads and stdout where it writes.
* Where a command will write is checked before it works: minutes of work are not lost to a typo.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rich.console import Console

from neural_condense_core.errors import ConfigError

STANDARD_STREAM = "-"


def messages() -> Console:
    """Return a console on stderr, for progress, tables and messages."""
    return Console(stderr=True, highlight=False)


def read_text(source: str) -> str:
    """Read a UTF-8 text.

    Parameters
    ----------
    source : path of a file, or ``-`` for stdin

    Raises
    ------
    ConfigError
        The file cannot be read, is no UTF-8, or holds nothing but white space.
    """
    try:
        if source == STANDARD_STREAM:
            text = sys.stdin.buffer.read().decode("utf-8")
        else:
            text = Path(source).read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {source!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{source!r} is no UTF-8 text: byte {error.start} is not valid"
        ) from error
    if not text.strip():
        raise ConfigError(f"{source!r} holds no text")
    return text


def check_writable(destination: str | os.PathLike[str] | None) -> None:
    """Check that a file can be written; neither makes nor changes it.

    Parameters
    ----------
    destination : path of a file, ``-`` for stdout, or None for nowhere

    Raises
    ------
    ConfigError
        It is a folder, its folder is missing, or permission is.
    """
    if destination is None or destination == STANDARD_STREAM:
        return
    path = Path(destination)
    if path.is_dir():
        why = "it is a folder"
    elif not path.parent.is_dir():
        why = f"{path.parent} is not a folder"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "permission denied"
    else:
        return
    raise ConfigError(f"cannot write '{path}': {why}")


def write_bytes(destination: str, body: bytes) -> None:
    """Write a file, or to stdout.

    Parameters
    ----------
    destination : path of a file, or ``-`` for stdout
    body : the whole content

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    if destination == STANDARD_STREAM:
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return
    try:
        Path(destination).write_bytes(body)
    except OSError as error:
        raise ConfigError(f"cannot write '{destination}': {error.strerror}") from error


def write_json(destination: str | None, payload: object) -> None:
    """Write a JSON document.

    Parameters
    ----------
    destination : path of a file, ``-`` for stdout, or None for nowhere
    payload : JSON-ready; no NaN, no infinity
    """
    if destination is not None:
        text = json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False)
        write_bytes(destination, f"{text}\n".encode())
