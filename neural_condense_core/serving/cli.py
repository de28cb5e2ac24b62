"""The backend's command line: ``condense serve`` and the launchers share it.

Design decisions

* Every flag is spelt with ``_``, as LitServe's are, and with ``-``.
* The flags alone are light; what serves is imported once they are right.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated

import typer

from neural_condense_core.command_options import Host, Port, spelt
from neural_condense_core.errors import ConfigError, NeuralCondenseError
from neural_condense_core.serving.devices import ACCELERATORS, MAX_BATCH_TOKENS
from neural_condense_core.serving.scale import ENGINES, RaySettings
from neural_condense_core.serving.settings import (
    DEFAULT_QUEUED_TOKENS,
    DEFAULT_RATIO,
    DTYPES,
    LOG_FORMATS,
    LOGGING_LEVELS,
    REPLIES,
    ServeSettings,
)

AUTO_DEVICES = "auto"
"""How a command line says that ``ServeSettings.devices`` is None."""


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def serve(
    condenser: Annotated[
        str, spelt("condenser", "checkpoint, method, checkpoint folder or module:Class")
    ],
    port: Port = ServeSettings.port,
    devices: Annotated[
        str, spelt("devices", f"how many devices, or {AUTO_DEVICES} = all GPUs")
    ] = AUTO_DEVICES,
    workers_per_device: Annotated[
        int, spelt("workers_per_device", "worker processes on each device")
    ] = ServeSettings.workers_per_device,
    host: Host = ServeSettings.host,
    target_model: Annotated[
        str | None, spelt("target_model", "model to condense for; default: the checkpoint's")
    ] = ServeSettings.target_model,
    checkpoint: Annotated[
        str | None, spelt("checkpoint", "trained weights in place of the condenser's own")
    ] = ServeSettings.checkpoint,
    ratio: Annotated[
        float | None,
        spelt("ratio", f"compression ratio of requests that name none; default {DEFAULT_RATIO:g}"),
    ] = ServeSettings.ratio,
    refine_steps: Annotated[
        int | None,
        spelt("refine_steps", "gradient steps that improve each text's condensed tokens"),
    ] = ServeSettings.refine_steps,
    refine_ms: Annotated[
        float | None,
        spelt("refine_ms", "milliseconds for such steps a text, instead of a number"),
    ] = ServeSettings.refine_ms,
    max_batch_tokens: Annotated[
        int | None,
        spelt(
            "max_batch_tokens",
            f"budget of a padded batch; default {MAX_BATCH_TOKENS['cpu']} on CPU, "
            f"{MAX_BATCH_TOKENS['cuda']} on GPU",
        ),
    ] = ServeSettings.max_batch_tokens,
    max_context_tokens: Annotated[
        int, spelt("max_context_tokens", "longest context; above it 413")
    ] = ServeSettings.max_context_tokens,
    max_queued_tokens: Annotated[
        int | None,
        spelt(
            "max_queued_tokens",
            f"most tokens that wait; above it 429; default {DEFAULT_QUEUED_TOKENS}",
        ),
    ] = ServeSettings.max_queued_tokens,
    timeout: Annotated[
        float, spelt("timeout", "seconds from a request's arrival to its answer; then 504")
    ] = ServeSettings.timeout_s,
    hang_timeout: Annotated[
        float | None,
        spelt(
            "hang_timeout",
            "seconds after which a silent worker is killed; default twice the timeout, at least 60",
        ),
    ] = ServeSettings.hang_timeout_s,
    cache_mb: Annotated[
        int, spelt("cache_mb", "megabytes of answers kept in memory; 0 = none")
    ] = ServeSettings.cache_mb,
    cache_dir: Annotated[
        str | None, spelt("cache_dir", "folder where answers are kept on disk too")
    ] = ServeSettings.cache_dir,
    api_path: Annotated[
        str, spelt("api_path", "path of the condensing endpoint")
    ] = ServeSettings.api_path,
    reply: Annotated[
        str, spelt("reply", f"JSON replies that name no shape: {_one_of(REPLIES)}")
    ] = ServeSettings.reply,
    dtype: Annotated[str, spelt("dtype", _one_of(DTYPES))] = ServeSettings.dtype,
    accelerator: Annotated[
        str, spelt("accelerator", _one_of(ACCELERATORS))
    ] = ServeSettings.accelerator,
    logging_level: Annotated[
        str, spelt("logging_level", _one_of(LOGGING_LEVELS))
    ] = ServeSettings.logging_level,
    log_format: Annotated[
        str, spelt("log_format", f"form of the log: {_one_of(LOG_FORMATS)}")
    ] = ServeSettings.log_format,
    engine: Annotated[str, spelt("engine", f"who runs the workers: {_one_of(ENGINES)}")] = ENGINES[
        0
    ],
    ray_address: Annotated[
        str | None,
        spelt("ray_address", "Ray: HOST:PORT of a cluster; default: one of our own, here"),
    ] = RaySettings.address,
    min_replicas: Annotated[
        int, spelt("min_replicas", "Ray: workers there are at least")
    ] = RaySettings.min_replicas,
    max_replicas: Annotated[
        int, spelt("max_replicas", "Ray: workers there are at most, under load")
    ] = RaySettings.max_replicas,
    replica_cpus: Annotated[int, spelt("replica_cpus", "Ray: CPUs of each")] = RaySettings.cpus,
) -> None:
    """Serve a condenser over HTTP; its GET /openapi.json describes the routes.

    Raises
    ------
    ConfigError
        There is no such engine.
    """
    settings = ServeSettings(
        condenser=condenser,
        checkpoint=checkpoint,
        target_model=target_model,
        ratio=ratio,
        host=host,
        port=port,
        devices=_devices(devices),
        workers_per_device=workers_per_device,
        accelerator=accelerator,
        dtype=dtype,
        refine_steps=refine_steps,
        refine_ms=refine_ms,
        max_batch_tokens=max_batch_tokens,
        max_context_tokens=max_context_tokens,
        max_queued_tokens=max_queued_tokens,
        timeout_s=timeout,
        hang_timeout_s=hang_timeout,
        cache_mb=cache_mb,
        cache_dir=cache_dir,
        api_path=api_path,
        reply=reply,
        logging_level=logging_level,
        log_format=log_format,
    )
    if engine not in ENGINES:
        raise ConfigError(f"--engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    cluster = RaySettings(ray_address, min_replicas, max_replicas, replica_cpus)
    if engine == "ray":
        from neural_condense_core.serving import ray

        ray.run(settings, cluster)
        return
    from neural_condense_core.serving.server import run

    run(settings)


def serve_app(default_condenser: str) -> None:
    """Run a launcher's command line, ``serve`` with the condenser given.

    Parameters
    ----------
    default_condenser : what is served; ``--checkpoint`` chooses other weights for it
    """

    @wraps(serve)
    def launch(**flags: object) -> None:
        serve(default_condenser, **flags)  # type: ignore[arg-type]

    # typer reads the flags off the signature: the same ones, less the condenser.
    signature = inspect.signature(serve, eval_str=True)
    flags = [value for name, value in signature.parameters.items() if name != "condenser"]
    launch.__signature__ = signature.replace(parameters=flags)  # type: ignore[attr-defined]
    launch.__doc__ = f"Serve the {default_condenser!r} condenser over HTTP."
    _run(launch)


def _run(command: Callable[..., None]) -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except NeuralCondenseError as error:
        typer.echo(f"error: {error.message}", err=True)
        sys.exit(error.exit_code)


def _devices(text: str) -> int | None:
    if text == AUTO_DEVICES:
        return None
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"--devices must be a number or {AUTO_DEVICES}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    _run(serve)
