"""``condense text``: one text in, one safetensors file out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from neural_condense_core.command_options import Device, RefineMs, RefineSteps
from neural_condense_core.console import (
    STANDARD_STREAM,
    check_writable,
    messages,
    read_text,
    write_bytes,
    write_json,
)
from neural_condense_core.errors import ConfigError

if TYPE_CHECKING:
    from neural_condense_core.condensers.base import Condenser
    from neural_condense_core.tokens import CondensedTokens


def condense_timed(
    condenser: Condenser, ids: Sequence[int], ratio: float, queries: Sequence[str] | None = None
) -> tuple[CondensedTokens, float]:
    """Condense one context and take the time.

    Parameters
    ----------
    condenser : loaded
    ids : (n_context,) token ids
    ratio : one that the condenser offers; a RequestError says so where it is not
    queries : one question, for query-aware methods

    Returns
    -------
    the condensed tokens, and milliseconds
    """
    offered = condenser.fit_ratio(len(ids), ratio, None)
    started = time.perf_counter()
    tokens = condenser.condense([ids], offered, queries=queries)[0]
    return tokens, (time.perf_counter() - started) * 1e3


def text(
    source: Annotated[str, typer.Argument(metavar="FILE|-", help="The text; - is stdin.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="PATH|-", help="The condensed tokens; - is stdout."),
    ],
    condenser: Annotated[
        str, typer.Option("--condenser", help="Checkpoint, method, folder or module:Class.")
    ] = "pooled",
    ratio: Annotated[
        float, typer.Option("--ratio", help="Context tokens per condensed token.")
    ] = 4.0,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Model that will read them; default: the condenser's own."),
    ] = None,
    device: Device = "cpu",
    refine_steps: RefineSteps = None,
    refine_ms: RefineMs = None,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Figures as JSON; - is stdout.")
    ] = None,
) -> None:
    """Condense a text into a safetensors file.

    Raises
    ------
    ConfigError
        Both outputs are to go to stdout.
    """
    check_writable(output)
    check_writable(json_path)
    if output == json_path == STANDARD_STREAM:
        raise ConfigError("-o - and --json - cannot share stdout; give one of them a path")
    context = read_text(source)
    from neural_condense_core.condensers.checkpoints import load_condenser
    from neural_condense_core.condensers.options import with_refinement
    from neural_condense_core.wire.codec import to_safetensors

    condenser = with_refinement(condenser, refine_steps, refine_ms)
    console = messages()
    with console.status(f"Loading {condenser}"):
        loaded = load_condenser(condenser, target, device=device)
    with console.status("Condensing"):
        tokens, elapsed_ms = condense_timed(loaded, loaded.tokenize(context), ratio)
    body = to_safetensors(tokens)
    write_bytes(output, body)
    place = "stdout" if output == STANDARD_STREAM else output
    console.print(
        f"{tokens.n_context_tokens:,} tokens of text became {tokens.n_condensed_tokens:,} condensed"
        f" tokens ({tokens.compression_ratio:.2f}x) for {tokens.target_model} in {elapsed_ms:.0f}"
        f" ms; {len(body):,} bytes in {place}",
        markup=False,
        soft_wrap=True,
    )
    write_json(
        json_path,
        {
            "schema": 1,
            "source": source,
            "output": output,
            "condenser": loaded.name,
            "target_model": tokens.target_model,
            "n_context_tokens": tokens.n_context_tokens,
            "n_condensed_tokens": tokens.n_condensed_tokens,
            "hidden_size": tokens.hidden_size,
            "compression_ratio": tokens.compression_ratio,
            "bytes": len(body),
            "ms": elapsed_ms,
        },
    )
