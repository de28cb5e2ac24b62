"""The deadline of both clients against a server that keeps its promises byte by byte, or not."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from neural_condense_core.client.backend import AsyncBackendClient, BackendClient
from neural_condense_core.errors import DeadlineError

TIMEOUT_S = 1.0
SLACK_S = 0.5
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BODY_HEAD = HEAD + b"content-length: 100000\r\n\r\n"
ANSWERS = {
    "trickled headers": (HEAD, b"x-more: y\r\n"),
    "trickled body": (BODY_HEAD, b" "),
    "stalled body": (BODY_HEAD, b""),
}


@pytest.fixture
def serve():
    """Return a function that serves one answer for ever: at once, then a part each 0.1 s."""
    stopped = threading.Event()
    threads = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer(at_once: bytes, part: bytes) -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                time.sleep(0.9 * TIMEOUT_S)  # so that a timeout for each read starts over late
                try:
                    connection.sendall(at_once)
                    while not stopped.wait(0.1):
                        connection.sendall(part)
                except OSError:
                    return

        def start(*parts: bytes) -> str:
            threads.append(threading.Thread(target=answer, args=parts, daemon=True))
            threads[-1].start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield start
        stopped.set()
        for thread in threads:
            thread.join(5)


def ask_sync(url: str) -> float:
    with BackendClient(url, timeout_s=TIMEOUT_S) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            client.condense("text")
        return time.monotonic() - began


def ask_async(url: str) -> float:
    async def run() -> float:
        async with AsyncBackendClient(url, timeout_s=TIMEOUT_S) as client:
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                await client.condense("text")
            return time.monotonic() - began

    return asyncio.run(run())


@pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])
@pytest.mark.parametrize("name", ANSWERS)
def test_the_deadline_holds(serve, ask, name):
    elapsed_s = ask(serve(*ANSWERS[name]))
    assert TIMEOUT_S - 0.05 < elapsed_s < TIMEOUT_S + SLACK_S
