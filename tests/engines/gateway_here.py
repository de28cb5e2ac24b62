"""A gateway whose engine and condenser run in the test's own process: no process to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from neural_condense_core.gateway.app import create_app
from neural_condense_core.gateway.reader import Reader
from neural_condense_core.gateway.reader_messages import Asked, Opened, ReaderSpec
from neural_condense_core.gateway.reading import Reading
from neural_condense_core.gateway.server import assemble
from neural_condense_core.gateway.settings import GatewaySettings

MODEL = "tiny"
Ask = Callable[..., Awaitable[httpx.Response]]


class ReadingHere(Reading):
    """The reader in threads of this process."""

    def __init__(self, spec: ReaderSpec, **options: Any) -> None:
        super().__init__(spec, **options)

    def open(self, target: Any) -> None:
        loop = asyncio.get_running_loop()

        def say(number: int, said: Any) -> None:
            loop.call_soon_threadsafe(self._on_reply, (number, said))

        self._reader = Reader(target, self.spec.max_parallel, say)
        self._pipe = object()  # type: ignore[assignment]
        self.opened = Opened(target.name, target.hidden_size, target.max_positions)
        self.state = "ready"

    def _send_now(self, pipe: Any, number: int, asked: Asked) -> None:
        self._reader.take(number, asked)


class SourceHere:
    """A condenser in this process."""

    is_ready = True
    max_chars = None
    ratio = 4.0
    ratios = None

    def __init__(self, condenser: Any) -> None:
        self.condenser = condenser
        self.name = "here"

    def start(self, target: str, on_misconfigured: Any) -> None:
        pass

    async def close(self) -> None:
        pass

    async def condense(self, text: str, ratio: float, timeout_s: float) -> Any:
        return self.condenser.condense([self.condenser.tokenize(text)], ratio)[0]


def with_gateway(
    target: Any, condenser: Any, engine: str, work: Callable[[Ask], Awaitable[None]], patch: Any
) -> None:
    """Run ``work`` with a gateway before a target model.

    Parameters
    ----------
    target : the engine's
    condenser : makes rows for it
    engine : its name
    work : is given ``ask(method, path, **of httpx)``
    patch : pytest's monkeypatch
    """

    async def go() -> None:
        patch.setattr("neural_condense_core.gateway.server.Reading", ReadingHere)
        flag = engine if engine == "llama-cpp" else f"{engine}=http://engine"
        settings = GatewaySettings(target=target.name, model_name=MODEL, engine=flag, floor=0.01)
        parts = assemble(settings, None, lambda error: None, SourceHere(condenser))
        assert isinstance(parts.reading, ReadingHere)
        parts.reading.open(target)
        transport = httpx.ASGITransport(create_app(parts), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", timeout=120
        ) as client:
            await work(client.request)

    asyncio.run(go())
