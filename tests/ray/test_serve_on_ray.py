"""``condense serve --engine ray`` on two nodes, one of which is killed under load."""

import asyncio
import re
import signal
import subprocess
import threading
import time

import httpx
import numpy as np
import pytest
from two_nodes import WAIT_S, condense

from neural_condense_core.condensers.echo import read_echo
from neural_condense_core.tokens import CondensedTokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Front:
    def __init__(self, cluster, *args):
        self.process = condense(
            "serve", "--engine", "ray", "--ray_address", cluster.address, "--port", "0",
            "--condenser", "slow_echo:SlowEcho", *args, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.lines = []
        self.url = None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(r" at (http://[^/]+)/", line):
                self.url = match.group(1)

    def until(self, condition, what):
        give_up_s = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < give_up_s, f"waited too long for {what}:\n" + "".join(
                self.lines
            )
            time.sleep(0.1)
        return found

    def ready(self):
        self.until(lambda: self.url, "the port")
        assert httpx.get(f"{self.url}/health/live").json() == {"state": "live"}
        self.until(lambda: httpx.get(f"{self.url}/health/ready").status_code == 200, "a replica")
        return self


@pytest.fixture
def least():
    return 2


@pytest.fixture
def front(cluster, least):
    found = Front(
        cluster, "--min_replicas", str(least), "--max_replicas", "2", "--max_queued_tokens", "400",
        "--max_context_tokens", "400", "--timeout", "90", "--cache_mb", "0",
    )  # fmt: skip
    yield found
    if found.process.poll() is None:
        found.process.kill()
    found.process.wait(WAIT_S)


def echoed(reply):
    body = reply.json()
    matrix = np.asarray(body["compressed_tokens"], dtype=np.float32)
    return read_echo(CondensedTokens(matrix, "echo", body["n_context_tokens"])).decode()


async def ask(client, url, text):
    while True:
        reply = await client.post(f"{url}/condense", json={"context": text})
        if reply.status_code != 429:
            return reply
        assert float(reply.headers["Retry-After"]) > 0
        await asyncio.sleep(0.1)


def test_a_node_is_killed_under_load_and_every_request_is_answered(cluster, front):
    front.ready()

    async def load():
        async with httpx.AsyncClient(timeout=120) as client:
            tasks = []
            for index in range(120):
                if index == 40:
                    cluster.other.kill()
                tasks.append(asyncio.create_task(ask(client, front.url, f"request {index}")))
                await asyncio.sleep(0.02)
            return await asyncio.gather(*tasks)

    replies = asyncio.run(load())
    assert {reply.status_code for reply in replies} == {200}
    assert [echoed(reply) for reply in replies] == [f"request {index}" for index in range(120)]

    client = httpx.Client(base_url=front.url, timeout=60)
    assert client.post("/condense", json={"context": " "}).status_code == 422
    assert client.post("/condense", json={"context": "x" * 401}).status_code == 413
    assert client.get("/condense").status_code == 405

    front.process.send_signal(signal.SIGTERM)
    assert front.process.wait(WAIT_S) == 0, "".join(front.lines)


def test_too_much_at_once_is_429_with_retry_after(cluster, front):
    front.ready()

    async def flood():
        async with httpx.AsyncClient(timeout=120) as client:
            asked = [
                client.post(f"{front.url}/condense", json={"context": "w" * 200}) for _ in range(60)
            ]
            return await asyncio.gather(*asked)

    replies = asyncio.run(flood())
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("least", [1])
def test_load_brings_another_replica(cluster, front):
    front.ready()
    assert cluster.n_loaded() == 1

    async def load():
        give_up_s = time.monotonic() + WAIT_S
        async with httpx.AsyncClient(timeout=120) as client:
            while cluster.n_loaded() < 2:
                assert time.monotonic() < give_up_s, "".join(front.lines)
                asked = [ask(client, front.url, "some load") for _ in range(12)]
                assert {reply.status_code for reply in await asyncio.gather(*asked)} == {200}

    asyncio.run(load())
