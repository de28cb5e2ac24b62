"""``condense train`` and ``condense pack``: one recipe in, one checkpoint or packed folder out.

* Progress, loss, speed and the time left are shown on stderr; every step is a line of
  ``log.jsonl``.
* A run that is stopped (Ctrl-C, SIGTERM) ends its step and keeps its state; ``--resume`` goes on
  exactly where it stopped.
* Several GPUs: ``torchrun --nproc_per_node N -m neural_condense_core.cli train ...``, or
  ``accelerate launch -m neural_condense_core.cli train ...``; nothing else changes.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.training.config import read_recipe

_RECIPE = typer.Argument(help="TOML file, such as runs/pooled_fast_cpu.toml.")
_SET = typer.Option("--set", help="Replace a setting: 'swap_weight=0.5'. May be repeated.")
_TARGET = typer.Option(help="Another target model than the recipe's.")
_PROSE = typer.Option(help="Parquet: source, text.")
_QA = typer.Option(help="Parquet: context, question, answers.")
_JSON = typer.Option("--json", help="Write a summary; - is stdout.")


def train(
    recipe: Annotated[Path, _RECIPE],
    prose: Annotated[Path | None, _PROSE] = None,
    qa: Annotated[Path | None, _QA] = None,
    packed: Annotated[
        Path | None, typer.Option(help="Folder of 'condense pack', instead of both.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for state, log and checkpoint [runs/out/NAME].")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint folder to begin from, maybe of another target.")
    ] = None,
    target: Annotated[str | None, _TARGET] = None,
    changes: Annotated[list[str] | None, _SET] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where OUT left off.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where OUT holds another run.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many minutes; resume later.")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device; auto is a GPU if any.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the layers; pays on a GPU.")
    ] = False,
    shard_mb: Annotated[
        float | None, typer.Option(min=0.1, help="Also write the checkpoint in parts this large.")
    ] = None,
    json_path: Annotated[str | None, _JSON] = None,
) -> None:
    """Train a condenser from a recipe."""
    check_writable(json_path)
    parsed = read_recipe(recipe, tuple(changes or ()))
    from neural_condense_core.training.display import Display
    from neural_condense_core.training.session import RunArguments, conclusion, run
    from neural_condense_core.training.sources import DataFiles
    from neural_condense_core.training.trainer import RunSettings

    summary = run(
        RunArguments(
            replace(parsed, target_model=target or parsed.target_model),
            DataFiles(prose, qa, packed),
            out,
            init,
            resume,
            overwrite,
            minutes,
            device,
            RunSettings(dtype, compiled),
            shard_mb,
        ),
        Display(),
    )
    if "checkpoint" in summary:  # the first process of the run
        messages().print(conclusion(summary), soft_wrap=True)
        write_json(json_path, summary)


def pack(
    recipe: Annotated[Path, _RECIPE],
    out: Annotated[Path, typer.Option(help="Folder to write; give it to 'train --packed'.")],
    prose: Annotated[Path | None, _PROSE] = None,
    qa: Annotated[Path | None, _QA] = None,
    target: Annotated[str | None, _TARGET] = None,
    changes: Annotated[list[str] | None, _SET] = None,
    max_mb: Annotated[
        float, typer.Option(min=0.01, help="Size of all token ids, 2^20 bytes each.")
    ] = 512.0,
    generated: Annotated[int, typer.Option(min=0, help="Generated questions to add.")] = 20_000,
    json_path: Annotated[str | None, _JSON] = None,
) -> None:
    """Tokenise texts and questions for a recipe, once, into a folder that trains fast."""
    check_writable(json_path)
    parsed = read_recipe(recipe, tuple(changes or ()))
    from neural_condense_core.training import packing

    index = packing.pack(
        replace(parsed, target_model=target or parsed.target_model),
        prose,
        qa,
        out,
        packing.PackLimits(int(max_mb * (1 << 20)), generated),
        lambda text: messages().print(text, soft_wrap=True),
    )
    messages().print(
        f"{out}: {index.n_prose_tokens:,} tokens of prose, {index.n_questions:,} questions and "
        f"{index.n_generated:,} generated ones, for {index.target_model}",
        soft_wrap=True,
    )
    write_json(json_path, {**asdict(index), "folder": str(out)})
