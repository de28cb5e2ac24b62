"""``condense corpus``: a parquet file of texts in, a folder of condensed tokens out.

Design decisions

* The same line goes on where an earlier run was stopped or killed; nothing has to be said.
* Progress goes to stderr; with ``--json -`` stdout holds the summary and nothing else.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from neural_condense_core.console import check_writable, messages, write_json

EXIT_SIGNAL = 128
"""Added to the number of the signal that ended a run, as shells do."""


def corpus(
    source: Annotated[Path, typer.Argument(metavar="IN.parquet", help="The texts, one a row.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write or to go on with.")],
    condenser: Annotated[
        str, typer.Option("--condenser", help="Checkpoint, method, folder or module:Class.")
    ] = "pooled",
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", help="Context tokens per condensed token [4, or the nearest]."),
    ] = None,
    column: Annotated[str, typer.Option("--column", help="Column of the texts.")] = "text",
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Column of unique ids [number of the row].")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Weights in place of the condenser's own.")
    ] = None,
    target_model: Annotated[
        str | None, typer.Option("--target-model", help="Model that will read the tokens.")
    ] = None,
    refine_steps: Annotated[
        int | None, typer.Option("--refine-steps", help="Gradient steps on each text's tokens.")
    ] = None,
    store_dtype: Annotated[
        str, typer.Option("--store-dtype", help="float16 or float32: in what tokens are written.")
    ] = "float16",
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, float32 or bfloat16: in what is computed.")
    ] = "auto",
    max_context_tokens: Annotated[
        int, typer.Option("--max-context-tokens", min=1, help="A longer text is an error row.")
    ] = 16_384,
    shard_contexts: Annotated[
        int, typer.Option("--shard-contexts", help="Most contexts in one shard.")
    ] = 256,
    engine: Annotated[str, typer.Option("--engine", help="local or ray.")] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="HOST:PORT of a Ray cluster [one on this machine]."),
    ] = None,
    min_replicas: Annotated[
        int, typer.Option("--min-replicas", help="Ray: condensing actors at least.")
    ] = 1,
    max_replicas: Annotated[
        int, typer.Option("--max-replicas", help="Ray: condensing actors at most.")
    ] = 1,
    replica_cpus: Annotated[
        int, typer.Option("--replica-cpus", help="Ray: CPUs of each actor.")
    ] = 1,
    accelerator: Annotated[
        str, typer.Option("--accelerator", help="auto, cpu or cuda; on Ray auto is cpu.")
    ] = "auto",
    devices: Annotated[
        int | None, typer.Option("--devices", help="Local: how many [all GPUs, or one CPU].")
    ] = None,
    workers_per_device: Annotated[
        int, typer.Option("--workers-per-device", help="Local: worker processes on each.")
    ] = 1,
    max_batch_tokens: Annotated[
        int | None, typer.Option("--max-batch-tokens", help="Budget of a padded batch.")
    ] = None,
    max_errors: Annotated[
        int, typer.Option("--max-errors", min=0, help="Exit 1 if more rows than these failed.")
    ] = 0,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Summary; - is stdout.")
    ] = None,
) -> None:
    """Condense a parquet file of texts in bulk; the same line goes on after a kill.

    Raises
    ------
    Exit
        More rows failed than may, or the run was stopped.
    """
    check_writable(json_path)
    from neural_condense_core.condensers.options import split_options, with_refinement
    from neural_condense_core.corpus.display import Display
    from neural_condense_core.corpus.run import Machines, condense_corpus
    from neural_condense_core.corpus.settings import CorpusSettings
    from neural_condense_core.serving.scale import RaySettings

    name = with_refinement(condenser, refine_steps, None)
    split_options(name)
    settings = CorpusSettings(
        name, checkpoint, target_model, ratio, dtype, store_dtype, max_context_tokens,
        column, id_column, shard_contexts,
    )  # fmt: skip
    ray = RaySettings(ray_address, min_replicas, max_replicas, replica_cpus)
    machines = Machines(engine, ray, accelerator, devices, workers_per_device, max_batch_tokens)
    with Display() as display:
        summary = condense_corpus(source, out, settings, machines, display)
    rate = summary.n_now / summary.seconds
    messages().print(
        f"{out}: {summary.n_condensed:,} of {summary.n_rows:,} rows condensed, {summary.n_failed:,}"
        f" failed; {summary.n_now:,} in this run, {summary.n_context_tokens:,} tokens to "
        f"{summary.n_condensed_tokens:,}, {summary.seconds:.1f} s, {rate:,.1f} rows/s"
        + ("" if summary.complete else "; not finished: run the same line again to go on"),
        soft_wrap=True,
        markup=False,
    )
    write_json(json_path, {"schema": 1, "out": str(out), **asdict(summary)})
    if summary.stopped_by is not None:
        raise typer.Exit(EXIT_SIGNAL + summary.stopped_by)
    if summary.n_failed > max_errors:
        raise typer.Exit(1)
