"""``AnswerCache``: a context that was condensed before is answered at once.

Where it sits: the engine asks it before the queue and tells it of every new answer. The key is a
digest of everything that an answer depends on: the context, what was asked for, the format and
the revision of the weights.

Design decisions

* It keeps the reply's bytes, so that a hit costs no worker, no encoding and no event loop that
  touches floats. A hit says so: in a header, and in a JSON object as ``"cached": true``.
* Least recently used goes first, and the bound counts bytes.
* Only what would come out alike again is kept: no failure, and nothing whose quality depended on
  the time that was left (``Answer.cacheable``).
* ``get`` and ``put`` are plain and may wait for the disk; ``find`` and ``keep`` are for an event
  loop, and touch neither the disk nor a large body in it. A disk that is slow makes misses, never
  waits: both have a bounded backlog, and a look-up a limit.
* Keys are no secret and no proof: who can guess a text can ask whether it was condensed before,
  here by the time a reply takes. A backend that serves strangers who must not learn that of each
  other is started without a cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from neural_condense_core.errors import ConfigError
from neural_condense_core.serving.cache_folder import AnswerFolder
from neural_condense_core.serving.jobs import Answer
from neural_condense_core.wire.codec import Format
from neural_condense_core.wire.digest import DIGEST_HEADER, content_digest

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_BYTES = 64 << 20
DEFAULT_FOLDER_BYTES = 1 << 30
ENTRY_BYTES = 2048
"""What an entry takes beside its body: headers and bookkeeping, about."""
MAX_BACKLOG = 32
"""How much may wait for the disk's threads; what comes on top is a miss, or not kept."""
FIND_PATIENCE_S = 0.25
"""How long a look-up on disk may take before it counts as a miss."""
INLINE_BYTES = 64 << 10
"""A body up to this size is kept without a thread: it costs less than the way there."""

CACHE_HEADER = "X-Condense-Cache"
HIT = "hit"
MISS = "miss"

_SCHEMA = b"condense answer key 1\n"
_CACHED = b',"cached":true}'


class AnswerCache:
    """Answers by key; usable by several threads.

    Parameters
    ----------
    max_bytes : of the answers in memory; 0 = none
    folder : where answers are kept on disk too; None = nowhere. Made if it is not there
    max_folder_bytes : of the files there

    Raises
    ------
    ConfigError
        A bound is below 0, or the folder cannot be made or is open to others.
    """

    def __init__(
        self,
        max_bytes: int = DEFAULT_BYTES,
        folder: Path | None = None,
        max_folder_bytes: int = DEFAULT_FOLDER_BYTES,
    ) -> None:
        if max_bytes < 0 or max_folder_bytes < 0:
            raise ConfigError("a cache cannot be smaller than 0 bytes")
        self.max_bytes = max_bytes
        self.folder = None if folder is None else AnswerFolder(folder, max_folder_bytes)
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()
        self._backlog = 0
        self._threads: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def n_bytes(self) -> int:
        """Bytes that the answers in memory take."""
        return self._n_bytes

    @staticmethod
    def key(
        context: str | npt.NDArray[np.uint32],
        ratio: float | None,
        max_condensed_tokens: int | None,
        reply: Format,
        revision: str,
    ) -> bytes:
        """Return the key of a request, 32 bytes.

        Parameters
        ----------
        context : the text, or (n_context,) its token ids; the two have different keys
        ratio, max_condensed_tokens : as asked for; None = not
        reply : how the answer is written
        revision : what identifies the weights and settings that make the answer
        """
        exact = None if ratio is None else float(ratio)
        wanted = [
            revision, exact, max_condensed_tokens, reply.name, reply.content_type, reply.dtype,
            isinstance(context, str),
        ]  # fmt: skip
        header = orjson.dumps(wanted)
        digest = hashlib.sha256(_SCHEMA)
        digest.update(len(header).to_bytes(8, "little"))
        digest.update(header)
        if isinstance(context, str):
            digest.update(context.encode("utf-8", "surrogatepass"))
        else:
            digest.update(np.ascontiguousarray(context, dtype="<u4").data)
        return digest.digest()

    def get(self, key: bytes) -> Answer | None:
        """Return the answer to the same request, marked as a hit; may wait for the disk."""
        found = self._remembered(key)
        return found if found is not None else self._recalled(key)

    def put(self, key: bytes, answer: Answer) -> None:
        """Keep an answer, unless it depends on more than its key; may wait for the disk."""
        if not answer.cacheable:
            return
        marked = as_hit(answer)
        self._remember(key, marked)
        if self.folder is not None:
            self.folder.write(key, marked)

    async def find(self, key: bytes) -> Answer | None:
        """Return the answer to the same request, marked as a hit, soon or not at all."""
        found = self._remembered(key)
        if found is not None or self.folder is None:
            return found
        reading = self._in_thread(lambda: self._recalled(key))
        if reading is None:
            return None
        done, _ = await asyncio.wait({reading}, timeout=FIND_PATIENCE_S)
        return reading.result() if done and reading.exception() is None else None

    def keep(self, key: bytes, answer: Answer) -> None:
        """Keep an answer, in a thread where that takes time; from inside an event loop."""
        if not answer.cacheable or (self.folder is None and self._size(answer) > self.max_bytes):
            return
        # At once, so that whoever asks next finds it; marked only then, which most never are.
        self._remember(key, answer)
        if self.folder is not None or len(answer.body) > INLINE_BYTES:
            self._in_thread(lambda: self.put(key, answer))

    def close(self) -> None:
        """Finish what is being written, and end the threads."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def _remembered(self, key: bytes) -> Answer | None:
        with self._lock:
            found = self._answers.get(key)
            if found is not None:
                self._answers.move_to_end(key)
        if found is None or CACHE_HEADER in found.headers:
            return found
        marked = as_hit(found)
        self._remember(key, marked)
        return marked

    def _recalled(self, key: bytes) -> Answer | None:
        found = None if self.folder is None else self.folder.read(key)
        if found is not None:
            self._remember(key, found)
        return found

    def _remember(self, key: bytes, answer: Answer) -> None:
        size = self._size(answer)
        if size > self.max_bytes:
            return
        with self._lock:
            before = self._answers.pop(key, None)
            self._n_bytes += size - (0 if before is None else self._size(before))
            self._answers[key] = answer
            while self._n_bytes > self.max_bytes:
                _, oldest = self._answers.popitem(last=False)
                self._n_bytes -= self._size(oldest)

    def _size(self, answer: Answer) -> int:
        return len(answer.body) + ENTRY_BYTES

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T] | None:
        """Start work in a thread; None where too much waits already."""
        if self._backlog >= MAX_BACKLOG:
            return None
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2, "answer-cache")
        self._backlog += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[T]) -> None:
        self._backlog -= 1
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log.error("the answer cache failed: %s", type(error).__name__)


def as_hit(answer: Answer) -> Answer:
    """Return an answer that says it comes from a cache."""
    headers = {**answer.headers, CACHE_HEADER: HIT}
    body = answer.body
    is_json = headers.get("Content-Type", "").startswith("application/json")
    if is_json and body[:1] == b"{" and not body.endswith(_CACHED):
        body = body[:-1] + _CACHED
        if DIGEST_HEADER in headers:
            headers[DIGEST_HEADER] = content_digest(body)
    return replace(answer, body=body, headers=headers)
