"""What a user sees of a training run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from neural_condense_core.console import messages
from neural_condense_core.training.session import Watcher
from neural_condense_core.training.trainer import StepReport

PLAIN_PROGRESS_S = 30.0


class Display(Watcher):
    """A progress bar with the running loss of each objective, nats per target token, and speed."""

    def __init__(self) -> None:
        super().__init__()
        self._console = messages()
        self._printed = time.monotonic()
        self._steps = 0
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=self._console,
        )

    def begin(self, name: str, first: int, steps: int) -> AbstractContextManager[object]:
        """Return the bar, to be entered."""
        self._steps = steps
        self._task = self._progress.add_task(name, total=steps, completed=first, shown="")
        return self._progress

    def show(self, step: StepReport) -> None:
        """Move the bar on."""
        super().show(step)
        line = self.line(step, self._steps)
        self._progress.update(self._task, completed=step.step, shown=line.partition("  ")[2])
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > PLAIN_PROGRESS_S:
            self._printed = now  # a bar would show nothing until the end
            self._console.print(line, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print above the bar."""
        self._console.print(text, soft_wrap=True)
