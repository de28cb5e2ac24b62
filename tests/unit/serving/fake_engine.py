"""The application over an engine that answers in the test's own process."""

import asyncio

import httpx

from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.errors import NeuralCondenseError, UnavailableError
from neural_condense_core.serving.app import create_app
from neural_condense_core.serving.engine import Readiness
from neural_condense_core.serving.jobs import Job, Loaded
from neural_condense_core.serving.settings import ServeSettings
from neural_condense_core.serving.worker import Worker

PRIVATE = "the vault opens at noon"
LOADED = Loaded("echo", "toy", 64, (2, 4), 4.0, None, (), {})


class FakeEngine:
    """Answers in this process, or raises what it is told to."""

    def __init__(self):
        self.error = None
        self.delay_s = 0.0
        self.loaded = LOADED
        self.readiness_now = Readiness("ready", 2, "ready", 1.0, 5.0, None)
        self.asked = []
        self.cache = None
        self.cancelled = 0

    def readiness(self):
        return self.readiness_now

    def served(self):
        if self.readiness_now.state != "ready":
            raise UnavailableError("not now")
        return self.loaded

    async def condense(self, context, reply, *, timings=None, **asked):
        self.asked.append(asked)
        self.timings = timings
        timings.cache = self.cache
        if self.error:
            raise self.error
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        (outcome,) = Worker(EchoCondenser("toy"), 4.0, 1000).answer([
            Job(context, reply, asked["ratio"], asked["max_condensed_tokens"])
        ])
        if isinstance(outcome, NeuralCondenseError):
            raise outcome
        timings.n_tokens = outcome.n_context_tokens
        timings.queue_s, timings.inference_s = 0.25, 0.5
        return outcome


def ask(engine, method="POST", path="/condense", *, settings=None, metrics=None, **kwargs):
    application = create_app(engine, settings or ServeSettings("echo"), metrics)

    async def go():
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(go())


def error_of(reply):
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"code", "message", "detail"}
    assert PRIVATE not in reply.text
    return error
