"""``condense gateway``: the command line.

The flags alone are light; what serves is imported once they are right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neural_condense_core.command_options import Device, Dtype, Host, Port
from neural_condense_core.gateway.settings import LOGGING_LEVELS, MODES, GatewaySettings


def gateway(
    target: Annotated[
        str, typer.Option("--target", help="Model that answers: a name or a folder.")
    ] = GatewaySettings.target,
    engine: Annotated[
        str,
        typer.Option("--engine", help="hf, llama-cpp, vllm=URL, sglang=URL or module:function."),
    ] = GatewaySettings.engine,
    condense_with: Annotated[
        str, typer.Option("--condense_with", help="local, backend=URL or validator=URL.")
    ] = GatewaySettings.condense_with,
    condenser: Annotated[
        str, typer.Option("--condenser", help="That condenses where it is local.")
    ] = GatewaySettings.condenser,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="A further local condenser to offer; may be repeated."),
    ] = None,
    tier: Annotated[
        str | None, typer.Option("--tier", help="Of a validator; default: its first.")
    ] = GatewaySettings.tier,
    device: Device = GatewaySettings.device,
    dtype: Dtype = GatewaySettings.dtype,
    model_name: Annotated[
        str | None,
        typer.Option("--model_name", help="How clients call the model; default: --target."),
    ] = GatewaySettings.model_name,
    host: Host = GatewaySettings.host,
    port: Port = GatewaySettings.port,
    mode: Annotated[
        str, typer.Option("--mode", help=f"What is condensed: {', '.join(MODES)}.")
    ] = GatewaySettings.mode,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", help="Compression ratio; default: the condenser's own."),
    ] = GatewaySettings.ratio,
    max_ratio: Annotated[
        float, typer.Option("--max_ratio", help="Never above it.")
    ] = GatewaySettings.max_ratio,
    threshold: Annotated[
        int, typer.Option("--threshold", help="Shorter parts stay text, tokens.")
    ] = GatewaySettings.threshold,
    keep_tokens: Annotated[
        int, typer.Option("--keep_tokens", help="So many of the newest stay text (auto).")
    ] = GatewaySettings.keep_tokens,
    budget: Annotated[
        int | None,
        typer.Option("--budget", help="Most rows of a prompt (auto); default: the window's."),
    ] = GatewaySettings.budget,
    floor: Annotated[
        float, typer.Option("--floor", help="Least estimated content recovery; 0 = none.")
    ] = GatewaySettings.floor,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds from a request to the end of its answer.")
    ] = GatewaySettings.timeout_s,
    max_new_tokens: Annotated[
        int, typer.Option("--max_new_tokens", help="Longest answer where none is named.")
    ] = GatewaySettings.max_new_tokens,
    max_context_tokens: Annotated[
        int, typer.Option("--max_context_tokens", help="Longest text in one piece.")
    ] = GatewaySettings.max_context_tokens,
    max_waiting: Annotated[
        int, typer.Option("--max_waiting", help="Requests that may wait; above it 429.")
    ] = GatewaySettings.max_waiting,
    prefix_rows: Annotated[
        int | None,
        typer.Option(
            "--prefix_rows",
            help="Rows of prompts' beginnings to keep read (hf, llama-cpp); default: a window's, "
            "at most 8192; 0 = none.",
        ),
    ] = GatewaySettings.prefix_rows,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="File of API keys; see condense keys --file.")
    ] = GatewaySettings.keys,
    requests_per_minute: Annotated[
        int, typer.Option("--requests_per_minute", help="Of one user.")
    ] = GatewaySettings.requests_per_minute,
    store_mb: Annotated[
        int, typer.Option("--store_mb", help="Memory for condensed contexts, MB.")
    ] = GatewaySettings.store_mb,
    store_dir: Annotated[
        Path | None, typer.Option("--store_dir", help="Folder in which they outlive a restart.")
    ] = GatewaySettings.store_dir,
    store_dir_mb: Annotated[
        int, typer.Option("--store_dir_mb", help="Of that folder, MB.")
    ] = GatewaySettings.store_dir_mb,
    quota_mb: Annotated[
        int, typer.Option("--quota_mb", help="Contexts of one user, MB.")
    ] = GatewaySettings.quota_mb,
    ttl: Annotated[
        float, typer.Option("--ttl", help="Seconds that an unused context is kept.")
    ] = GatewaySettings.ttl_s,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="JSON file of the recovery estimate.")
    ] = GatewaySettings.calibration,
    logging_level: Annotated[
        str, typer.Option("--logging_level", help=f"One of {', '.join(LOGGING_LEVELS)}.")
    ] = GatewaySettings.logging_level,
) -> None:
    """Serve OpenAI's API in front of a model that reads long texts condensed."""
    settings = GatewaySettings(
        target=target,
        engine=engine,
        condense_with=condense_with,
        condenser=condenser,
        also=tuple(also or ()),
        tier=tier,
        device=device,
        dtype=dtype,
        model_name=model_name,
        host=host,
        port=port,
        mode=mode,
        ratio=ratio,
        max_ratio=max_ratio,
        threshold=threshold,
        keep_tokens=keep_tokens,
        budget=budget,
        floor=floor,
        timeout_s=timeout,
        max_new_tokens=max_new_tokens,
        max_context_tokens=max_context_tokens,
        max_waiting=max_waiting,
        prefix_rows=prefix_rows,
        keys=keys,
        requests_per_minute=requests_per_minute,
        store_mb=store_mb,
        store_dir=store_dir,
        store_dir_mb=store_dir_mb,
        quota_mb=quota_mb,
        ttl_s=ttl,
        calibration=calibration,
        logging_level=logging_level,
    )
    from neural_condense_core.gateway.server import run

    run(settings)
