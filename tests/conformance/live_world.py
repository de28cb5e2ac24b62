"""A running subtensor node in ``DevWorld``'s place: //Alice pays, blocks take their time."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import bittensor as bt
from bittensor.sp_core import Keypair
from dev_world import hotkey, wallet

from neural_condense_core.chain.sdk import SdkChain

FUND_TAO = 100.0


class LiveWorld:
    """The subnet ``CONDENSE_TEST_NETUID`` of the node ``CONDENSE_TEST_SUBTENSOR``.

    Names get the process's number, so that a second run on the same node meets fresh keys.
    """

    ip = "127.0.0.2"  # the chain refuses 127.0.0.1

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.netuid = int(os.environ.get("CONDENSE_TEST_NETUID", "1"))
        self._bank = Keypair.create_from_uri(os.environ.get("CONDENSE_TEST_FUNDER", "//Alice"))

    def name(self, name: str) -> str:
        return f"{name}-{os.getpid()}"

    def chain(self, name: str | None, netuid: int | None = None) -> SdkChain:
        keys = None if name is None else wallet(self.name(name))
        return SdkChain(
            lambda: bt.Client(self.endpoint), netuid or self.netuid, keys, label=self.endpoint
        )

    def hotkey(self, name: str) -> str:
        return hotkey(self.name(name))

    async def fund(self, name: str) -> None:
        to = wallet(self.name(name)).coldkey.ss58_address
        await self._execute(bt.Transfer(dest_ss58=to, amount_tao=FUND_TAO))

    async def stake(self, name: str, alpha: float) -> None:
        await self._execute(
            bt.AddStake(
                hotkey_ss58=self.hotkey(name),
                netuid=self.netuid,
                amount_tao=alpha,
                slippage_protection=False,
            )
        )

    async def pass_blocks(self, blocks: int) -> None:
        async with bt.Client(self.endpoint) as client:
            await client.wait_for_block(await client.block() + blocks, timeout=300)

    async def pass_epoch(self) -> None:
        async with bt.Client(self.endpoint) as client:
            await client.wait_for_epoch(self.netuid, timeout=600)

    async def _execute(self, intent: Any) -> None:
        async with bt.Client(self.endpoint) as client:
            result = await asyncio.wait_for(client.execute(intent, self._bank), 120)
            result.raise_for_failure()
