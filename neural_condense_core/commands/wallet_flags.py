"""Flags that name a wallet, as btcli and the nodes spell them, and wallets made for development."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from neural_condense_core.chain.wallets import make_wallet
from neural_condense_core.errors import ConfigError

if TYPE_CHECKING:
    import bittensor as bt

DEFAULT_FOLDER = Path("~/.bittensor/wallets")

WalletName: TypeAlias = Annotated[
    str, typer.Option("--wallet.name", "--wallet", "-w", envvar="BT_WALLET", help="The wallet.")
]
HotkeyName: TypeAlias = Annotated[
    str,
    typer.Option(
        *("--wallet.hotkey", "--wallet.key", "--wallet-hotkey", "-H"),
        envvar="BT_WALLET_HOTKEY",
        help="Its hotkey.",
    ),
]
WalletFolder: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--wallet.path", "--wallet-path", envvar="BT_WALLET_PATH", help="The folder of all wallets."
    ),
]


def open_wallet(name: str, hotkey: str, folder: Path) -> bt.Wallet:
    """Return a wallet whose public keys are on disk; nothing is unlocked.

    Parameters
    ----------
    name : of the wallet
    hotkey : of the key
    folder : of all wallets

    Raises
    ------
    ConfigError
        A key is missing or cannot be read; the message says what to run.
    """
    wallet = _wallet(name, hotkey, folder)
    for file, command in (
        (wallet.coldkeypub_file, "new-coldkey"),
        (wallet.hotkey_file, "new-hotkey"),
    ):
        if not file.exists_on_device():
            raise ConfigError(
                f"there is no {file.path}; make it with: btcli wallet {command} -w {name}"
                f"{f' -H {hotkey}' if command == 'new-hotkey' else ''} --wallet-path {folder}"
            )
    return _checked(wallet)


def open_or_make_wallet(name: str, hotkey: str, folder: Path) -> bt.Wallet:
    """Return a wallet for development; keys that are missing are made, without a password.

    Parameters
    ----------
    name : of the wallet
    hotkey : of the key
    folder : of all wallets
    """
    _check_names(name, hotkey)
    return _checked(make_wallet(name, hotkey, folder))


def _check_names(*names: str) -> None:
    if any(name in {"", ".", ".."} or "/" in name for name in names):
        raise ConfigError("names of wallets and hotkeys are names of files: no '/', not empty")


def _wallet(name: str, hotkey: str, folder: Path) -> bt.Wallet:
    import bittensor as bt

    _check_names(name, hotkey)
    return bt.Wallet(name, hotkey, path=str(folder.expanduser()))


def _checked(wallet: bt.Wallet) -> bt.Wallet:
    from bittensor.sp_core import KeyfileError

    try:
        _ = (wallet.coldkeypub.ss58_address, hotkey_address(wallet))
    except (OSError, KeyfileError, ValueError) as error:
        raise ConfigError(f"wallet {wallet.name!r} cannot be read: {error}") from error
    return wallet


def hotkey_address(wallet: bt.Wallet) -> str:
    """Return the hotkey's ss58 address, without unlocking it where that can be avoided."""
    try:
        return str(wallet.hotkeypub.ss58_address)
    except FileNotFoundError:  # wallets of older versions have no public part beside the hotkey
        return str(wallet.hotkey.ss58_address)
