"""A gateway without a model: a reader and a source that answer in the test's own process."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np

from neural_condense_core.gateway.app import create_app
from neural_condense_core.gateway.contexts import Contexts
from neural_condense_core.gateway.door import Door
from neural_condense_core.gateway.estimating import Calibration
from neural_condense_core.gateway.metrics import Metrics
from neural_condense_core.gateway.parts import Parts
from neural_condense_core.gateway.preparing import Preparer
from neural_condense_core.gateway.reader_messages import Begun, Measured, Opened
from neural_condense_core.gateway.settings import GatewaySettings
from neural_condense_core.gateway.store import Bounds, ContextStore
from neural_condense_core.llm.base import Piece
from neural_condense_core.tokens import CondensedTokens, n_condensed_for

HIDDEN = 8
WINDOW = 1000
PRIVATE = "the vault opens at noon"


def words(text):
    return len(text.split())


def rows(lines):
    """One row a word, one a condensed token, four a message with a role."""
    total = 0
    for line in lines:
        total += 4 if line.role else 0
        for part in line.parts:
            total += words(part) if isinstance(part, str) else part.n_condensed_tokens
    return total


class FakeReading:
    """Counts words and answers with the words it is told to."""

    def __init__(self):
        self.opened = Opened("toy", HIDDEN, WINDOW)
        self.state = "ready"
        self.failure = None
        self.n_restarts = 0
        self.answer = ["Hel", "lo", " there"]
        self.gain = 0.9
        self.error = None
        self.break_after = None
        self.asked = []
        self.n_closed = 0
        self.n_estimates = 0

    def served(self):
        return self.opened

    async def measure(self, asked):
        return Measured(tuple(map(words, asked.texts)), rows(asked.lines))

    async def estimate(self, asked):
        self.n_estimates += 1
        return self.gain

    async def read(self, asked):
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        try:
            yield Begun(rows(asked.lines))
            for index, text in enumerate(self.answer):
                if index == self.break_after:
                    raise RuntimeError(f"broke at {PRIVATE}")
                await asyncio.sleep(0)
                last = index == len(self.answer) - 1
                yield Piece(text, 1, "stop" if last else None)
        finally:
            self.n_closed += 1


class FakeSource:
    """Condenses to rows of ones."""

    def __init__(self, ratios=(4.0, 8.0, 16.0)):
        self.is_ready = True
        self.name = "fake"
        self.ratios = ratios
        self.ratio = 4.0
        self.max_chars = None
        self.texts = []
        self.error = None
        self.width = HIDDEN

    def start(self, target, on_misconfigured):
        self.target = target

    async def close(self):
        pass

    async def condense(self, text, ratio, timeout_s):
        self.texts.append((text, ratio))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        n = n_condensed_for(words(text), ratio)
        return CondensedTokens(
            np.ones((n, self.width), np.float32), "toy", words(text), checkpoint="fake"
        )


class World:
    """The parts of a gateway and a way to ask it."""

    def __init__(self, users=None, source=None, clock=None, others=(), **settings):
        self.now = 1_000.0
        self.settings = GatewaySettings(target="toy", threshold=20, **settings)
        self.reading = FakeReading()
        self.source = source or FakeSource()
        bounds = Bounds(100_000, 100_000, 50_000, 3_600.0)
        self.store = ContextStore(bounds, clock=lambda: self.now)
        calibration = Calibration("toy", (0.0, 1.0), (0.0, 1.0))

        def contexts_of(source):
            return Contexts(
                self.store, source, self.reading, calibration, timeout_s=5.0,
                clock=lambda: self.now,
            )  # fmt: skip

        contexts = contexts_of(self.source)
        self.parts = Parts(
            settings=self.settings,
            reading=self.reading,
            source=self.source,
            contexts=contexts,
            preparer=Preparer(self.reading, contexts, self.settings),
            door=Door(users, self.settings.requests_per_minute, clock or (lambda: self.now)),
            metrics=Metrics(self.store),
            others=tuple(map(contexts_of, others)),
        )
        self.app = create_app(self.parts)

    def ask(self, method, path, **kwargs):
        async def go():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            base_url = "http://127.0.0.1"
            async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(go())

    def chat(self, messages, headers=None, **more):
        body = {"model": "toy", "messages": messages, **more}
        return self.ask("POST", "/v1/chat/completions", json=body, headers=headers)


def text_of(n, word="word"):
    """Return so many words."""
    return " ".join(f"{word}{i}" for i in range(n))
