"""A client that fails as told, in the place of the SDK's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import bittensor as bt


class Script:
    """What the next calls do, over all clients: an exception is raised, ``HANG`` never answers,
    a function is called, anything else is returned. The last one stays."""

    HANG = object()

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.calls = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step = self.steps[min(self.calls, len(self.steps) - 1)]
        self.calls += 1
        if step is self.HANG:
            await asyncio.Event().wait()
        if isinstance(step, BaseException):
            raise step
        return await step(*args, **kwargs) if callable(step) else step


def signed_then(step: Any) -> Callable[..., Any]:
    """Sign as the SDK would, and then do the step."""

    async def run(intent: Any, signer: Any, **options: Any) -> Any:
        signer.sign(b"payload")
        return await Script(step)()

    return run


class StubChain:
    """Makes clients that share scripts, and counts what became of them."""

    def __init__(self, **scripts: Script) -> None:
        self.block = scripts.get("block", Script(100))
        self.uid = scripts.get("uid", Script(1))
        self.execute = scripts.get("execute", Script(included()))
        self.submit_call = scripts.get("submit_call", Script(included()))
        self.metagraph = scripts.get("metagraph", Script(None))
        self.connect = scripts.get("connect", Script(None))
        self.close = scripts.get("close", Script(None))
        self.clients = 0

    def make_client(self) -> Any:
        self.clients += 1
        return SimpleNamespace(
            connect=self.connect,
            close=self.close,
            block=self.block,
            execute=self.execute,
            submit_call=self.submit_call,
            neurons=SimpleNamespace(uid=self.uid),
            subnets=SimpleNamespace(metagraph=self.metagraph),
        )


def included(block: int = 101, **data: Any) -> bt.ExtrinsicResult:
    return bt.ExtrinsicResult(True, "Success", extrinsic_id=f"{block}-0002", data=data)


def refused(name: str | None, *, block: int | None = None, text: str = "no") -> bt.ExtrinsicResult:
    return bt.ExtrinsicResult(
        False,
        text,
        extrinsic_id=None if block is None else f"{block}-0002",
        error=bt.ChainError(text, name),
    )
