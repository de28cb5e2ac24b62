"""``FrontTokenizer``: counts a context's tokens before it waits, off the event loop.

Design decisions

* The tokenizer comes from a worker, as JSON, once it has loaded: the front has no model and needs
  none. Where a condenser gives no such JSON its worker tokenizes, and until then a context counts
  as its UTF-8 bytes, which no tokenizer with a byte fallback exceeds.
* Threads suffice: the library releases the interpreter's lock while it works. How many contexts
  may be at it is bounded. What is short is done at once: the way to a thread and back costs more.
* A probe text must come out as it did in the worker; ids that only look right would be condensed
  into nonsense.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from neural_condense_core.errors import OverloadedError
from neural_condense_core.serving.jobs import PROBE_TEXT, Loaded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

MAX_AT_ONCE = 64
THREADS = 2
INLINE_CHARS = 512
"""Up to this length a context is tokenized in the event loop, in about a tenth of a millisecond."""


@dataclass(frozen=True)
class Counted:
    """A context and its cost.

    Parameters
    ----------
    context : (n_context,) token ids, or the text where the worker tokenizes
    n_tokens : length; an upper bound for text
    """

    context: npt.NDArray[np.uint32] | str
    n_tokens: int


class FrontTokenizer:
    """Tokenizes in threads, or passes the text on."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenize")
        self._tokenizer: Tokenizer | None = None
        self._at_work = 0

    async def adopt(self, loaded: Loaded) -> None:
        """Take the tokenizer that a worker loaded, if it gives one that does as its own does."""
        if loaded.tokenizer_json is None or self._tokenizer is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            tokenizer = await loop.run_in_executor(self._threads, _build, loaded.tokenizer_json)
            probe = await loop.run_in_executor(self._threads, _encode, tokenizer, PROBE_TEXT)
        except Exception:  # noqa: BLE001 - the library raises nothing more precise
            log.warning("the condenser's tokenizer cannot be read; its worker tokenizes")
            return
        if probe.tolist() == list(loaded.probe_ids):
            self._tokenizer = tokenizer
        else:
            log.warning("the condenser tokenizes unlike its tokenizer_json; its worker tokenizes")

    def count_now(self, context: str) -> Counted | None:
        """Return a context as ``count`` does; None where that would hold up the event loop."""
        is_long = self._tokenizer is not None and len(context) > INLINE_CHARS
        return None if is_long else self._counted(context)

    async def count(self, context: str) -> Counted:
        """Return a context as what a worker takes, and its cost.

        Raises
        ------
        OverloadedError
            Too many contexts are being tokenized.
        """
        known = self.count_now(context)
        if known is not None:
            return known
        if self._at_work >= MAX_AT_ONCE:
            raise OverloadedError(
                f"{self._at_work} contexts are being tokenized; retry later",
                {"reason": "tokenizing", "limit": MAX_AT_ONCE},
            )
        self._at_work += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._counted, context)
        finally:
            self._at_work -= 1

    def _counted(self, context: str) -> Counted:
        if self._tokenizer is None:
            return Counted(context, max(1, len(context.encode("utf-8", errors="replace"))))
        ids = _encode(self._tokenizer, context)
        return Counted(ids, max(1, len(ids)))

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _build(tokenizer_json: str) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    # A tokenizer remembers how it was last called; here nothing is ever cut or padded.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _encode(tokenizer: Tokenizer, context: str) -> npt.NDArray[np.uint32]:
    return np.asarray(tokenizer.encode(context, add_special_tokens=False).ids, dtype=np.uint32)
