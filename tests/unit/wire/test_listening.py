import asyncio
import socket

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.wire.listening import MAX_JOINED_BYTES, OneWrite, bind, make_server


def test_a_taken_port_is_an_error_that_says_what_to_do():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*--port or --host"):
            bind("127.0.0.1", port)
        with pytest.raises(ConfigError, match=f"port {port}.*--axon"):
            bind("127.0.0.1", port, flags="--axon.port")


def test_a_port_that_cannot_be_had_leaves_no_socket_open(monkeypatch):
    opened = []

    class Recorded(socket.socket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            opened.append(self)

    with bind("127.0.0.1", 0) as listener:
        monkeypatch.setattr(socket, "socket", Recorded)
        with pytest.raises(ConfigError):
            bind("127.0.0.1", listener.getsockname()[1])
    (left,) = opened
    assert left.fileno() == -1


def test_accepted_connections_send_without_delay():
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "or asyncio does not set TCP_NODELAY"


def test_a_host_that_is_not_known_is_an_error(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=r"Name or service not known.*--host"):
        bind("nowhere.invalid", 0)


def test_ipv6_loopback():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.socket(socket.AF_INET6).bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with bind("::1", 0) as listener:
        assert listener.family == socket.AF_INET6


class Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.writes = []
        self.closed = False

    def write(self, data):
        self.writes.append(data)

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True


def one_write(*writes, close=False):
    wire = Wire()

    async def go():
        held = OneWrite(wire, asyncio.get_running_loop())
        for data in writes:
            held.write(data)
        if close:
            held.close()
        before = list(wire.writes)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return before

    return asyncio.run(go()), wire


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def test_a_head_and_its_body_are_one_write():
    assert one_write(HEAD, b"body")[0] == [HEAD + b"body"]
    assert one_write(HEAD, b"")[0] == [HEAD]
    assert one_write(b"more of a body")[0] == [b"more of a body"]


def test_a_large_body_is_not_copied():
    body = b"x" * (MAX_JOINED_BYTES + 1)
    before, _ = one_write(HEAD, body)
    assert before == [HEAD, body]
    assert before[1] is body


def test_a_head_that_nothing_follows_goes_out_all_the_same():
    before, wire = one_write(HEAD)
    assert (before, wire.writes) == ([], [HEAD])
    before, wire = one_write(HEAD, close=True)
    assert (before, wire.closed) == ([HEAD], True)


async def app(scope, receive, send):
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def exchange(*parts):
    """Return what a server answers to bytes."""

    async def go():
        with bind("127.0.0.1", 0) as listener:
            server = make_server(app)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            reading = asyncio.create_task(reader.read(200))
            for part in parts:
                if not reading.done():
                    writer.write(part)
                await asyncio.sleep(0.02)
            async with asyncio.timeout(20):
                reply = await reading
            writer.close()
            server.should_exit = True
            await serving
            return reply

    return asyncio.run(go())


def test_a_head_without_end_is_refused():
    line = b"X-Filler: " + b"x" * 50_000 + b"\r\n"
    assert exchange(b"GET / HTTP/1.1\r\nHost: x\r\n", *[line] * 8).startswith(b"HTTP/1.1 400 ")
    assert exchange(b"GET / HTTP/1.1\r\n", b"X-Filler: ", *[b"x" * 60_000] * 9).startswith(
        b"HTTP/1.1 400 "
    )


def test_trailers_without_end_are_refused():
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    line = b"X-Filler: " + b"x" * 50_000 + b"\r\n"
    assert exchange(head, b"1\r\na\r\n0\r\n", *[line] * 8).startswith(b"HTTP/1.1 400 ")


def test_a_body_in_the_smallest_chunks_is_taken():
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = exchange(head, b"1\r\na\r\n" * 60_000, b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.endswith(b"70000")
