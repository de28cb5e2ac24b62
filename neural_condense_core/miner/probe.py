"""Ask a backend, before a miner starts, what a validator would ask of it.

Where it sits: one of the checks of ``checks.py``.

Design decisions

* The probe is a context of the tier's full length: what comes back has been through the very code
  that serves validators, so a backend of anybody's is judged by what it does.
* What a backend of ours says about itself is read first, as it gives the better advice.
* A backend that is still loading is waited for; one that does not answer is not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from neural_condense_core.client.async_client import UNREACHABLE
from neural_condense_core.client.backend import AsyncBackendClient
from neural_condense_core.client.exchange import DEFAULT_LIMITS
from neural_condense_core.config import MinerSettings
from neural_condense_core.constants import EMBEDDED_TARGET_MODEL, HIDDEN_SIZES, TierConfig
from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    DeadlineError,
    NeuralCondenseError,
    RequestError,
    RetryableError,
    UnknownModelError,
)
from neural_condense_core.miner.forwarding import estimate_tokens
from neural_condense_core.wire.arrays import limits_of
from neural_condense_core.wire.messages import Info, NotReady, Ready

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 60.0
_SENTENCE = "The harbour master wrote down every ship, its cargo and the hour at which it left. "


@dataclass(frozen=True)
class Fit:
    """A backend that fits.

    Parameters
    ----------
    hidden_size : width of its rows
    seconds : it took for a context of the tier's full length
    """

    hidden_size: int
    seconds: float


async def probe_backend(
    settings: MinerSettings,
    tier: TierConfig | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Fit | None:
    """Find out whether the backend answers and fits the tier.

    What does not fit is a ``ConfigError`` that says which line would.

    Parameters
    ----------
    settings : where the backend is
    tier : what it must fit; None = not known, then only whether it answers is asked
    clock : monotonic seconds
    transport : replaces the network

    Returns
    -------
    what was found; None without a tier
    """
    limits = DEFAULT_LIMITS if tier is None else limits_of(tier, None)
    async with AsyncBackendClient(
        settings.backend_url,
        api_path=settings.api_path,
        timeout_s=PROBE_TIMEOUT_S,
        estimate_tokens=estimate_tokens,
        clock=clock,
        transport=transport,
        limits=limits,
    ) as client:
        info = await _introduce(client, settings, tier)
        if tier is None:
            return None
        if info is not None:
            _check_info(info, settings, tier)
        return await _try(client, settings, tier, clock)


async def _introduce(
    client: AsyncBackendClient, settings: MinerSettings, tier: TierConfig | None
) -> Info | None:
    try:
        await client.ready()
    except (BackendError, DeadlineError) as error:
        if isinstance(error, DeadlineError) or error.detail.get("reason") == UNREACHABLE:
            raise ConfigError(
                f"nothing answers at {settings.backend_url}; start a backend there: "
                f"{backend_line(settings.backend_port, tier)}"
            ) from None
        return None
    except NeuralCondenseError:
        return None  # another's backend: it has no such route
    try:
        await client.wait_ready(settings.backend_wait_s, _Progress())
    except (DeadlineError, BackendError) as error:
        raise ConfigError(f"the backend is not ready: {error.message}") from None
    try:
        return await client.info()
    except NeuralCondenseError:
        return None


def _check_info(info: Info, settings: MinerSettings, tier: TierConfig) -> None:
    if info.target_model != tier.target_model:
        raise _wrong_model(settings, tier, f"it condenses for {info.target_model}")
    if info.hidden_size is not None:
        _check_width(info.hidden_size, settings, tier)
    if info.api_path != settings.api_path:
        raise ConfigError(
            f"the backend condenses at {info.api_path}, not at {settings.api_path}; give "
            f"--miner.api_path {info.api_path}"
        )


async def _try(
    client: AsyncBackendClient,
    settings: MinerSettings,
    tier: TierConfig,
    clock: Callable[[], float],
) -> Fit:
    n_chars = tier.max_context_chars
    context = (_SENTENCE * (n_chars // len(_SENTENCE) + 1))[:n_chars]
    began = clock()
    try:
        tokens = await client.condense(
            context,
            target_model=tier.target_model,
            max_condensed_tokens=tier.max_condensed_tokens,
        )
    except UnknownModelError as error:
        raise _wrong_model(settings, tier, error.message) from None
    except BackendError as error:
        if error.detail.get("reason") == "target_model":
            raise _wrong_model(settings, tier, "its reply names another model") from None
        raise ConfigError(f"the backend does not fit tier {tier.name}: {error.message}") from None
    except (RequestError, DeadlineError, RetryableError) as error:
        raise ConfigError(
            f"the backend does not condense a context of tier {tier.name} "
            f"({n_chars:,} characters): {error.message}"
        ) from None
    _check_width(tokens.hidden_size, settings, tier)
    return Fit(tokens.hidden_size, clock() - began)


def _check_width(hidden_size: int, settings: MinerSettings, tier: TierConfig) -> None:
    known = HIDDEN_SIZES.get(tier.target_model)
    if known not in {None, hidden_size}:
        said = f"its rows are {hidden_size} wide, those of {tier.target_model} are {known}"
        raise _wrong_model(settings, tier, said)


def _wrong_model(settings: MinerSettings, tier: TierConfig, said: str) -> ConfigError:
    return ConfigError(
        f"the backend at {settings.backend_url} is none for tier {tier.name}, which wants "
        f"{tier.target_model}: {said}; this line serves it: "
        f"{backend_line(settings.backend_port, tier)}"
    )


def backend_line(port: int, tier: TierConfig | None) -> str:
    """Return the command that starts a backend for a tier.

    Parameters
    ----------
    port : where the miner looks for it
    tier : its target model is served; None = any
    """
    line = (
        "python services/miner_backend/serving/icae_app.py "
        f"--port {port} --devices 1 --workers_per_device 1"
    )
    if tier is None or tier.target_model == EMBEDDED_TARGET_MODEL:
        return line
    return f"{line} --target_model {tier.target_model} --checkpoint ICAE_TRAINED_FOR_IT"


class _Progress:
    """Logs what a loading backend does, once a stage."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, health: NotReady | Ready | None) -> None:
        if isinstance(health, NotReady) and health.stage != self._stage:
            self._stage = health.stage
            log.info("waiting for the backend: %s", health.state)
