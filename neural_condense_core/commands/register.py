"""``condense register``: give a hotkey its place in the subnet, paid by the coldkey.

A command of its own, and no part of a node's start: a coldkey has no business on a machine that
serves. ``btcli subnets register`` does the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from neural_condense_core.commands.wallet_flags import (
    DEFAULT_FOLDER,
    HotkeyName,
    WalletFolder,
    WalletName,
    hotkey_address,
    open_wallet,
)
from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.errors import ChainError, ChainUnavailable

if TYPE_CHECKING:
    import bittensor as bt

    from neural_condense_core.chain.base import Outcome
    from neural_condense_core.chain.sdk import SdkChain


def register(
    netuid: Annotated[int, typer.Option("--netuid", min=0, help="The subnet.")],
    network: Annotated[
        str,
        typer.Option(
            *("--subtensor.network", "--network", "-n"),
            envvar="BT_NETWORK",
            help="finney, test, local, dev, or a ws:// address.",
        ),
    ] = "finney",
    name: WalletName = "default",
    hotkey: HotkeyName = "default",
    folder: WalletFolder = DEFAULT_FOLDER,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before paying.")] = False,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Outcome as JSON; - is stdout.")
    ] = None,
) -> None:
    """Register a hotkey on a subnet, paid by its coldkey.

    Raises
    ------
    ChainError
        The chain refused.
    """
    check_writable(json_path)
    wallet = open_wallet(name, hotkey, folder)
    outcome, uid, price = asyncio.run(_register(network, netuid, wallet, yes))
    write_json(
        json_path,
        {
            "schema": 1,
            "netuid": netuid,
            "hotkey": hotkey_address(wallet),
            "uid": uid,
            "price_tao": price,
            "outcome": asdict(outcome),
        },
    )
    if not outcome.ok:
        raise ChainError(f"not registered ({outcome.code}): {outcome.message}")
    messages().print(f"{name}/{hotkey} has uid {uid} on subnet {netuid}")


async def _register(
    network: str, netuid: int, wallet: bt.Wallet, yes: bool
) -> tuple[Outcome, int | None, float | None]:
    from neural_condense_core.chain.base import Outcome
    from neural_condense_core.chain.connect import open_chain

    address = hotkey_address(wallet)
    chain = await open_chain(network, netuid, wallet)
    try:
        roster = await chain.roster()
        if roster is None:
            missing = f"network {network!r} has no subnet {netuid}"
            return Outcome(False, "subnet_not_exists", missing), None, None
        peer = roster.by_hotkey(address)
        if peer is not None:
            return Outcome(True, "ok", "registered already"), peer.uid, None
        price = await chain.price()
        if not yes:
            typer.confirm(
                f"Register {address} on subnet {netuid} of {network} for about {price:g} TAO?",
                abort=True,
                err=True,
            )
        outcome = await chain.register()
        return outcome, await _uid(chain, address) if outcome.ok else None, price
    finally:
        await chain.close()


async def _uid(chain: SdkChain, address: str) -> int | None:
    try:
        roster = await chain.roster()
    except ChainUnavailable:  # registered all the same
        return None
    peer = roster.by_hotkey(address) if roster is not None else None
    return None if peer is None else peer.uid
