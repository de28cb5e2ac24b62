"""What a reply is worth: ``ok``, or the code of what is wrong with it.

Where it sits: between ``connections.py`` and the figures.

Design decisions

* A reply is read by the code with which a miner reads its backend's: bare list,
  ``compressed_tokens``, ``compressed_tokens_b64``, npy and safetensors, shape, width, limit of
  tokens, finite numbers.
* Long JSON is parsed in processes of their own: tens of milliseconds each would hold up the
  requests that are due, and show as the backend's latency. What waits for them is bounded in bytes;
  beyond that a reply counts as ``unchecked``, never as good.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from neural_condense_core.client.exchange import Answer, Question
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.loadtest.connections import Reply

OK = "ok"
TIMEOUT = "timeout"
NOT_SENT = "in_flight_cap"
UNCHECKED = "unchecked"
HTTP = "http_"
MALFORMED = "malformed_"

INLINE_JSON_BYTES = 64 * 1024
MAX_WAITING_BYTES = 256 * 1024 * 1024
MAX_CHECKERS = 2
CHECK_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Checked:
    """What a reply turned out to be.

    Parameters
    ----------
    code : ``"ok"`` or why not
    n_condensed, hidden_size : shape of the matrix, 0 where there is none
    """

    code: str
    n_condensed: int = 0
    hidden_size: int = 0


def most_tokens(context: str) -> int:
    """Return more tokens than a text can have, for backends that do not say."""
    return len(context.encode("utf-8", "replace")) + 16


def check(question: Question, reply: Reply) -> Checked:
    """Check one reply; never raises for what a backend did.

    Parameters
    ----------
    question : what was asked, with the limits
    reply : what came
    """
    if reply.status != 200:
        return Checked(f"{HTTP}{reply.status}")
    if reply.headers.get("content-encoding", "identity") != "identity":
        return Checked(f"{MALFORMED}encoding")
    try:
        tokens = question.read(Answer(reply.status, reply.headers, reply.body), "")
    except NeuralCondenseError as error:
        return Checked(f"{MALFORMED}{error.detail.get('reason', error.code)}")
    return Checked(OK, tokens.n_condensed_tokens, tokens.hidden_size)


class Checker:
    """Checks replies without holding up the event loop; a context manager."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._waiting_bytes = 0

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    async def check(self, question: Question, reply: Reply) -> Checked:
        """Check one reply, long JSON in a process of its own."""
        is_json = "json" in reply.headers.get("content-type", "").lower()
        size = len(reply.body)
        if reply.status != 200 or not is_json or size <= INLINE_JSON_BYTES:
            return check(question, reply)
        if self._waiting_bytes + size > MAX_WAITING_BYTES:
            return Checked(UNCHECKED)
        self._waiting_bytes += size
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await loop.run_in_executor(self._processes(), check, question, reply)
        except (TimeoutError, BrokenProcessPool):
            return Checked(UNCHECKED)
        finally:
            self._waiting_bytes -= size

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            n = max(1, min(MAX_CHECKERS, (os.cpu_count() or 1) - 1))
            self._pool = ProcessPoolExecutor(n, multiprocessing.get_context("spawn"))
        return self._pool
