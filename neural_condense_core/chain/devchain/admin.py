"""What a developer may do to a development chain that nobody may do to a real one.

``condense dev``, the demo and tests build on this; it needs no SDK and no wallet, only addresses.
"""

from __future__ import annotations

import ipaddress
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from neural_condense_core.chain.base import Clock
from neural_condense_core.chain.devchain import ledger
from neural_condense_core.chain.devchain.epochs import run_overdue
from neural_condense_core.chain.devchain.ledger import RAO, Rejected, SubnetRules
from neural_condense_core.chain.devchain.store import Store, Transaction, create
from neural_condense_core.errors import ConfigError

DEFAULT_BLOCK_TIME_S = 1.0
PURSE_TAO = 1000.0
"""What a new account is given, TAO."""


@dataclass(frozen=True)
class Seat:
    """One neuron, as ``condense dev show`` prints it.

    Parameters
    ----------
    uid : its slot
    hotkey, coldkey : ss58 addresses
    endpoint : ``"ip:port"`` it serves at; None = serves nothing
    stake : alpha, which is worth one TAO each
    permit : whether it may set weights on others
    incentive, dividends : shares of the last epoch, 0..1
    last_update : block at which it last set weights
    """

    uid: int
    hotkey: str
    coldkey: str
    endpoint: str | None
    stake: float
    permit: bool
    incentive: float
    dividends: float
    last_update: int


@dataclass(frozen=True)
class Subnet:
    """One subnet, as ``condense dev show`` prints it.

    Parameters
    ----------
    netuid : the subnet
    block : newest block
    block_time_s : seconds between blocks
    tempo : blocks between epochs
    last_epoch : block of the last epoch
    epochs : that have run
    seats : by uid
    weights : validator uid -> uid -> share of its row
    """

    netuid: int
    block: int
    block_time_s: float
    tempo: int
    last_epoch: int
    epochs: int
    seats: tuple[Seat, ...]
    weights: dict[int, dict[int, float]]


def make_chain(
    path: Path,
    netuid: int,
    owner_hotkey: str,
    owner_coldkey: str,
    *,
    rules: SubnetRules | None = None,
    block_time_s: float = DEFAULT_BLOCK_TIME_S,
    replace: bool = False,
    clock: Clock = time.time,
) -> None:
    """Make a chain with one subnet, whose owner sits at uid 0.

    Parameters
    ----------
    path : of the file; its folder is made
    netuid : 1..65535
    owner_hotkey, owner_coldkey : ss58 addresses
    rules : of the subnet; default: SubnetRules()
    block_time_s : seconds between blocks, above 0
    replace : whether a chain that is there may be lost
    clock : seconds since 1970

    Raises
    ------
    ConfigError
        A number is out of range.
    """
    if not 0 < netuid <= ledger.U16_MAX:
        raise ConfigError(f"netuid {netuid} is not in 1..{ledger.U16_MAX}")
    if not block_time_s > 0:
        raise ConfigError(f"the block time must be above 0 seconds, not {block_time_s:g}")

    def fill(now: Transaction) -> None:
        ledger.add_subnet(now, netuid, owner_hotkey, owner_coldkey, rules or SubnetRules())
        ledger.credit(now, owner_coldkey, int(PURSE_TAO * RAO))

    create(path, fill, block_time_s=block_time_s, replace=replace, clock=clock)


class DevChain:
    """A development chain's file, with a developer's powers.

    Parameters
    ----------
    path : of the file
    clock : seconds since 1970
    """

    def __init__(self, path: Path, *, clock: Clock = time.time) -> None:
        self._store = Store(path, run_overdue, clock=clock)

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    def netuids(self) -> list[int]:
        """Return the subnets there are."""
        return self._store.read(
            lambda now: [row["netuid"] for row in now.all("SELECT netuid FROM subnet")]
        )

    def fund(self, coldkey: str, tao: float) -> None:
        """Give an account money.

        Raises
        ------
        ConfigError
            The amount is negative.
        """
        if not tao >= 0:
            raise ConfigError(f"cannot give {tao:g} TAO")
        self._store.write(lambda now: ledger.credit(now, coldkey, int(tao * RAO)))

    def register(self, netuid: int, hotkey: str, coldkey: str) -> int:
        """Register a hotkey for its price, given beforehand; return its uid.

        Raises
        ------
        ConfigError
            The chain refuses, for instance since there is no such subnet.
        """

        def work(now: Transaction) -> int:
            known = now.neuron(netuid, hotkey)
            if known is None:
                subnet = now.subnet(netuid)
                ledger.credit(now, coldkey, subnet["burn"] if subnet is not None else 0)
                ledger.burned_register(now, coldkey, netuid, hotkey)
                known = now.neuron(netuid, hotkey)
            return int(known["uid"]) if known is not None else -1

        try:
            return self._store.write(work)
        except Rejected as refusal:
            raise ConfigError(f"the development chain refuses: {refusal.name}") from refusal

    def set_stake(self, netuid: int, hotkey: str, alpha: float) -> None:
        """Set a registered hotkey's stake; its permit follows at the next epoch.

        Raises
        ------
        ConfigError
            It is not registered, or the amount is negative.
        """
        if not alpha >= 0:
            raise ConfigError(f"cannot stake {alpha:g}")

        def work(now: Transaction) -> None:
            if now.neuron(netuid, hotkey) is None:
                raise ConfigError(
                    f"{hotkey} is not registered on subnet {netuid}; see 'condense dev register'"
                )
            ledger.set_stake(now, netuid, hotkey, int(alpha * RAO))

        self._store.write(work)

    def change_rules(self, netuid: int, rules: SubnetRules) -> None:
        """Give a subnet other parameters, from now on."""
        self._store.write(lambda now: ledger.set_rules(now, netuid, rules))

    def advance(self, blocks: int) -> int:
        """Let blocks pass at once, and run the epochs that come due; return the newest block.

        Raises
        ------
        ConfigError
            Time does not go back.
        """
        if blocks < 0:
            raise ConfigError(f"cannot advance by {blocks} blocks")
        self._store.write(lambda now: now.run("UPDATE clock SET offset = offset + ?", blocks))
        return self._store.read(lambda now: now.block)

    def show(self, netuid: int) -> Subnet:
        """Return a subnet's state, at one block.

        Raises
        ------
        ConfigError
            There is no such subnet.
        """
        found = self._store.read(lambda now: _subnet(now, netuid))
        if found is None:
            raise ConfigError(f"the development chain has no subnet {netuid}, but {self.netuids()}")
        return found


def _subnet(now: Transaction, netuid: int) -> Subnet | None:
    row = now.subnet(netuid)
    clock = now.one("SELECT block_time_s FROM clock")
    if row is None or clock is None:
        return None
    stakes = dict(
        tuple(pair) for pair in now.all("SELECT hotkey, amount FROM stake WHERE netuid = ?", netuid)
    )
    return Subnet(
        netuid=netuid,
        block=now.block,
        block_time_s=clock["block_time_s"],
        tempo=row["tempo"],
        last_epoch=row["last_epoch"],
        epochs=row["epochs"],
        seats=tuple(
            Seat(
                uid=neuron["uid"],
                hotkey=neuron["hotkey"],
                coldkey=neuron["coldkey"],
                endpoint=_endpoint(neuron),
                stake=stakes.get(neuron["hotkey"], 0) / RAO,
                permit=bool(neuron["permit"]),
                incentive=neuron["incentive"] / ledger.U16_MAX,
                dividends=neuron["dividends"] / ledger.U16_MAX,
                last_update=neuron["last_update"],
            )
            for neuron in now.neurons(netuid)
        ),
        weights=_weights(now, netuid),
    )


def _endpoint(neuron: sqlite3.Row) -> str | None:
    ip = int(neuron["ip"] or 0)
    if not ip:
        return None
    if neuron["ip_type"] == 6:
        return f"[{ipaddress.IPv6Address(ip)}]:{neuron['port']}"
    return f"{ipaddress.IPv4Address(ip)}:{neuron['port']}"


def _weights(now: Transaction, netuid: int) -> dict[int, dict[int, float]]:
    rows: dict[int, dict[int, float]] = {}
    for row in now.all("SELECT * FROM weight WHERE netuid = ?", netuid):
        rows.setdefault(row["uid"], {})[row["target"]] = row["value"]
    return {
        uid: {target: value / sum(row.values()) for target, value in row.items()}
        for uid, row in rows.items()
    }
