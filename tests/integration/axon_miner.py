"""A miner's axon without a network: its application is called directly."""

from __future__ import annotations

import asyncio

import httpx
from miner_parts import (
    HIDDEN,
    MINER,
    PATH,
    TIER,
    VALIDATOR,
    Backend,
    asked,
    roster,
    signed,
)

from neural_condense_core.miner.access import Access
from neural_condense_core.miner.axon import Axon, Identity, create_app
from neural_condense_core.miner.forwarding import Forwarder
from neural_condense_core.wire.signing import NonceStore


class Miner:
    """An axon without a network: its application is called directly."""

    def __init__(self, folder, *, has_roster=True, **settings):
        self.backend = Backend()
        self.access = Access(TIER, 0.0)
        if has_roster:
            self.access.update(roster())
        self.nonces = NonceStore(folder / "nonces.sqlite")
        self.forwarder = Forwarder(
            "http://backend", TIER, hidden_size=HIDDEN, transport=self.backend.transport
        )
        identity = Identity(MINER, MINER.ss58_address, TIER, HIDDEN)
        self.axon = Axon(identity, self.access, self.forwarder, self.nonces, **settings)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(self.axon), client=("203.0.113.9", 1)),
            base_url="http://miner",
        )

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()
        await self.forwarder.close()
        self.nonces.close()

    async def ask(self, body=None, *, key=VALIDATOR, headers=None, target=PATH, **extra):
        body = asked() if body is None else body
        if headers is None:
            headers = signed(body, key=key, target=target)
        answer = await self.http.post(target, content=body, headers={**headers, **extra})
        return answer, headers


def with_miner(folder, test, **settings):
    async def run():
        async with Miner(folder, **settings) as miner:
            return await test(miner)

    return asyncio.run(run())


def hold(miner, n):
    """Let the backend wait, and say when n requests have reached it."""
    release, miner.has_arrived = asyncio.Event(), asyncio.Event()

    async def wait(asked_for):
        if len(miner.backend.requests) >= n:
            miner.has_arrived.set()
        await release.wait()
        return httpx.Response(500)

    miner.backend.answer = wait
    return release


def code_of(answer):
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()["error"]["code"]
