"""What a validator checks before it asks the chain anything, and the lock of its state.

Where it sits: ``node.py`` begins with ``check``. All faults are told together, each with what to
do, so that a set-up is mended in one go.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from neural_condense_core.chain.wallets import open_hotkey
from neural_condense_core.config import ValidatorSettings
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import ConfigError
from neural_condense_core.scoring.texts import TextSource, open_texts
from neural_condense_core.wire.listening import bind

LOCK_FILE = "validator.lock"
TOKEN_ENV = "CONDENSE_SCORING_TOKEN"  # noqa: S105 - the variable's name
"""Holds the scoring service's token where no file does."""


@dataclass(frozen=True)
class Start:
    """What the checks found.

    Parameters
    ----------
    wallet, pair : of this validator, for the chain and for requests
    hotkey : its address
    tiers : as this network plays them
    texts : what challenges are made from
    token : of the scoring service
    folder : of the state
    """

    wallet: Any
    pair: Any
    hotkey: str
    tiers: Mapping[str, TierConfig]
    texts: TextSource
    token: str | None
    folder: Path


def check(settings: ValidatorSettings) -> Start:
    """Check everything that needs no chain.

    Raises
    ------
    ConfigError
        Something is wrong; one line for each fault.
    """
    faults: list[str] = []
    found: dict[str, Any] = {}
    checks: dict[str, Callable[[], Any]] = {
        "keys": lambda: open_hotkey(
            settings.wallet_name, settings.wallet_hotkey, settings.wallet_folder
        ),
        "tiers": settings.tiers,
        "texts": lambda: open_texts(settings.texts),
        "token": lambda: _token(settings.score_token_file),
        "ports": lambda: _check_ports(settings),
    }
    for name, one in checks.items():
        try:
            found[name] = one()
        except ConfigError as error:
            faults.append(error.message)
    if faults:
        raise ConfigError("\n".join(faults))
    wallet, pair = found["keys"]
    hotkey = str(pair.ss58_address)
    return Start(
        wallet, pair, hotkey, found["tiers"], found["texts"], found["token"],
        settings.node_dir(hotkey),
    )  # fmt: skip


def version_key() -> int:
    """Return this code's version as one number, as the chain compares it: 1.2.3 = 1023."""
    try:
        parts = version("neural-condense").split(".")
    except PackageNotFoundError:
        return 0
    numbers = [int(part) if part.isdecimal() else 0 for part in parts[:3]]
    return sum(factor * number for factor, number in zip((1000, 10, 1), numbers, strict=False))


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(TOKEN_ENV) or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --validator.score_backend.token_file {path}") from error
    if not token:
        raise ConfigError(f"{path} holds no token")
    return token


def _check_ports(settings: ValidatorSettings) -> None:
    port = settings.gate_port
    if not port:
        return
    if port == settings.score_port and settings.score_host in {"localhost", "127.0.0.1", "::1"}:
        raise ConfigError(
            f"--validator.gate_port {port} is the scoring service's port; choose another"
        )
    bind(settings.gate_host, port, flags="--validator.gate_port").close()


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock while the block runs, so that no second validator writes the same state.

    Parameters
    ----------
    path : the lock's file; made, with its folder

    Raises
    ------
    ConfigError
        Another process holds it, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise ConfigError(f"cannot write to {path.parent}: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"a validator of this hotkey runs already and holds {path}; stop it first"
            ) from None
        yield
