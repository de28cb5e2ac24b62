"""``condense train``: one recipe, one checkpoint.

* Progress, loss and the time left are shown on stderr; every step is a line of ``log.jsonl``.
* A run that is stopped (Ctrl-C, SIGTERM) ends its step and keeps its state; ``--resume`` goes on
  exactly where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.errors import ConfigError

LOSS_MEMORY = 0.95
"""Share of the old value in the running mean of the loss that is shown."""
PLAIN_PROGRESS_S = 30.0


def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file, such as runs/pooled_fast_cpu.toml.")],
    prose: Annotated[Path | None, typer.Option(help="Parquet: source, title, text.")] = None,
    qa: Annotated[Path | None, typer.Option(help="Parquet: context, question, answers.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for state, log and checkpoint [runs/out/NAME].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where OUT left off.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where OUT holds another run.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many minutes; resume later.")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    json_path: Annotated[
        str | None, typer.Option("--json", help="Write a summary; - is stdout.")
    ] = None,
) -> None:
    """Train a condenser from a recipe.

    Raises
    ------
    ConfigError
        The folder holds a run, and neither --resume nor --overwrite says what to do with it.
    """
    check_writable(json_path)
    from neural_condense_core.training.config import read_recipe
    from neural_condense_core.training.trainer import Trainer  # imports torch

    parsed = read_recipe(recipe)
    folder = out or Path("runs/out") / parsed.name
    if (folder / "state.safetensors").exists() and not (resume or overwrite):
        raise ConfigError(f"{folder} holds a run: give --resume, --overwrite or another --out")
    started = time.monotonic()
    trainer = Trainer(parsed, prose, qa, folder, device, dtype)
    if resume:
        trainer.resume()
    folder.mkdir(parents=True, exist_ok=True)
    first = trainer.step
    with (
        (folder / "log.jsonl").open("a" if resume else "w", encoding="utf-8") as log,
        _Display(parsed.name, parsed.steps, first) as display,
        _stop_signals() as stopped,
    ):

        def report(step: Any) -> None:
            log.write(json.dumps(dataclasses.asdict(step)) + "\n")
            log.flush()
            display.show(step)

        trainer.train(minutes, report, stopped.is_set)
    checkpoint = folder / parsed.name
    trainer.save_checkpoint(checkpoint)
    seconds = time.monotonic() - started
    messages().print(
        f"{parsed.name}: step {trainer.step} of {parsed.steps} after {seconds:.0f} s; checkpoint "
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
            "context_tokens": trainer.context_tokens,
            "seconds": seconds,
            "loss": display.loss,
            "checkpoint": str(checkpoint),
            "finished": trainer.step >= parsed.steps,
        },
    )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event, which the loop looks at between two steps."""
    stopped = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stopped.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Display:
    """A progress bar with the running loss of each objective, nats per target token."""

    def __init__(self, name: str, steps: int, first: int) -> None:
        self.loss: dict[str, float] = {}
        self._steps = steps
        self._console = messages()
        self._printed = time.monotonic()
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
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
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > PLAIN_PROGRESS_S:
            self._printed = now  # a bar would show nothing until the end
            self._console.print(f"step {step.step} of {self._steps}  {shown}", soft_wrap=True)
