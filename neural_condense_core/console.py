"""What commands read and where they write: texts in, JSON out, everything else on stderr.

Design decisions

* stdout belongs to the result alone, so that ``--json -`` can be piped; progress, tables and
  messages go to stderr.
* ``-`` is stdin where a command reads and stdout where it writes.
"""

from __future__ import annotations

import json
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


def write_json(destination: str | None, payload: object) -> None:
    """Write a JSON document.

    Parameters
    ----------
    destination : path of a file, ``-`` for stdout, or None for nowhere
    payload : JSON-ready; no NaN, no infinity

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    if destination is None:
        return
    text = json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if destination == STANDARD_STREAM:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        Path(destination).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {destination!r}: {error.strerror}") from error
