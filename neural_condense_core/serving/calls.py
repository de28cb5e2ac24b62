"""``CallSocket``: how a batch gets to a worker and its outcomes back.

Where it sits: between ``replica.py``, which asks, and ``worker.py``, which answers. The pool starts
the worker, watches it and ends it; once loaded, the worker does nothing but answer here.

Design decisions

* A call through the pool wakes three threads of the front one after the other, and that costs it
  more than all the rest of a small request. Here the event loop writes and reads by itself.
* One call at a time, each message with its length in front. Both ends are our own processes, and
  the socket has no name that anybody else could open.
* It ends when either process does, however it went: that is how the other one knows.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from neural_condense_core.errors import NeuralCondenseError, type_and_frames

log = logging.getLogger(__name__)

BUFFER_BYTES = 1 << 20
_LENGTH_BYTES = 8


class CallSocket:
    """The front's end."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Hand it to the event loop, once the worker answers."""
        self._reader, self._writer = await asyncio.open_connection(
            sock=self._ours, limit=BUFFER_BYTES
        )

    async def call(self, argument: Any) -> Any:
        """Return what the worker answers, or raise what it raised.

        Raises
        ------
        EOFError
            It is gone, or nobody has opened this end.
        CancelledError
            The caller was cancelled; this end is closed.
        """
        if self._reader is None or self._writer is None or self._writer.is_closing():
            raise EOFError("the socket is closed")
        self._writer.write(_framed(argument))
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "little")
            # Only ever from the worker that this process started.
            is_raised, found = pickle.loads(await self._reader.readexactly(length))  # noqa: S301
        except OSError as error:
            raise EOFError("the worker has hung up") from error
        except asyncio.CancelledError:
            # What is still on its way would be taken for the answer to the next call.
            self.close()
            raise
        if is_raised:
            raise found
        return found

    def close(self) -> None:
        """Hang up; the worker stops answering. Harmless when it is done already."""
        self.theirs.close()
        if self._writer is None:
            self._ours.close()
        else:
            self._writer.close()
        self._reader = self._writer = None


def answer_calls(
    theirs: socket.socket, answer: Callable[[Any], Any], known: tuple[type[Exception], ...]
) -> None:
    """Answer calls until the front hangs up: the worker's end.

    Parameters
    ----------
    theirs : the socket
    answer : argument -> outcome
    known : exceptions that the front is given as they are; of any other the type and place are
        logged here, and its message is told to nobody, as it may quote a context
    """
    # A front that hangs up with an answer of ours unread resets the connection.
    with theirs, theirs.makefile("rb") as requests, suppress(ConnectionError):
        while len(head := requests.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
            raw = requests.read(int.from_bytes(head, "little"))
            try:
                # Only ever from the process that started this one.
                reply = _framed((False, answer(pickle.loads(raw))))  # noqa: S301
            except known as error:
                reply = _framed((True, error))
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                log.error("a batch raised %s", type_and_frames(error))
                reply = _framed((True, NeuralCondenseError("the batch failed in its worker")))
            theirs.sendall(reply)


def _framed(message: Any) -> bytes:
    raw = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(raw).to_bytes(_LENGTH_BYTES, "little") + raw
