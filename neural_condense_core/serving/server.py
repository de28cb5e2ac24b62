"""The backend's process: bind, serve, drain, exit.

Design decisions

* The port is bound before anything else: a taken port is an error at once, and liveness answers
  within two seconds, long before a model is loaded.
* SIGTERM and Ctrl-C drain: readiness turns 503, what was accepted is answered, the workers end,
  exit 0. A second signal does not wait.
* What only the configuration can mend ends the process with exit 2; what may mend itself does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import uvloop

from neural_condense_core.constants import TIERS, TierConfig
from neural_condense_core.errors import ConfigError
from neural_condense_core.serving.admission import MAX_BRIEF_TOKENS
from neural_condense_core.serving.app import create_app
from neural_condense_core.serving.cache import AnswerCache
from neural_condense_core.serving.devices import (
    MAX_BATCH_TOKENS,
    Placement,
    count_cores,
    count_gpus,
    place,
)
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.hands import MakeHand
from neural_condense_core.serving.jobs import Loaded, WorkerSpec
from neural_condense_core.serving.logs import configure_logging
from neural_condense_core.serving.metrics import Metrics
from neural_condense_core.serving.replica import Replica
from neural_condense_core.serving.settings import ServeSettings
from neural_condense_core.wire.listening import bind, make_server

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Backend:
    """One backend process.

    Parameters
    ----------
    settings : the flags
    listener : a bound socket
    """

    def __init__(self, settings: ServeSettings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.placement = self.make_placement()
        self.metrics = Metrics()
        self.misconfigured: ConfigError | None = None
        self._stopping: list[asyncio.Task[None]] = []
        self._start_s = time.monotonic()

    async def serve(self) -> None:
        """Serve until a signal, or a configuration that cannot work, ends it."""
        self.engine = self.make_engine()
        self.server = make_server(
            create_app(self.engine, self.settings, self.metrics), behind_proxy=False
        )
        self._announce_start()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        try:
            await self.server.serve(sockets=[self.listener])
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def make_engine(self) -> Engine:
        """Return the engine behind the routes, with workers on this machine."""
        return Engine(
            worker_specs(self.settings, self.placement),
            max_queued_tokens=self.settings.queued_tokens,
            max_batch_tokens=self.settings.max_batch_tokens
            or MAX_BATCH_TOKENS[self.placement.accelerator],
            max_brief_tokens=0 if self.settings.max_batch_tokens else MAX_BRIEF_TOKENS,
            timeout_s=self.settings.timeout_s,
            hang_timeout_s=self.settings.hang_timeout_s,
            cache=self.make_cache(),
            metrics=self.metrics,
            on_loaded=self._announce_ready,
            on_misconfigured=self._stop_misconfigured,
            make_hand=self.make_hands(),
        )

    def make_placement(self) -> Placement:
        """Return where the workers run."""
        return _placement(self.settings)

    def make_hands(self) -> MakeHand:
        """Return what makes the workers: processes on this machine."""
        return Replica

    def make_cache(self) -> AnswerCache | None:
        """Return the cache of answers that the settings ask for."""
        folder = self.settings.cache_dir
        if not self.settings.cache_mb and folder is None:
            return None
        return AnswerCache(self.settings.cache_mb << 20, None if folder is None else Path(folder))

    def _on_signal(self) -> None:
        patience_s = 0.0 if self._stopping else DRAIN_TIMEOUT_S
        # Kept: the event loop holds its tasks weakly.
        self._stopping.append(asyncio.create_task(self._stop(patience_s)))

    async def _stop(self, patience_s: float) -> None:
        log.info("stopping: no new requests; those in hand have %.0f s", patience_s)
        if not await self.engine.drain(patience_s):
            log.warning("not all requests could be answered in time; they are told to retry")
        await self.engine.close()
        self.server.should_exit = True

    def _stop_misconfigured(self, error: ConfigError) -> None:
        self.misconfigured = error
        self.server.should_exit = True

    def _announce_start(self) -> None:
        address = self.listener.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        log.info(
            "%s at http://%s:%d%s: %d worker%s on %s, CPU threads each: %d; loading",
            self.settings.checkpoint or self.settings.condenser,
            host,
            address[1],
            self.settings.api_path,
            len(self.placement.devices),
            "" if len(self.placement.devices) == 1 else "s",
            ", ".join(dict.fromkeys(self.placement.devices)),
            self.placement.threads,
        )
        if self.placement.accelerator == "cpu":
            log.info("%s", cpu_notice(TIERS))

    def _announce_ready(self, loaded: Loaded) -> None:
        log.info("ready after %.1f s", time.monotonic() - self._start_s)
        for line in tier_lines(loaded.warm_up_ms, TIERS):
            log.info("%s", line)


def run(settings: ServeSettings) -> None:
    """Serve with workers on this machine until stopped."""
    serve_until_stopped(settings, lambda listener: Backend(settings, listener))


def serve_until_stopped(
    settings: ServeSettings, make_backend: Callable[[socket.socket], Backend]
) -> None:
    """Serve until stopped.

    Parameters
    ----------
    settings : the flags
    make_backend : given the bound socket

    Raises
    ------
    ConfigError
        The port is taken, devices are missing, or the condenser cannot be loaded as configured.
    """
    configure_logging(settings.logging_level, settings.log_format)
    with bind(settings.host, settings.port) as listener:
        backend = make_backend(listener)
        with (
            contextlib.suppress(KeyboardInterrupt),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(backend.serve())
    if backend.misconfigured is not None:
        raise ConfigError(backend.misconfigured.message, backend.misconfigured.detail)


def worker_specs(settings: ServeSettings, placement: Placement) -> list[WorkerSpec]:
    """Return what each worker loads."""
    lengths = tuple(sorted({tier.max_context_chars for tier in TIERS.values()}))
    return [
        WorkerSpec(
            condenser=settings.refined,
            checkpoint=settings.checkpoint,
            target_model=settings.target_model,
            ratio=settings.ratio,
            dtype=settings.dtype,
            device=device,
            threads=placement.threads,
            max_context_tokens=settings.max_context_tokens,
            warm_up_chars=lengths,
        )
        for device in placement.devices
    ]


def cpu_notice(tiers: Mapping[str, TierConfig]) -> str:
    """Say that it runs on the CPU and how fast the tiers want it."""
    asked = ", ".join(f"{name} {tier.timeout_s:g} s" for name, tier in tiers.items())
    return f"running on the CPU; the tiers ask for an answer within: {asked} (measured at warm-up)"


def tier_lines(warm_up_ms: Mapping[int, float], tiers: Mapping[str, TierConfig]) -> list[str]:
    """Say for each tier whether one worker answers its longest context in time.

    Parameters
    ----------
    warm_up_ms : characters -> milliseconds for one context
    tiers : the tiers by name
    """
    lines = []
    for name, tier in tiers.items():
        size = f"tier {name}: {tier.max_context_chars:,} characters"
        taken_ms = warm_up_ms.get(tier.max_context_chars)
        if taken_ms is None:
            lines.append(f"{size} exceed --max_context_tokens: not met")
            continue
        verdict = "met" if taken_ms < tier.timeout_s * 1000 else "NOT MET"
        lines.append(
            f"{size} take {taken_ms:,.0f} ms of {tier.timeout_s * 1000:,.0f} ms: {verdict}"
        )
    return lines


def _placement(settings: ServeSettings) -> Placement:
    return place(
        settings.accelerator,
        settings.devices,
        settings.workers_per_device,
        n_gpus=0 if settings.accelerator == "cpu" else count_gpus(),
        n_cores=count_cores(),
    )
