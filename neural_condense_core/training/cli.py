"""``condense train``: one recipe, one checkpoint.

* Progress, loss and the time left are shown on stderr; every step is a line of ``log.jsonl``.
* A run that is interrupted keeps its state; ``--resume`` goes on exactly where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neural_condense_core.console import messages, write_json

LOSS_MEMORY = 0.95
"""Share of the old value in the running mean of the loss that is shown."""


def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file, such as runs/pooled_fast_cpu.toml.")],
    prose: Annotated[Path | None, typer.Option(help="Parquet: source, title, text.")] = None,
    qa: Annotated[Path | None, typer.Option(help="Parquet: context, question, answers.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for state, log and checkpoint [runs/out/NAME].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where OUT left off.")] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many minutes; resume later.")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    json_path: Annotated[
        str | None, typer.Option("--json", help="Write a summary; - is stdout.")
    ] = None,
) -> None:
    """Train a condenser from a recipe."""
    from neural_condense_core.training.config import read_recipe
    from neural_condense_core.training.trainer import Trainer  # imports torch

    parsed = read_recipe(recipe)
    folder = out or Path("runs/out") / parsed.name
    started = time.monotonic()
    trainer = Trainer(parsed, prose, qa, folder, device, dtype)
    if resume:
        trainer.resume()
    folder.mkdir(parents=True, exist_ok=True)
    first = trainer.step
    with (
        (folder / "log.jsonl").open("a" if resume else "w", encoding="utf-8") as log,
        _Display(parsed.name, parsed.steps, first) as display,
    ):

        def report(step: Any) -> None:
            log.write(json.dumps(dataclasses.asdict(step)) + "\n")
            log.flush()
            display.show(step)

        trainer.train(minutes, report)
    checkpoint = folder / parsed.name
    trainer.save_checkpoint(checkpoint)
    seconds = time.monotonic() - started
    messages().print(
        f"{parsed.name}: step {trainer.step} of {parsed.steps} in {seconds:.0f} s; checkpoint "
        f"{checkpoint}, to be used as --checkpoint or --condensers {checkpoint}",
        soft_wrap=True,
    )
    write_json(
        json_path,
        {
            "schema": 1,
            "name": parsed.name,
            "steps": trainer.step,
            "steps_this_run": trainer.step - first,
            "context_tokens": trainer.tokens_seen,
            "seconds": seconds,
            "loss": display.loss,
            "checkpoint": str(checkpoint),
            "finished": trainer.step >= parsed.steps,
        },
    )


class _Display:
    """A progress bar with the running loss of each objective, nats per target token."""

    def __init__(self, name: str, steps: int, first: int) -> None:
        self.loss: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=messages(),
        )
        self._task = self._progress.add_task(name, total=steps, completed=first, loss="")

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: Any) -> None:
        """Move the bar on."""
        before = self.loss.get(step.objective, step.ce)
        self.loss[step.objective] = LOSS_MEMORY * before + (1 - LOSS_MEMORY) * step.ce
        shown = "  ".join(f"{name} {loss:.3f}" for name, loss in sorted(self.loss.items()))
        self._progress.update(self._task, completed=step.step, loss=shown)
