"""``Timings``: where one request's time went, for its reply's headers, the log and the metrics."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Literal

REQUEST_ID_HEADER = "X-Request-Id"
_STARTED = secrets.token_hex(4)
"""Of this process, so that ids of several backends differ."""
_numbers = itertools.count(1)
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


@dataclass(eq=False)
class Timings:
    """Filled by whoever has the request in hand.

    Parameters
    ----------
    tokenization_s, queue_s, inference_s : seconds in the tokenizer, in the queue, and of the batch
        with a worker, the way there and back included
    n_tokens : length of the context, tokens
    cache : whether the answer was a cache's; None = there is no cache, or it was not asked
    start_s : when the request came, on the performance counter
    """

    tokenization_s: float = 0.0
    queue_s: float = 0.0
    inference_s: float = 0.0
    n_tokens: int = 0
    cache: Literal["hit", "miss"] | None = None
    start_s: float = field(default_factory=time.perf_counter)

    @property
    def total_s(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.start_s

    def headers(self, total_s: float) -> dict[str, str]:
        """Return the reply's headers: milliseconds, and the tokens that were computed."""
        return {
            "X-Total-Time": f"{total_s * 1000:.3f}",
            "X-Tokenization-Time": f"{self.tokenization_s * 1000:.3f}",
            "X-Queue-Time": f"{self.queue_s * 1000:.3f}",
            "X-Inference-Time": f"{self.inference_s * 1000:.3f}",
            "X-Compute-Tokens": "0" if self.cache == "hit" else str(self.n_tokens),
        }


def request_id(offered: str | None) -> str:
    """Return the request id that a client offers, if it can be logged as it is; else a new one."""
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered
    return f"{_STARTED}-{next(_numbers):x}"
