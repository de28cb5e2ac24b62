"""The gateway's process: bind, start the model and the condenser, serve, drain, exit.

Design decisions

* The port is bound first and liveness answers at once; requests get 503 until the model is there.
* SIGTERM and Ctrl-C end it once what is in hand is answered, or after ``GRACE_S``.
* What only the configuration can mend ends the process with exit 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

from fastapi import FastAPI

from neural_condense_core.api_keys import FILE_NAME, ApiUsers
from neural_condense_core.config import default_state_dir
from neural_condense_core.errors import ConfigError, NeuralCondenseError
from neural_condense_core.gateway.app import create_app
from neural_condense_core.gateway.contexts import Contexts
from neural_condense_core.gateway.door import Door
from neural_condense_core.gateway.engines import parallel
from neural_condense_core.gateway.estimating import load_calibration
from neural_condense_core.gateway.metrics import Metrics
from neural_condense_core.gateway.parts import Parts
from neural_condense_core.gateway.preparing import Preparer
from neural_condense_core.gateway.reader_messages import ReaderSpec
from neural_condense_core.gateway.reading import SILENCE_S, Reading
from neural_condense_core.gateway.settings import LOCAL, GatewaySettings
from neural_condense_core.gateway.sources import OnMisconfigured, Source, make_source
from neural_condense_core.gateway.store import Bounds, ContextStore
from neural_condense_core.wire.listening import Server, bind, make_server

log = logging.getLogger(__name__)

GRACE_S = 30
HANG_FACTOR = 2.0
"""A reader that is silent for so many time limits has outlived everyone who waited for it."""
MAX_CONNECTIONS = 1_024
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Gateway:
    """One gateway process.

    Parameters
    ----------
    settings : the flags
    listener : a bound socket
    """

    def __init__(self, settings: GatewaySettings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.misconfigured: NeuralCondenseError | None = None
        self._server: Server | None = None

    async def serve(self) -> None:
        """Serve until a signal, or a configuration that cannot work, ends it."""
        users = open_users(self.settings)
        parts = assemble(self.settings, users, self._stop_misconfigured)

        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            parts.reading.start()
            sources = [parts.source, *(each.source for each in parts.others)]
            for source in sources:
                source.start(self.settings.target, self._stop_misconfigured)
            try:
                yield
            finally:
                await asyncio.gather(parts.reading.close(), *(source.close() for source in sources))

        app = create_app(parts, lifespan)
        self._server = make_server(app, grace_s=GRACE_S, max_connections=MAX_CONNECTIONS)
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        self._announce(users)  # whoever reads it may end the process at once
        try:
            await self._server.serve(sockets=[self.listener])
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
            if users is not None:
                users.close()

    def _on_signal(self) -> None:
        if self._server is not None:
            # A second signal does not wait.
            self._server.force_exit = self._server.should_exit
            self._server.should_exit = True

    def _stop_misconfigured(self, error: NeuralCondenseError) -> None:
        self.misconfigured = error
        if self._server is not None:
            self._server.should_exit = True

    def _announce(self, users: ApiUsers | None) -> None:
        host, port = self.listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.info(
            "gateway at http://%s:%d/v1: %s by %s, condensed with %s; %s",
            shown,
            port,
            self.settings.name,
            self.settings.engine.partition("=")[0],
            self.settings.condense_with.partition("=")[0],
            "no key is asked for" if users is None else f"keys: {users.path}",
        )


def open_users(settings: GatewaySettings) -> ApiUsers | None:
    """Return who may ask; None = anybody, on loopback without a file of keys."""
    if settings.keys is not None:
        return ApiUsers(settings.keys)
    if settings.is_loopback:
        return None
    return ApiUsers(default_state_dir() / "gateway" / FILE_NAME)


def assemble(
    settings: GatewaySettings,
    users: ApiUsers | None,
    on_failed: OnMisconfigured,
    source: Source | None = None,
) -> Parts:
    """Put the parts together; nothing is started.

    Parameters
    ----------
    settings : the flags
    users : who may ask; None = anybody
    on_failed : called when the model cannot be loaded
    source : who condenses; None = as the settings say
    """
    is_local = settings.condense_with == LOCAL
    threads = max(1, (os.cpu_count() or 1) // (2 if is_local else 1))
    spec = ReaderSpec(
        engine=settings.engine,
        target=settings.target,
        device=settings.device,
        dtype=settings.dtype,
        threads=threads,
        max_parallel=parallel(settings.engine),
        timeout_s=settings.timeout_s,
        prefix_rows=settings.prefix_rows,
    )
    # A prompt that fills the window may be read for minutes without a word: slow is not hung.
    silence_s = max(SILENCE_S, HANG_FACTOR * settings.timeout_s)
    reading = Reading(
        spec, max_waiting=settings.max_waiting, silence_s=silence_s, on_failed=on_failed
    )
    bounds = Bounds(settings.store_bytes, settings.disk_bytes, settings.quota_bytes, settings.ttl_s)
    store = ContextStore(bounds, settings.store_dir)
    source = source or make_source(settings, threads)
    calibration = load_calibration(settings.calibration)

    def contexts_of(source: Source) -> Contexts:
        return Contexts(store, source, reading, calibration, timeout_s=settings.timeout_s)

    contexts = contexts_of(source)
    others = [replace(settings, condenser=name, ratio=None, also=()) for name in settings.also]
    return Parts(
        settings=settings,
        reading=reading,
        source=source,
        contexts=contexts,
        preparer=Preparer(reading, contexts, settings),
        door=Door(users, settings.requests_per_minute),
        metrics=Metrics(store),
        others=tuple(contexts_of(make_source(each, threads)) for each in others),
    )


def run(settings: GatewaySettings) -> None:
    """Serve until stopped.

    Raises
    ------
    ConfigError
        The port is taken, or model and condenser cannot be loaded as configured.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("neural_condense_core").setLevel(settings.logging_level.upper())
    with bind(settings.host, settings.port) as listener:
        gateway = Gateway(settings, listener)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(gateway.serve())
    if gateway.misconfigured is not None:
        raise ConfigError(gateway.misconfigured.message, gateway.misconfigured.detail)
