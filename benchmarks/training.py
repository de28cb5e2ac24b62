"""How fast a recipe trains on this machine, by objective: tokens a second, share of matrix rate.

``python benchmarks/training.py [RECIPE] [--set 'batch=4'] [--repeats 3] [--device auto]
[--dtype auto] [--compile] [--json PATH]``. Texts are random token ids, so no data are needed. A row
is the median over the repeats at the recipe's likeliest ratio and length, after one step that
counts operations and loads kernels.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from neural_condense_core.console import messages, write_json
from neural_condense_core.training.config import OBJECTIVES, Recipe, read_recipe
from neural_condense_core.training.data import TokenRow
from neural_condense_core.training.packed import (
    PackedDocument,
    PackIndex,
    prompts_digest,
    write_pack,
)
from neural_condense_core.training.packing import tokenizer_only
from neural_condense_core.training.sources import DataFiles
from neural_condense_core.training.trainer import RunSettings, StepReport, Trainer
from neural_condense_core.training.workers import join_run

N_DOCUMENTS = 8
DOCUMENT_TOKENS = 4000
DEFAULT_RECIPE = Path(__file__).parent.parent / "runs" / "pooled_fast_cpu.toml"


@dataclass(frozen=True)
class Speed:
    """One objective; memory is the peak of this process on a GPU, None on a CPU."""

    objective: str
    ratio: int
    context_tokens_a_step: int
    median_s: float
    tokens_per_s: float
    matrix_share: float
    peak_gb: float | None


def write_random_pack(target_model: str, folder: Path) -> None:
    """Write a packed folder of random token ids."""
    target = tokenizer_only(target_model)
    vocab_size = int(target.embedding.num_embeddings)
    rng = np.random.default_rng(0)

    def ids(n: int) -> list[int]:
        found: list[int] = rng.integers(0, vocab_size, n).tolist()
        return found

    documents = [PackedDocument(ids(DOCUMENT_TOKENS), 0, 4 * DOCUMENT_TOKENS)] * N_DOCUMENTS
    context = ids(200)
    row = TokenRow(context, tuple(ids(40)), tuple(context[100:104]), 100)
    index = PackIndex(
        target_model=target_model,
        prompts=prompts_digest(target),
        vocab_size=vocab_size,
        sources=("random",),
        separator=tuple(ids(1)),
        n_prose_tokens=N_DOCUMENTS * DOCUMENT_TOKENS,
        n_questions=1,
        n_generated=1,
    )
    write_pack(folder, index, documents, [context], [(0, row), (0, row)])


def measured(recipe: Recipe, objective: str, pack: Path, arguments: argparse.Namespace) -> Speed:
    """Train a few steps of one objective."""
    single = replace(
        recipe,
        objectives={objective: 1.0},
        stages=(),
        curriculum=(),
        imitation_steps=0,
        ratios={max(recipe.ratios, key=lambda ratio: recipe.ratios[ratio]): 1.0},
        context_lengths={max(recipe.context_lengths, key=lambda n: recipe.context_lengths[n]): 1.0},
        steps=arguments.repeats + 1,
        statistics_stretches=1,
    )
    steps: list[StepReport] = []
    workers = join_run(arguments.device)
    with tempfile.TemporaryDirectory() as out:
        settings = RunSettings(arguments.dtype, arguments.compile)
        trainer = Trainer(
            single, DataFiles(packed=pack), Path(out), settings=settings, workers=workers
        )
        trainer.train(None, steps.append)
    timed = steps[1:]
    seconds = statistics.median(step.seconds for step in timed)
    on_gpu = workers.device.startswith("cuda")
    n_tokens = single.batch * next(iter(single.context_lengths))
    return Speed(
        objective,
        next(iter(single.ratios)),
        n_tokens,
        seconds,
        n_tokens / seconds,
        statistics.median(step.matrix_share or 0.0 for step in timed),
        torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
    )


def all_measured(recipe: Recipe, arguments: argparse.Namespace) -> Iterator[Speed]:
    """Measure every objective."""
    with tempfile.TemporaryDirectory() as folder:
        write_random_pack(recipe.target_model, Path(folder))
        for objective in OBJECTIVES:
            yield measured(recipe, objective, Path(folder), arguments)


def main() -> None:
    """Print a table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path, default=DEFAULT_RECIPE)
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe, tuple(arguments.changes))
    table = Table("objective", "ratio", "tokens a step", "s", "tokens/s", "of matrix rate", "GB")
    found = []
    for speed in all_measured(recipe, arguments):
        found.append(asdict(speed))
        memory = "" if speed.peak_gb is None else f"{speed.peak_gb:.1f}"
        table.add_row(
            speed.objective,
            f"{speed.ratio}x",
            str(speed.context_tokens_a_step),
            f"{speed.median_s:.2f}",
            f"{speed.tokens_per_s:,.0f}",
            f"{speed.matrix_share:.0%}",
            memory,
        )
    messages().print(table)
    write_json(arguments.json, {"schema": 1, "recipe": recipe.name, "speeds": found})


if __name__ == "__main__":
    main()
