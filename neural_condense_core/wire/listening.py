"""Listening: a bound socket and uvicorn around it, as every service of ours uses them.

Design decisions

* The port is bound before anything else is done, so that a taken one is an error at once.
* The socket is made here and not by uvicorn: with its protocol named, asyncio sets TCP_NODELAY on
  connections, without which a reply in two packets waits 40 ms.
* uvicorn's signal handlers are left out: it would repeat the signal once it has shut down.
* The parser is httptools, which costs a request a third of what the pure one does. It bounds
  nothing: what is not body is counted here.
* A reply's head goes out together with the body behind it: two packets are two wake-ups of the
  client, and on a busy machine each is a turn of the scheduler.
* A connection that does not send a whole request head in time is closed: uvicorn itself would wait
  for it for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from neural_condense_core.errors import ConfigError

BACKLOG = 512
HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 * 1024
"""Of one request's head; and of what frames its body, beside a share of the body."""
MAX_JOINED_BYTES = 64 * 1024
"""Above it a body is not copied behind its head."""
MAX_FRAMING_SHARE = 8
"""A body in chunks of one byte has five bytes of framing to each."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield


class OneWrite:
    """A transport that holds a reply's head back until the body's first bytes are there.

    Parameters
    ----------
    transport : what it writes to
    loop : the event loop, in whose next round a head without a body goes out
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, those of a head soon."""
        if self._held:
            held, self._held = self._held, b""
            if len(data) <= MAX_JOINED_BYTES:
                self._transport.write(held + data)
                return
            self._transport.write(held)
        elif data.startswith(b"HTTP/1.") and len(data) <= MAX_JOINED_BYTES:
            self._held = data
            self._loop.call_soon(self.flush)
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send what is held back."""
        if self._held and not self._transport.is_closing():
            self._transport.write(self._held)
        self._held = b""

    def close(self) -> None:
        """Send what is held back, and close."""
        self.flush()
        self._transport.close()


class HeadDeadlineProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose request heads are bounded: ``HEAD_TIMEOUT_S`` and ``MAX_HEAD_BYTES``."""

    _head_timer: asyncio.TimerHandle | None = None
    _n_bytes = 0
    _n_body_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]
        self._wait_for_head()

    def on_message_begin(self) -> None:
        """Count anew."""
        super().on_message_begin()
        self._n_bytes = self._n_body_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Count a body's bytes."""
        self._n_body_bytes += len(body)
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock runs only while a head is incomplete."""
        self._n_bytes += len(data)
        super().data_received(data)
        if self._n_bytes > MAX_HEAD_BYTES + (1 + MAX_FRAMING_SHARE) * self._n_body_bytes:
            self._refuse_head()
        elif self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _refuse_head(self) -> None:
        if not self.transport.is_closing():
            self.send_400_response("Request head too large.")

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def make_server(
    app: Any, *, grace_s: int = 5, max_connections: int | None = None, behind_proxy: bool = True
) -> Server:
    """Return a server for an ASGI application; ``serve(sockets=[...])`` runs it.

    Parameters
    ----------
    app : the application
    grace_s : seconds that requests in hand have once the server is told to exit
    max_connections : above it 503; None = any number
    behind_proxy : whether a proxy on this machine may say for whom it asks
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=HeadDeadlineProtocol,
        ws="none",
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        server_header=False,
        proxy_headers=behind_proxy,
        limit_concurrency=max_connections,
        timeout_graceful_shutdown=grace_s,
    )
    return Server(config)


def bind(host: str, port: int, *, flags: str = "--port or --host") -> socket.socket:
    """Return a listening socket.

    Parameters
    ----------
    host, port : where; port 0 = any free one
    flags : what the user changes, for the message

    Raises
    ------
    ConfigError
        The address is taken or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            undo.pop_all()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another by {flags}"
        ) from None
    return listener
