"""The scoring service's process and command line.

Design decisions

* The port is bound before anything else: a taken one is an error at once, and liveness answers long
  before the model is loaded.
* SIGTERM and Ctrl-C drain: what is being scored is answered, the model's process ends, exit 0. A
  second signal does not wait.
* A model that cannot be loaded ends the process with its error's exit code: what is misspelt will
  not mend itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from neural_condense_core.command_options import spelt
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.scoring.app import create_app
from neural_condense_core.scoring.host import ModelHost
from neural_condense_core.scoring.service import ServiceConfig
from neural_condense_core.scoring.settings import (
    ALL,
    AUTO,
    NONE,
    TOKEN_VARIABLE,
    ScoringSettings,
    read_token,
)
from neural_condense_core.scoring.worker import WorkerSpec
from neural_condense_core.wire.listening import bind, make_server

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def worker_spec(settings: ScoringSettings) -> WorkerSpec:
    """Return what the model's process loads."""
    return WorkerSpec(
        target_model=settings.target_model,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads or _count_cores(),
        baselines=settings.baseline_names,
        config=ServiceConfig(settings.max_condensed_tokens, settings.perturbation_names),
        limits=settings.limits,
    )


async def serve(settings: ScoringSettings, listener: socket.socket) -> None:
    """Serve until a signal ends it; a model that cannot be loaded is raised as its error.

    Parameters
    ----------
    settings : the flags
    listener : a bound socket
    """
    host = ModelHost(
        worker_spec(settings), max_waiting=settings.max_waiting, timeout_s=settings.timeout_s
    )
    server = make_server(create_app(host, settings))
    stopping: list[asyncio.Task[None]] = []

    async def stop(patience_s: float) -> None:
        log.info("stopping: what is being scored has %.0f s", patience_s)
        await host.close(patience_s)
        server.should_exit = True

    def on_signal() -> None:
        # Kept: the event loop holds its tasks weakly.
        stopping.append(asyncio.create_task(stop(0.0 if stopping else DRAIN_TIMEOUT_S)))

    async def watch() -> None:
        await host.failed.wait()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    watching = asyncio.create_task(watch())
    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal)
    _announce(settings, listener)
    try:
        await server.serve(sockets=[listener])
        await host.close(0.0)
    finally:
        watching.cancel()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    if host.failure is not None:
        raise host.failure


def run(settings: ScoringSettings) -> None:
    """Serve until stopped."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("neural_condense_core").setLevel(settings.logging_level.upper())
    with bind(settings.host, settings.port) as listener:
        asyncio.run(serve(settings, listener))


def _announce(settings: ScoringSettings, listener: socket.socket) -> None:
    address = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    log.info(
        "scoring for %s at http://%s:%d/: on %s, token %s, baselines %s; loading",
        settings.target_model,
        host,
        address[1],
        settings.device,
        "none" if settings.token is None else "asked for",
        ", ".join(settings.baseline_names) or "none",
    )


def _count_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) else cores


def score(
    port: Annotated[
        int, spelt("port", "port to listen on; 0 = any free one")
    ] = ScoringSettings.port,
    host: Annotated[
        str, spelt("host", "address to listen on; others than loopback need a token")
    ] = ScoringSettings.host,
    target_model: Annotated[
        str, spelt("target_model", "model that reads: name, folder or Hugging Face name")
    ] = ScoringSettings.target_model,
    device: Annotated[str, spelt("device", "cpu, cuda or cuda:1")] = ScoringSettings.device,
    dtype: Annotated[str, spelt("dtype", "auto, float32 or bfloat16")] = ScoringSettings.dtype,
    threads: Annotated[
        int | None, spelt("threads", "CPU threads of the model; default: all it may use")
    ] = ScoringSettings.threads,
    max_condensed_tokens: Annotated[
        int, spelt("max_condensed_tokens", "most condensed tokens of a reply")
    ] = ScoringSettings.max_condensed_tokens,
    max_body_bytes: Annotated[
        int, spelt("max_body_bytes", "largest round, bytes; above it 413")
    ] = ScoringSettings.max_body_bytes,
    max_replies: Annotated[
        int, spelt("max_replies", "most replies of a round")
    ] = ScoringSettings.max_replies,
    max_challenges: Annotated[
        int, spelt("max_challenges", "most contexts of a round")
    ] = ScoringSettings.max_challenges,
    max_waiting: Annotated[
        int, spelt("max_waiting", "rounds that may wait; above it 429")
    ] = ScoringSettings.max_waiting,
    timeout: Annotated[
        float, spelt("timeout", "seconds from a round's arrival to its answer; then 504")
    ] = ScoringSettings.timeout_s,
    baselines: Annotated[
        str,
        spelt("baselines", f"shown beside each miner: {AUTO}, {ALL}, {NONE} or names, commas"),
    ] = ScoringSettings.baselines,
    perturbations: Annotated[
        str, spelt("perturbations", "disturbances that contexts get in turn, with commas")
    ] = ScoringSettings.perturbations,
    token_file: Annotated[
        Path | None, spelt("token_file", f"file with the token; or {TOKEN_VARIABLE}")
    ] = None,
    logging_level: Annotated[
        str, spelt("logging_level", "debug, info, warning or error")
    ] = ScoringSettings.logging_level,
) -> None:
    """Serve the scoring service, which validators have their miners' replies judged by."""
    settings = ScoringSettings(
        target_model=target_model,
        host=host,
        port=port,
        device=device,
        dtype=dtype,
        threads=threads,
        max_condensed_tokens=max_condensed_tokens,
        max_body_bytes=max_body_bytes,
        max_replies=max_replies,
        max_challenges=max_challenges,
        max_waiting=max_waiting,
        timeout_s=timeout,
        baselines=baselines,
        perturbations=perturbations,
        token=read_token(token_file, os.environ),
        logging_level=logging_level,
    )
    run(settings)


def score_app() -> None:
    """Run the launcher's command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(score)
    try:
        app()
    except NeuralCondenseError as error:
        typer.echo(f"error: {error.message}", err=True)
        sys.exit(error.exit_code)
