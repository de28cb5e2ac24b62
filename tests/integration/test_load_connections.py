"""The load generator's own HTTP, against servers that behave as servers do."""

import asyncio

import pytest

from neural_condense_core.errors import BackendError
from neural_condense_core.loadtest.connections import Connections

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nhello"


class Server:
    """Answers each request with the next of some bytes; None closes the connection instead."""

    def __init__(self, *answers, closes_after=False):
        self.answers, self.closes_after = list(answers), closes_after
        self.heads, self.bodies, self.n_connections = [], [], 0
        self.closed = asyncio.Event()

    async def serve(self, reader, writer):
        self.n_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                self.heads.append(head)
                answer = self.answers.pop(0) if self.answers else OK
                if answer is None:
                    return
                if answer == "hang":
                    await reader.read()
                    return
                for part in [answer] if isinstance(answer, bytes) else answer:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                if self.closes_after:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()
            writer.close()


def use(server, go, max_bytes=10_000):
    async def run():
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        connections = Connections(
            f"http://127.0.0.1:{port}/v9", "/condense", {"Accept": "a/b"}, max_bytes
        )
        try:
            async with asyncio.timeout(20):
                return await go(connections)
        finally:
            connections.close()
            listening.close()

    return asyncio.run(run())


def test_a_request_is_whole_and_connections_are_kept():
    server = Server()

    async def go(connections):
        return [await connections.post(body) for body in (b"one", b"two", b"three")]

    found = use(server, go)
    assert [(each.status, each.body) for each in found] == [(200, b"hello")] * 3
    assert found[0].headers == {"content-type": "text/x", "content-length": "5"}
    assert server.bodies == [b"one", b"two", b"three"]
    assert server.n_connections == 1
    head = server.heads[0].decode().lower()
    assert head.startswith("post /v9/condense http/1.1\r\nhost: 127.0.0.1:")
    assert "accept: a/b\r\n" in head


def test_as_many_connections_as_requests_at_once():
    server = Server()

    async def go(connections):
        await asyncio.gather(*(connections.post(b"x") for _ in range(8)))
        return await connections.post(b"y")

    assert use(server, go).status == 200
    assert server.n_connections == 8


@pytest.mark.parametrize(
    "answer",
    [
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        ],
        [b"HTTP/1.1 100 Continue\r\n\r\n", OK[:20], OK[20:]],
        [b"HTTP/1.0 200 OK\r\n\r\nhe", b"llo"],
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"],
    ],
    ids=["chunked", "continue and pieces", "until the end", "close"],
)
def test_every_way_to_send_a_body(answer):
    server = Server(answer, closes_after=True)

    async def go(connections):
        return [await connections.post(b"x"), await connections.post(b"y")]

    found = use(server, go)
    assert [each.body for each in found] == [b"hello", b"hello"]


def test_a_kept_connection_that_was_closed_is_replaced_once():
    server = Server(OK, None, OK)

    async def go(connections):
        await connections.post(b"x")
        return await connections.post(b"y")

    assert use(server, go).body == b"hello"
    assert server.bodies == [b"x", b"y", b"y"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "connection"),
        ([OK[:-2]], "connection"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "http"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000], "too_large"),
    ],
    ids=["closed", "cut short", "no HTTP", "too large"],
)
def test_what_goes_wrong_has_a_reason(answer, reason):
    server = Server(answer, closes_after=True)

    async def go(connections):
        with pytest.raises(BackendError) as caught:
            await connections.post(b"x")
        return caught.value.detail["reason"], (await connections.post(b"y")).body

    assert use(server, go) == (reason, b"hello")


def test_nobody_there():
    async def go(connections):
        gone = Connections("http://127.0.0.1:9", "/condense", {}, 1000)
        with pytest.raises(BackendError) as caught:
            await gone.post(b"x")
        return caught.value.detail["reason"]

    assert use(Server(), go) == "connection"


def test_a_request_that_is_given_up_closes_its_connection():
    server = Server("hang")

    async def go(connections):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await connections.post(b"x")
        await server.closed.wait()
        return (await connections.post(b"y")).body

    assert use(server, go) == b"hello"
    assert server.n_connections == 2
