"""Listening: a bound socket and uvicorn around it, as every service of ours uses them.

Design decisions

* The port is bound before anything else is done, so that a taken one is an error at once.
* The socket is made here and not by uvicorn: with its protocol named, asyncio sets TCP_NODELAY on
  connections, without which a reply in two packets waits 40 ms.
* uvicorn's signal handlers are left out: it would repeat the signal once it has shut down.
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
from uvicorn.protocols.http.h11_impl import H11Protocol

from neural_condense_core.errors import ConfigError

BACKLOG = 512
HEAD_TIMEOUT_S = 10.0


class Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield


class HeadDeadlineProtocol(H11Protocol):
    """HTTP/1.1 whose request heads have a deadline of ``HEAD_TIMEOUT_S``."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock runs only while a head is incomplete."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_waiting()
        super().connection_lost(exc)

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


def make_server(app: Any, *, grace_s: int = 5, max_connections: int | None = None) -> Server:
    """Return a server for an ASGI application; ``serve(sockets=[...])`` runs it.

    Parameters
    ----------
    app : the application
    grace_s : seconds that requests in hand have once the server is told to exit
    max_connections : above it 503; None = any number
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
