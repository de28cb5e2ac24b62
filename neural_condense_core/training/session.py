"""One run from its arguments to its summary: what ``condense train`` does, without a terminal.

``cli.py`` and ``__main__.py`` are two ways to give the arguments and to look on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from neural_condense_core.errors import ConfigError
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.shards import split
from neural_condense_core.training.sources import DataFiles
from neural_condense_core.training.state import STATE_FILE
from neural_condense_core.training.trainer import RunSettings, StepReport, Trainer
from neural_condense_core.training.workers import join_run

LOSS_MEMORY = 0.95
"""Share of the old value in the running mean of the loss that is shown."""


@dataclass(frozen=True)
class RunArguments:
    """What a user asks for.

    Parameters
    ----------
    recipe : parsed
    files : data
    out : folder for state, log and checkpoint; None = ``runs/out/NAME``
    init : checkpoint to begin from
    is_resumed, is_overwritten : what to do with a run that ``out`` holds
    minutes : end early after so many, loading and fitting included; the state and the checkpoint
        are written after them
    device : torch device or ``"auto"``
    settings : how it runs
    shard_mb : also write the checkpoint in parts of at most so many 2^20 bytes
    """

    recipe: Recipe
    files: DataFiles
    out: Path | None = None
    init: Path | None = None
    is_resumed: bool = False
    is_overwritten: bool = False
    minutes: float | None = None
    device: str = "auto"
    settings: RunSettings = field(default_factory=RunSettings)
    shard_mb: float | None = None

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.out or Path("runs/out") / self.recipe.name


class Watcher:
    """Looks on; shows nothing. ``losses`` is a running mean of each objective's figure."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}

    def begin(self, name: str, first: int, steps: int) -> AbstractContextManager[object]:
        """Return what to be in while the run goes on."""
        return contextlib.nullcontext()

    def show(self, step: StepReport) -> None:
        """Take a step's report down."""
        before = self.losses.get(step.objective, step.ce)
        self.losses[step.objective] = LOSS_MEMORY * before + (1 - LOSS_MEMORY) * step.ce

    def say(self, text: str) -> None:
        """Tell the user something."""

    def line(self, step: StepReport, steps: int) -> str:
        """Return a line of text on a step."""
        shown = "  ".join(f"{name} {loss:.3f}" for name, loss in sorted(self.losses.items()))
        share = "" if step.matrix_share is None else f"  {step.matrix_share:.0%} of matrix rate"
        return f"step {step.step} of {steps}  {shown}  {step.tokens_per_s:,.0f} tokens/s{share}"


def run(arguments: RunArguments, watcher: Watcher) -> dict[str, Any]:
    """Train, write a checkpoint and return the summary.

    Parameters
    ----------
    arguments : what to do
    watcher : shows progress; of the first process only

    Raises
    ------
    ConfigError
        The folder holds a run, and neither --resume nor --overwrite says what to do with it.
    """
    recipe, folder = arguments.recipe, arguments.folder
    started = time.monotonic()
    has_run = (folder / STATE_FILE).exists()
    if has_run and not (arguments.is_resumed or arguments.is_overwritten):
        raise ConfigError(f"{folder} holds a run: give --resume, --overwrite or another --out")
    workers = join_run(arguments.device)
    try:
        trainer = Trainer(
            recipe,
            arguments.files,
            folder,
            arguments.init,
            arguments.settings,
            workers,
            is_resumed=arguments.is_resumed,
        )
        if trainer.transferred.taken:
            taken, fresh = trainer.transferred.taken, trainer.transferred.fresh
            watcher.say(f"{len(taken)} tensors of {arguments.init} taken, {len(fresh)} new")
        first = trainer.step
        _train(trainer, arguments, watcher, started)
        summary = _summary(trainer, first, time.monotonic() - started, watcher)
        if workers.is_first:
            summary |= _write_checkpoint(trainer, arguments)
        return summary
    finally:
        workers.leave()


def _train(trainer: Trainer, arguments: RunArguments, watcher: Watcher, started: float) -> None:
    recipe, is_first = arguments.recipe, trainer.workers.is_first
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(_stop_signals())
        log = stack.enter_context(_open_log(arguments)) if is_first else None
        if is_first:
            stack.enter_context(watcher.begin(recipe.name, trainer.step, recipe.steps))

        def report(step: StepReport) -> None:
            if log is not None:
                log.write(json.dumps(dataclasses.asdict(step)) + "\n")
                log.flush()
                watcher.show(step)

        minutes = arguments.minutes
        if minutes is not None:
            minutes = max(0.0, minutes - (time.monotonic() - started) / 60)
        trainer.train(minutes, report, stopped.is_set)


def _open_log(arguments: RunArguments) -> IO[str]:
    arguments.folder.mkdir(parents=True, exist_ok=True)
    mode = "a" if arguments.is_resumed else "w"
    return (arguments.folder / "log.jsonl").open(mode, encoding="utf-8")


def _summary(trainer: Trainer, first: int, seconds: float, watcher: Watcher) -> dict[str, Any]:
    meter, workers = trainer.meter, trainer.workers
    return {
        "schema": 1,
        "name": trainer.recipe.name,
        "steps": trainer.step,
        "steps_this_run": trainer.step - first,
        "context_tokens": trainer.context_tokens,
        "seconds": seconds,
        "loss": watcher.losses,
        "finished": trainer.step >= trainer.recipe.steps,
        "device": workers.device,
        "processes": workers.size,
        "tokens_per_s": meter.tokens_per_s * workers.size,
        "matrix_tflops": meter.matrix_rate / 1e12,
        "matrix_share": meter.matrix_share,
        "tensors_taken": len(trainer.transferred.taken),
    }


def _write_checkpoint(trainer: Trainer, arguments: RunArguments) -> dict[str, Any]:
    checkpoint = arguments.folder / arguments.recipe.name
    trainer.save_checkpoint(checkpoint)
    written: dict[str, Any] = {"checkpoint": str(checkpoint)}
    if arguments.shard_mb is not None:
        folder = checkpoint.with_name(checkpoint.name + ".parts")
        written["parts"] = [str(path) for path in split(checkpoint, folder, arguments.shard_mb)]
    return written


@contextlib.contextmanager
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


def conclusion(summary: dict[str, Any]) -> str:
    """Return a sentence on what a run has done."""
    return (
        f"{summary['name']}: {summary['steps']} steps done, {summary['steps_this_run']} of them in "
        f"{summary['seconds']:.0f} s; {summary['tokens_per_s']:,.0f} context tokens/s, "
        f"{summary['matrix_share']:.0%} of the {summary['matrix_tflops']:.2f} TFLOP/s of a matrix "
        f"product; checkpoint {summary['checkpoint']}, to be used as --checkpoint or --condensers"
    )
