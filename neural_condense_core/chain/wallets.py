"""Wallets on disk: open a hotkey, or say what to run.

Design decisions

* Only the hotkey is opened. A node signs with it alone; its coldkey belongs on another machine.
* The key pair is read once and kept: the SDK would read the file again at every signature.
* The SDK is imported inside the function: a node that checks its flags pays nothing for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neural_condense_core.errors import ConfigError

if TYPE_CHECKING:
    from bittensor import Wallet
    from bittensor.sp_core import Keypair


def make_wallet(name: str, hotkey: str, folder: Path) -> Wallet:
    """Make the keys of a wallet that are missing, without a password: for development only.

    Parameters
    ----------
    name : of the wallet
    hotkey : of the key
    folder : of all wallets
    """
    from bittensor import Wallet

    wallet = Wallet(name, hotkey, path=str(folder.expanduser()))
    if not wallet.coldkeypub_file.exists_on_device():
        wallet.create_new_coldkey(use_password=False, suppress=True)
    if not wallet.hotkey_file.exists_on_device():
        wallet.create_new_hotkey(suppress=True)
    return wallet


def open_hotkey(name: str, hotkey: str, folder: Path) -> tuple[Wallet, Keypair]:
    """Open a wallet's hotkey.

    Parameters
    ----------
    name : of the wallet
    hotkey : of the key
    folder : of all wallets

    Returns
    -------
    the wallet, for the chain; the hotkey's key pair, to sign with

    Raises
    ------
    ConfigError
        There is no such key, or it cannot be read; the message says what to run.
    """
    from bittensor import Wallet
    from bittensor.sp_core import CRYPTO_SR25519

    shown = f"hotkey {hotkey!r} of wallet {name!r}"
    if any(part in {"", ".", ".."} or "/" in part for part in (name, hotkey)):
        raise ConfigError(f"{shown}: names of wallets and keys are names of files")
    wallet = Wallet(name, hotkey, path=str(folder))
    path = folder / name / "hotkeys" / hotkey
    try:
        pair = wallet.hotkey
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {shown} in {folder}; make it with: "
            f"btcli wallet new-hotkey -w {name} -H {hotkey} --wallet-path {folder}, or name "
            "another with --wallet.name and --wallet.hotkey"
        ) from None
    except PermissionError:
        raise ConfigError(f"{path} may not be read by this user; run: chmod 600 {path}") from None
    except Exception as error:  # noqa: BLE001 - the SDK's key files raise types of their own
        kind = type(error).__name__
        raise ConfigError(
            f"{path} cannot be opened ({kind}); if it has a password, make a hotkey without one: "
            "a node must be able to start unattended"
        ) from None
    if pair.crypto_type != CRYPTO_SR25519:
        raise ConfigError(f"{path} is no sr25519 key, and nodes take no other; make a new hotkey")
    return wallet, pair
