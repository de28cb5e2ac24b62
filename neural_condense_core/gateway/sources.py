"""Who condenses: a worker process of the gateway's own, a backend, or a validator's miners.

Design decisions

* One contract, so that the rest of the gateway does not know which it is.
* The own worker is the backend's engine without its HTTP front: one queue, one process, restarts.
* What comes from elsewhere must be for the model that answers and of its width; it is read within
  limits and refused otherwise.
* What a backend or a validator refuses is not the fault of whoever asked the gateway: it comes as
  502. That a service is busy or late is passed on as what it is.
* A validator is asked for its tiers first: what they take bounds the pieces that are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Protocol

from neural_condense_core.client.backend import AsyncBackendClient
from neural_condense_core.client.organic import AsyncOrganicClient
from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    ContextTooLongError,
    DeadlineError,
    NeuralCondenseError,
    RetryableError,
    UnavailableError,
)
from neural_condense_core.gateway.settings import GatewaySettings, split_source
from neural_condense_core.serving.devices import MAX_BATCH_TOKENS
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.jobs import WorkerSpec
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import SAFETENSORS, from_safetensors

log = logging.getLogger(__name__)

VALIDATOR_KEY = "CONDENSE_VALIDATOR_KEY"
MAX_BYTES = 256 * 1024 * 1024
WARM_UP_CHARS = (2_000,)
POLL_S = 2.0

_PASSED_ON = (BackendError, ContextTooLongError, DeadlineError, RetryableError)

OnMisconfigured = Callable[[NeuralCondenseError], None]


class Source(Protocol):
    """Condenses for one target model."""

    def start(self, target: str, on_misconfigured: OnMisconfigured) -> None:
        """Begin to load or to look; returns at once.

        Parameters
        ----------
        target : the model that reads
        on_misconfigured : called when this can never work
        """

    async def close(self) -> None:
        """End what was begun."""

    @property
    def is_ready(self) -> bool:
        """Whether contexts are taken."""

    @property
    def name(self) -> str:
        """The condenser, as it is known so far."""

    @property
    def ratios(self) -> tuple[float, ...] | None:
        """Offered compression ratios, ascending; None = any from 1 on."""

    @property
    def ratio(self) -> float:
        """Compression ratio of requests that name none."""

    @property
    def max_chars(self) -> int | None:
        """Most characters of one text; None = its tokens alone are bounded."""

    async def condense(self, text: str, ratio: float, timeout_s: float) -> CondensedTokens:
        """Condense a text; errors are of the one tree.

        Parameters
        ----------
        text : the context
        ratio : one of ``ratios``
        timeout_s : most seconds
        """


class LocalSource:
    """A condenser in a worker process of the gateway's own.

    Parameters
    ----------
    settings : which one, and on which device
    threads : CPU threads of it
    """

    max_chars: int | None = None

    def __init__(self, settings: GatewaySettings, threads: int) -> None:
        self._settings = settings
        self._threads = threads
        self._engine: Engine | None = None

    def start(self, target: str, on_misconfigured: OnMisconfigured) -> None:
        """Start the worker."""
        settings = self._settings
        spec = WorkerSpec(
            condenser=settings.condenser,
            checkpoint=None,
            target_model=target,
            ratio=settings.ratio,
            dtype=settings.dtype,
            device=settings.device,
            threads=self._threads,
            max_context_tokens=4 * settings.max_context_tokens,
            warm_up_chars=WARM_UP_CHARS,
        )
        kind = "cuda" if settings.device.startswith("cuda") else "cpu"
        self._engine = Engine(
            [spec],
            max_queued_tokens=64 * settings.max_context_tokens,
            max_batch_tokens=max(MAX_BATCH_TOKENS[kind], 4 * settings.max_context_tokens),
            timeout_s=settings.timeout_s,
            on_misconfigured=on_misconfigured,
        )
        self._engine.start()

    async def close(self) -> None:
        """End the worker."""
        if self._engine is not None:
            await self._engine.close()

    @property
    def is_ready(self) -> bool:
        """Whether the worker has loaded."""
        return self._engine is not None and self._engine.readiness().state == "ready"

    @property
    def name(self) -> str:
        """The condenser."""
        loaded = self._engine.loaded if self._engine else None
        return loaded.condenser if loaded else self._settings.condenser

    @property
    def ratios(self) -> tuple[float, ...] | None:
        """Offered compression ratios."""
        loaded = self._engine.loaded if self._engine else None
        if loaded is None or loaded.ratios is None:
            return None
        return tuple(float(each) for each in loaded.ratios)

    @property
    def ratio(self) -> float:
        """Compression ratio of requests that name none."""
        loaded = self._engine.loaded if self._engine else None
        return loaded.ratio if loaded else 4.0

    async def condense(self, text: str, ratio: float, timeout_s: float) -> CondensedTokens:
        """Condense a text in the worker.

        Raises
        ------
        UnavailableError
            The worker has not been started.
        """
        if self._engine is None:
            raise UnavailableError("the condenser is not started")
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        answer = await self._engine.condense(text, SAFETENSORS, deadline_s=deadline_s, ratio=ratio)
        return from_safetensors(answer.body, Limits(MAX_BYTES, 1 << 20))


class BackendSource:
    """A condensing backend.

    Parameters
    ----------
    url : where it is
    timeout_s : of a call
    """

    max_chars: int | None = None

    def __init__(self, url: str, timeout_s: float) -> None:
        self._client = AsyncBackendClient(url, timeout_s=timeout_s)
        self._name = "backend"
        self._ratios: tuple[float, ...] | None = None
        self._ratio = 4.0
        self._target = ""
        self._is_ready = False
        self._looking: asyncio.Task[None] | None = None

    def start(self, target: str, on_misconfigured: OnMisconfigured) -> None:
        """Begin to ask the backend what it serves."""
        self._target = target
        self._looking = asyncio.create_task(self._look(on_misconfigured))

    async def close(self) -> None:
        """Close the connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._client.close()

    @property
    def is_ready(self) -> bool:
        """Whether the backend has said what it serves."""
        return self._is_ready

    @property
    def name(self) -> str:
        """The condenser, once the backend has said it."""
        return self._name

    @property
    def ratios(self) -> tuple[float, ...] | None:
        """Offered compression ratios."""
        return self._ratios

    @property
    def ratio(self) -> float:
        """Compression ratio of requests that name none."""
        return self._ratio

    async def condense(self, text: str, ratio: float, timeout_s: float) -> CondensedTokens:
        """Condense a text by the backend.

        Raises
        ------
        UnavailableError
            The backend has not said yet what it serves.
        """
        if not self._is_ready:
            raise UnavailableError("the condensing backend is not ready; retry later")
        with _answers_of("the condensing backend", timeout_s):
            async with asyncio.timeout(timeout_s):
                return await self._client.condense(text, ratio=ratio, target_model=self._target)

    async def _look(self, on_misconfigured: OnMisconfigured) -> None:
        while True:
            try:
                info = await self._client.info()
            except NeuralCondenseError as error:
                log.info("waiting for the condensing backend: %s", error.code)
                await asyncio.sleep(POLL_S)
                continue
            if info.target_model != self._target:
                on_misconfigured(
                    ConfigError(
                        f"{self._client.url} condenses for {info.target_model!r} and the gateway "
                        f"answers with {self._target!r}; give both the same model"
                    )
                )
                return
            self._name = info.condenser
            self._ratios = tuple(map(float, info.ratios)) if info.ratios is not None else None
            self._ratio = info.default_ratio or self._ratio
            self._is_ready = True
            return


class ValidatorSource:
    """The best miners of a subnet, through a validator's API; they choose the ratio.

    Parameters
    ----------
    url : where the API is
    key : API key; None = none is sent
    tier : by name; None = the first
    timeout_s : of a call
    """

    ratios: tuple[float, ...] | None = (4.0,)
    ratio = 4.0

    def __init__(self, url: str, key: str | None, tier: str | None, timeout_s: float) -> None:
        self._client = AsyncOrganicClient(url, api_key=key, timeout_s=timeout_s)
        self._tier = tier
        self._target = ""
        self._looking: asyncio.Task[None] | None = None
        self.name = f"validator/{tier}" if tier else "validator"
        self.max_chars: int | None = None
        self.is_ready = False

    def start(self, target: str, on_misconfigured: OnMisconfigured) -> None:
        """Begin to ask the validator for its tiers."""
        self._target = target
        self._looking = asyncio.create_task(self._look(on_misconfigured))

    async def close(self) -> None:
        """Close the connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._client.close()

    async def condense(self, text: str, ratio: float, timeout_s: float) -> CondensedTokens:
        """Condense a text by a miner.

        Raises
        ------
        UnavailableError
            The validator has not said yet what it serves.
        """
        if not self.is_ready:
            raise UnavailableError("the validator is not ready; retry later")
        with _answers_of("the validator", timeout_s):
            async with asyncio.timeout(timeout_s):
                return await self._client.condense(text, tier=self._tier, target_model=self._target)

    async def _look(self, on_misconfigured: OnMisconfigured) -> None:
        while True:
            try:
                served = (await self._client.tiers()).tiers
            except NeuralCondenseError as error:
                log.info("waiting for the validator: %s", error.code)
                await asyncio.sleep(POLL_S)
                continue
            tier = next((each for each in served if self._tier in {None, each.name}), None)
            if tier is None or tier.target_model != self._target:
                found = ", ".join(f"{each.name} ({each.target_model})" for each in served)
                on_misconfigured(
                    ConfigError(
                        f"{self._client.url} serves the tiers {found or 'none'}; the gateway asks "
                        f"for {self._tier or 'the first'} and answers with {self._target!r}"
                    )
                )
                return
            self.name = f"validator/{tier.name}"
            self._tier = tier.name
            self.max_chars = tier.max_context_chars
            self.is_ready = True
            return


@contextlib.contextmanager
def _answers_of(who: str, timeout_s: float) -> Iterator[None]:
    """Say what a service at another place refused as what it is to the gateway's clients.

    Raises
    ------
    DeadlineError
        It took too long.
    BackendError
        It refused.
    NeuralCondenseError
        One of those that are passed on.
    """
    try:
        yield
    except TimeoutError:
        raise DeadlineError(f"{who} gave no answer within {timeout_s:g} s") from None
    except NeuralCondenseError as error:
        if isinstance(error, _PASSED_ON):
            raise
        log.warning("%s refused: %d %s", who, error.status, error.code)
        raise BackendError(f"{who} refused the text ({error.code})", {"reason": "refused"}) from (
            error
        )


def make_source(settings: GatewaySettings, threads: int) -> Source:
    """Return the source that the settings name."""
    kind, url = split_source(settings.condense_with)
    if kind == "backend":
        return BackendSource(url, settings.timeout_s)
    if kind == "validator":
        key = os.environ.get(VALIDATOR_KEY)
        return ValidatorSource(url, key, settings.tier, settings.timeout_s)
    return LocalSource(settings, threads)
