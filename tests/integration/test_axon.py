"""A miner's axon over real HTTP: its server, its store of requests, a backend of anybody's."""

import asyncio
import contextlib
import multiprocessing
import statistics
import time

import httpx
import pytest
from miner_parts import (
    HIDDEN,
    MINER,
    PATH,
    TIER,
    VALIDATOR,
    LoopbackBackend,
    asked,
    peer,
    read_answer,
    roster,
    signed,
)

from neural_condense_core.miner.access import Access
from neural_condense_core.miner.axon import Axon, Identity, create_app
from neural_condense_core.miner.forwarding import Forwarder
from neural_condense_core.validator.dendrite import Dendrite
from neural_condense_core.wire import listening
from neural_condense_core.wire.listening import bind, make_server
from neural_condense_core.wire.signing import NonceStore


@contextlib.asynccontextmanager
async def serving(folder, backend_port):
    """Run an axon on a free port of loopback; yields its URL."""
    access = Access(TIER, 0.0)
    access.update(roster())
    forwarder = Forwarder(f"http://127.0.0.1:{backend_port}", TIER, hidden_size=HIDDEN)
    with NonceStore(folder / "nonces.sqlite") as nonces, bind("127.0.0.1", 0) as listener:
        identity = Identity(MINER, MINER.ss58_address, TIER, HIDDEN)
        server = make_server(create_app(Axon(identity, access, forwarder, nonces)))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
            await forwarder.close()


def test_a_signed_exchange_over_loopback(tmp_path):
    async def run():
        with LoopbackBackend() as backend:
            async with (
                serving(tmp_path, backend.port) as url,
                httpx.AsyncClient(base_url=url, trust_env=False) as http,
            ):
                times = []
                for i in range(20):
                    body = asked(f"text number {i}, of some length")
                    headers = signed(body)
                    began = time.perf_counter()
                    answer = await http.post(PATH, content=body, headers=headers)
                    times.append(time.perf_counter() - began)
                    assert answer.status_code == 200, answer.text
                    assert read_answer(answer, headers).hidden_size == HIDDEN
                assert len(backend.contexts) == 20
                # A reply in two packets without TCP_NODELAY would take 40 ms more, every time.
                assert statistics.median(times) < 0.5

    asyncio.run(run())


def test_the_validators_own_client_gets_its_answer(tmp_path):
    async def run(backend):
        dendrite = Dendrite(
            VALIDATOR, VALIDATOR.ss58_address, hidden_size=HIDDEN, allow_private=True
        )
        async with serving(tmp_path, backend.port) as url:
            peer_ = peer(0, MINER, endpoint=url.removeprefix("http://"))
            metadata = await dendrite.metadata(peer_)
            assert (metadata.tier, metadata.target_model) == (TIER.name, TIER.target_model)
            reply = await dendrite.ask(peer_, TIER, "a text of some length")
            assert (reply.status, reply.tokens.hidden_size) == ("ok", HIDDEN)
            too_long = await dendrite.ask(peer_, TIER, "x" * 1000)
            assert (too_long.status, too_long.code) == ("refused", "context_too_long")
        await dendrite.close()

    with LoopbackBackend() as backend:
        asyncio.run(run(backend))


def _serve_until_told(folder, backend_port, urls, is_over):
    async def run():
        async with serving(folder, backend_port) as url:
            urls.put(url)
            await asyncio.to_thread(is_over.wait, 60)

    asyncio.run(run())


def test_a_request_replayed_at_another_process_of_the_same_miner_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    urls, is_over = context.Queue(), context.Event()

    async def run(backend):
        async with (
            serving(tmp_path, backend.port) as own_url,
            httpx.AsyncClient(trust_env=False, timeout=30) as http,
        ):
            other_url = await asyncio.to_thread(urls.get, timeout=60)
            body = asked("a text that is sent once and replayed")
            headers = signed(body)
            return [
                (await http.post(url + PATH, content=body, headers=headers)).status_code
                for url in [other_url, own_url] * 6
            ]

    with LoopbackBackend() as backend:
        args = (tmp_path, backend.port, urls, is_over)
        other = context.Process(target=_serve_until_told, args=args)
        other.start()
        try:
            statuses = asyncio.run(run(backend))
        finally:
            is_over.set()
            other.join(30)
        assert statuses == [200] + [401] * 11
        assert len(backend.contexts) == 1


@pytest.mark.parametrize("sent", [b"", b"POST /v1/condense HTTP/1.1\r\nHo"])
def test_a_connection_that_sends_no_whole_head_is_closed(tmp_path, monkeypatch, sent):
    monkeypatch.setattr(listening, "HEAD_TIMEOUT_S", 0.3)

    async def run():
        async with serving(tmp_path, 9) as url:
            port = httpx.URL(url).port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_a_kept_connection_has_the_same_deadline_for_its_next_head(tmp_path, monkeypatch):
    monkeypatch.setattr(listening, "HEAD_TIMEOUT_S", 0.3)

    async def run():
        async with serving(tmp_path, 9) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(10):
                assert b"200" in await reader.readline()
                writer.write(b"GET /health/li")
                await reader.read()
            writer.close()

    asyncio.run(run())


def test_a_body_that_trickles_in_has_a_deadline(tmp_path):
    async def run():
        async with serving(tmp_path, 9) as url:
            headers = {**signed(b"x" * 50), "X-Request-Timeout": "0.4", "Host": "x"}
            lines = [f"{name}: {value}" for name, value in headers.items()]
            head = "\r\n".join([f"POST {PATH} HTTP/1.1", *lines, "Content-Length: 50", "", ""])
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
            writer.write(head.encode() + b"x")
            async with asyncio.timeout(10):
                assert b"504" in await reader.readline()
            writer.close()

    asyncio.run(run())
