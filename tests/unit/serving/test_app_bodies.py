"""Which bodies are read at all, and what becomes of an exception that nobody foresaw."""

import asyncio
import logging

import httpx
import pytest
from fake_engine import PRIVATE, ask, error_of

from neural_condense_core.serving import condense_route
from neural_condense_core.serving.app import create_app
from neural_condense_core.serving.engine import Engine, Readiness
from neural_condense_core.serving.jobs import Loaded, WorkerSpec
from neural_condense_core.serving.settings import ServeSettings
from neural_condense_core.serving.tokenizing import FrontTokenizer

JSON_TYPE = {"Content-Type": "application/json"}


@pytest.mark.parametrize("state", ["loading", "draining", "failed"])
def test_no_body_is_read_while_nobody_can_answer(engine, state):
    read = []

    async def body():
        read.append(True)
        yield b'{"context": "a"}'

    engine.readiness_now = Readiness(state, 0, "load", 0.3, 1.0, None)
    reply = ask(engine, content=body(), headers=JSON_TYPE)
    assert (reply.status_code, error_of(reply)["code"]) == (503, "unavailable")
    assert reply.headers["retry-after"] == "1"
    assert not read
    assert not engine.asked


def test_only_so_many_bodies_are_in_hand_and_each_gives_its_place_back(engine, monkeypatch):
    assert condense_route.MAX_BODIES == 64
    monkeypatch.setattr(condense_route, "MAX_BODIES", 2)
    application = create_app(engine, ServeSettings("echo"))

    async def go():
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            go_on, arrived = asyncio.Event(), asyncio.Queue()

            async def body(text):
                arrived.put_nowait(text)
                await go_on.wait()
                yield text

            def post(content):
                return client.post("/condense", content=content, headers=JSON_TYPE)

            for _ in range(2):  # the second time only where the first gave its places back
                texts = (b'{"context": "a"}', b"not JSON")
                slow = [asyncio.create_task(post(body(text))) for text in texts]
                assert {await arrived.get(), await arrived.get()} == set(texts)
                refused = await post(b'{"context": "b"}')
                assert (refused.status_code, error_of(refused)["code"]) == (429, "overloaded")
                assert refused.headers["retry-after"] == "1"
                go_on.set()
                assert [(await reply).status_code for reply in slow] == [200, 400]
                go_on.clear()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_a_body_that_has_been_read_makes_room_while_its_context_waits(engine, monkeypatch):
    monkeypatch.setattr(condense_route, "MAX_BODIES", 1)
    asked, go_on, answer = asyncio.Event(), asyncio.Event(), engine.condense

    async def condense(*args, **kwargs):
        asked.set()
        await go_on.wait()
        return await answer(*args, **kwargs)

    monkeypatch.setattr(engine, "condense", condense)
    application = create_app(engine, ServeSettings("echo"))

    async def go():
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = asyncio.create_task(client.post("/condense", json={"context": "a"}))
            await asked.wait()
            asked.clear()
            second = asyncio.create_task(client.post("/condense", json={"context": "b"}))
            await asked.wait()
            go_on.set()
            return [(await reply).status_code for reply in (first, second)]

    assert asyncio.run(asyncio.wait_for(go(), 30)) == [200, 200]


class QuotingTokenizer(FrontTokenizer):
    """Fails as libraries do: with the text in its message."""

    def count_now(self, context):
        raise ValueError(f"cannot tokenize {context!r}")


def ready_engine():
    spec = WorkerSpec("echo", None, None, None, "auto", "cpu", 1, 100, (16,))
    engine = Engine([spec], max_queued_tokens=100, max_batch_tokens=100, timeout_s=30.0)
    engine._tokenizer = QuotingTokenizer()
    engine._crew._state = "ready"
    engine._crew.loaded = Loaded("echo", "toy", 64, None, 4.0, None, (), {})
    return engine


def test_what_the_front_did_not_foresee_is_500_and_its_message_stays_out_of_the_log(caplog):
    caplog.set_level(logging.DEBUG)
    application = create_app(ready_engine(), ServeSettings("echo"))

    async def go():
        # What gets past the application, uvicorn logs with its message: nothing may.
        transport = httpx.ASGITransport(application, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/condense", json={"context": PRIVATE})

    reply = asyncio.run(go())
    assert (reply.status_code, error_of(reply)["code"]) == (500, "internal")
    assert "ValueError (its message is withheld)" in caplog.text
    assert "in count_now" in caplog.text
    assert PRIVATE not in caplog.text
