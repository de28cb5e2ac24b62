"""From a validator's request to the backend and back to bytes for the wire.

Where it sits: ``axon.py`` calls it once a request is known to be good; ``checks.py`` probes the
backend through it before the node starts.

Design decisions

* Any backend that speaks the specification will do: bare lists, ``compressed_tokens``,
  ``compressed_tokens_b64`` and ours pass the same checks and leave as safetensors.
* What the backend did wrong is the miner's fault and not the caller's: its refusals become 502,
  only overload, loading and lateness keep their status.
* Nothing that a backend says is passed on but a reason word and its status: its message may quote
  the context, or name hosts of the miner.
* float16 by default: half the bytes, and an error far below what the judge's own noise tests.
  Values that do not fit it go out as float32.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from neural_condense_core.client.backend import AsyncBackendClient
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import (
    BackendError,
    CodecError,
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    RetryableError,
    UnavailableError,
)
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import REASONS, limits_of
from neural_condense_core.wire.codec import to_safetensors

CHARS_PER_TOKEN = 4
MAX_RETRIES = 2

_KNOWN_REASONS = frozenset({*REASONS, "unreachable", "encoding"})


@dataclass(frozen=True)
class Forwarded:
    """What became of one context.

    Parameters
    ----------
    body : safetensors
    n_condensed_tokens : rows
    backend_s : seconds that the backend took
    """

    body: bytes
    n_condensed_tokens: int
    backend_s: float


class Forwarder:
    """Asks the backend; for one event loop.

    Parameters
    ----------
    url : where the backend is
    tier : its limits hold for the reply
    api_path : path of the backend's condensing route
    hidden_size : width that a reply must have; None = any
    dtype : numbers on the wire to the validator
    clock : monotonic seconds
    transport : replaces the network
    """

    def __init__(
        self,
        url: str,
        tier: TierConfig,
        *,
        api_path: str = "/condense",
        hidden_size: int | None = None,
        dtype: str = "float16",
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._tier = tier
        self._dtype = dtype
        self._clock = clock
        self.client = AsyncBackendClient(
            url,
            api_path=api_path,
            timeout_s=tier.timeout_s,
            max_retries=MAX_RETRIES,
            limits=limits_of(tier, hidden_size),
            estimate_tokens=estimate_tokens,
            clock=clock,
            transport=transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def condense(self, context: str, timeout_s: float) -> Forwarded:
        """Condense a context.

        What goes wrong comes as ``BackendError``, ``OverloadedError``, ``UnavailableError`` or
        ``DeadlineError``; none of them repeats what the backend said.

        Parameters
        ----------
        context : within the tier's limit
        timeout_s : seconds left
        """
        began = self._clock()
        tokens = await self._ask(context, timeout_s)
        taken_s = self._clock() - began
        # Off the loop: a large matrix takes milliseconds to narrow.
        body = await asyncio.to_thread(self._encode, tokens)
        return Forwarded(body, tokens.n_condensed_tokens, taken_s)

    async def _ask(self, context: str, timeout_s: float) -> CondensedTokens:
        try:
            async with asyncio.timeout(timeout_s):
                return await self.client.condense(
                    context,
                    target_model=self._tier.target_model,
                    max_condensed_tokens=self._tier.max_condensed_tokens,
                )
        except TimeoutError:
            raise DeadlineError("the backend did not answer in time") from None
        except NeuralCondenseError as error:
            raise neutral(error) from None

    def _encode(self, tokens: CondensedTokens) -> bytes:
        try:
            return to_safetensors(tokens, self._dtype)
        except CodecError:
            return to_safetensors(tokens, "float32")


def estimate_tokens(context: str) -> int:
    """Return about how many tokens a text has, for backends that do not say."""
    return max(1, len(context) // CHARS_PER_TOKEN)


def neutral(error: NeuralCondenseError) -> NeuralCondenseError:
    """Return an error for the caller that repeats nothing of what a backend said.

    Parameters
    ----------
    error : what the client of the backend raised
    """
    detail: dict[str, object] = {}
    reason = error.detail.get("reason")
    if isinstance(reason, str) and reason in _KNOWN_REASONS:
        detail["reason"] = reason
    if isinstance(error.detail.get("status"), int):
        detail["status"] = error.detail["status"]
    if isinstance(error, RetryableError):
        kind = OverloadedError if isinstance(error, OverloadedError) else UnavailableError
        return kind("the backend is busy; retry", detail, retry_after_s=error.retry_after_s)
    if isinstance(error, DeadlineError):
        return DeadlineError("the backend did not answer in time", detail)
    return BackendError("the backend gave no reply that can be used", detail)
