"""A development chain with a clock of its own, and keys, for the tests of chain and nodes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bittensor as bt
from bittensor.sp_core import Keypair

from neural_condense_core.chain.devchain.admin import DevChain, make_chain
from neural_condense_core.chain.devchain.ledger import SubnetRules
from neural_condense_core.chain.devchain.substrate import DevSubstrate
from neural_condense_core.chain.link import Deadlines
from neural_condense_core.chain.sdk import SdkChain

NETUID = 52
START_S = 1_700_000_000.0
QUICK = Deadlines(
    read_s=2, attempt_s=0.5, connect_s=0.5, write_s=2, settle_s=0.5, close_s=0.5, pause_s=0.01
)


def wallet(name: str) -> Any:
    """Keys that follow from a name; anything with these four is a wallet to the SDK."""
    coldkey, hotkey = (Keypair.create_from_uri(f"//{name}{end}") for end in ("", "//hotkey"))
    return SimpleNamespace(coldkey=coldkey, coldkeypub=coldkey, hotkey=hotkey, hotkeypub=hotkey)


def hotkey(name: str) -> str:
    return wallet(name).hotkey.ss58_address


def coldkey(name: str) -> str:
    return wallet(name).coldkey.ss58_address


class Clock:
    """Seconds since 1970 that pass when told to."""

    def __init__(self) -> None:
        self.now = START_S

    def __call__(self) -> float:
        return self.now


class DevWorld:
    """A chain whose blocks pass by ``advance`` alone; its owner is ``owner``, at uid 0."""

    netuid = NETUID
    ip = "127.0.0.1"

    def __init__(self, folder: Path, **rules: int) -> None:
        self.clock = Clock()
        self.path = folder / "devchain.sqlite"
        self.rules = SubnetRules(**rules)
        make_chain(
            self.path,
            NETUID,
            hotkey("owner"),
            coldkey("owner"),
            rules=self.rules,
            block_time_s=1.0,
            clock=self.clock,
        )
        self.dev = DevChain(self.path, clock=self.clock)

    def substrate(self, busy_timeout_s: float = 0.1) -> DevSubstrate:
        return DevSubstrate(self.path, clock=self.clock, busy_timeout_s=busy_timeout_s)

    def client(self) -> bt.Client:
        return bt.Client("ws://devchain", substrate=self.substrate())

    def chain(self, name: str | None, netuid: int = NETUID, make: Any = None) -> SdkChain:
        keys = None if name is None else wallet(name)
        return SdkChain(
            make or self.client, netuid, keys, label="dev", deadlines=QUICK, clock=self.clock
        )

    async def fund(self, name: str) -> None:
        self.dev.fund(coldkey(name), 10)

    async def stake(self, name: str, alpha: float) -> None:
        self.dev.set_stake(NETUID, hotkey(name), alpha)

    async def pass_blocks(self, blocks: int) -> None:
        self.advance(blocks)

    async def pass_epoch(self) -> None:
        self.advance(self.rules.tempo)

    def advance(self, blocks: int) -> int:
        return self.dev.advance(blocks)

    def register(self, *names: str) -> list[int]:
        return [self.dev.register(NETUID, hotkey(name), coldkey(name)) for name in names]

    def validator(self, name: str, alpha: float = 1000) -> int:
        """Register, stake and let an epoch pass, so that it may set weights."""
        (uid,) = self.register(name)
        self.dev.set_stake(NETUID, hotkey(name), alpha)
        self.advance(self.rules.tempo)
        return uid
