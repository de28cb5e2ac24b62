"""``condense dev``: a chain on this machine, to develop and to try things on.

Nodes find it by the network ``dev``, or by ``CONDENSE_CHAIN_OVERRIDE=dev``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from neural_condense_core.chain.devchain.admin import (
    DEFAULT_BLOCK_TIME_S,
    PURSE_TAO,
    DevChain,
    Subnet,
    make_chain,
)
from neural_condense_core.chain.devchain.ledger import SubnetRules
from neural_condense_core.chain.devchain.location import PATH_ENV, chain_path
from neural_condense_core.commands.wallet_flags import (
    DEFAULT_FOLDER,
    HotkeyName,
    WalletFolder,
    WalletName,
    hotkey_address,
    open_or_make_wallet,
    open_wallet,
)
from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.errors import ConfigError

DEFAULT_NETUID = 52
OWNER = "dev-owner"

JsonPath: TypeAlias = Annotated[
    str | None, typer.Option("--json", metavar="PATH|-", help="The result as JSON; - is stdout.")
]
ChainFile: TypeAlias = Annotated[
    Path | None, typer.Option("--chain", help=f"The chain's file; default: ${PATH_ENV}.")
]
Netuid: TypeAlias = Annotated[
    int | None, typer.Option("--netuid", help="The subnet; default: the only one.")
]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def dev() -> None:
    """Run a development chain: one file, no node."""


@app.command()
def init(
    netuid: Annotated[int, typer.Option("--netuid", help="The subnet.")] = DEFAULT_NETUID,
    tempo: Annotated[
        int, typer.Option("--tempo", min=1, help="Blocks between epochs.")
    ] = SubnetRules.tempo,
    block_time: Annotated[
        float, typer.Option("--block-time", help="Seconds between blocks.")
    ] = DEFAULT_BLOCK_TIME_S,
    owner: Annotated[str, typer.Option("--owner", help="The owner's wallet.")] = OWNER,
    hotkey: HotkeyName = "default",
    folder: WalletFolder = DEFAULT_FOLDER,
    force: Annotated[
        bool, typer.Option("--force", help="Lose the chain that may be there.")
    ] = False,
    chain: ChainFile = None,
    json_path: JsonPath = None,
) -> None:
    """Make a chain with one subnet; its owner's wallet is made where it is missing."""
    check_writable(json_path)
    wallet = open_or_make_wallet(owner, hotkey, folder)
    path = chain or chain_path()
    make_chain(
        path,
        netuid,
        hotkey_address(wallet),
        wallet.coldkeypub.ss58_address,
        rules=SubnetRules(tempo=tempo),
        block_time_s=block_time,
        replace=force,
    )
    made = f"made {path}: subnet {netuid}, an epoch every {tempo * block_time:g} s"
    messages().print(made, soft_wrap=True)
    messages().print("nodes find it by --subtensor.network dev", style="dim")
    with _opened(path) as opened:
        _write(json_path, path, opened.show(netuid))


@app.command()
def register(
    name: WalletName = "default",
    hotkey: HotkeyName = "default",
    folder: WalletFolder = DEFAULT_FOLDER,
    netuid: Netuid = None,
    fund: Annotated[
        float, typer.Option("--fund", min=0, help="TAO for the coldkey beside the price.")
    ] = PURSE_TAO,
    chain: ChainFile = None,
    json_path: JsonPath = None,
) -> None:
    """Register a hotkey; a wallet that is missing is made, without a password."""
    check_writable(json_path)
    path = chain or chain_path()
    with _opened(path) as opened:
        subnet = _only(opened, netuid)
        wallet = open_or_make_wallet(name, hotkey, folder)
        coldkey = wallet.coldkeypub.ss58_address
        uid = opened.register(subnet, hotkey_address(wallet), coldkey)
        opened.fund(coldkey, fund)
        messages().print(f"{name}/{hotkey} has uid {uid} on subnet {subnet}")
        _write(json_path, path, opened.show(subnet))


@app.command()
def stake(
    amount: Annotated[float, typer.Argument(min=0, help="Alpha, each worth one TAO here.")],
    name: WalletName = "default",
    hotkey: HotkeyName = "default",
    folder: WalletFolder = DEFAULT_FOLDER,
    netuid: Netuid = None,
    chain: ChainFile = None,
    json_path: JsonPath = None,
) -> None:
    """Set a hotkey's stake; its permit to set weights follows at the next epoch."""
    check_writable(json_path)
    path = chain or chain_path()
    with _opened(path) as opened:
        subnet = _only(opened, netuid)
        wallet = open_wallet(name, hotkey, folder)
        opened.set_stake(subnet, hotkey_address(wallet), amount)
        messages().print(f"{name}/{hotkey} holds {amount:g} alpha on subnet {subnet}")
        _write(json_path, path, opened.show(subnet))


@app.command()
def advance(
    blocks: Annotated[int, typer.Argument(min=0, help="How many blocks pass at once.")],
    netuid: Netuid = None,
    chain: ChainFile = None,
    json_path: JsonPath = None,
) -> None:
    """Let blocks pass at once; the epochs that come due are run."""
    check_writable(json_path)
    path = chain or chain_path()
    with _opened(path) as opened:
        subnet = _only(opened, netuid)
        messages().print(f"the newest block is {opened.advance(blocks)}")
        _write(json_path, path, opened.show(subnet))


@app.command()
def show(netuid: Netuid = None, chain: ChainFile = None, json_path: JsonPath = None) -> None:
    """Show who is registered, with stake, permit, weights and incentive."""
    check_writable(json_path)
    path = chain or chain_path()
    with _opened(path) as opened:
        found = opened.show(_only(opened, netuid))
    _print(found)
    _write(json_path, path, found)


@contextmanager
def _opened(path: Path) -> Iterator[DevChain]:
    opened = DevChain(path)
    try:
        yield opened
    finally:
        opened.close()


def _only(opened: DevChain, netuid: int | None) -> int:
    known = opened.netuids()
    if netuid is None and len(known) == 1:
        return known[0]
    if netuid not in known:
        raise ConfigError(f"--netuid must be one of this chain's subnets: {known}")
    return netuid


def _write(json_path: str | None, path: Path, subnet: Subnet) -> None:
    write_json(json_path, {"schema": 1, "chain": str(path), "subnet": asdict(subnet)})


def _print(subnet: Subnet) -> None:
    from rich.table import Table

    table = Table(
        title=f"Subnet {subnet.netuid} at block {subnet.block}; "
        f"{subnet.epochs} epochs, the last at {subnet.last_epoch}"
    )
    columns = ("uid", "hotkey", "endpoint", "stake", "permit", "incentive", "dividends", "weights")
    for column in columns:
        table.add_column(column, overflow="fold")
    for seat in subnet.seats:
        row = subnet.weights.get(seat.uid, {})
        table.add_row(
            str(seat.uid),
            seat.hotkey,
            seat.endpoint or "-",
            f"{seat.stake:g}",
            "yes" if seat.permit else "no",
            f"{seat.incentive:.4f}",
            f"{seat.dividends:.4f}",
            " ".join(f"{uid}:{share:.3f}" for uid, share in sorted(row.items())) or "-",
        )
    messages().print(table)
