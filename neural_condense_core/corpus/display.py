"""What a user sees of a run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from neural_condense_core.console import messages

PLAIN_PROGRESS_S = 10.0


class Display:
    """A progress bar over the rows, with contexts a second and the time left."""

    def __init__(self) -> None:
        self._console = messages()
        self._progress = Progress(
            TextColumn("condensing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
        )
        self._task = self._progress.add_task("", rate="", total=None)
        self._n_rows = self._n_before = self._n_done = 0
        self._started_s = self._printed_s = time.monotonic()

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    def begin(self, n_rows: int, n_done: int) -> None:
        """Show how much there is."""
        self._n_rows, self._n_before, self._n_done = n_rows, n_done, n_done
        self._started_s = time.monotonic()
        self._progress.update(self._task, total=n_rows, completed=n_done)
        if n_done:
            self._console.print(f"going on: {n_done:,} of {n_rows:,} rows were done before")

    def advance(self, n_rows: int) -> None:
        """Move the bar on."""
        now_s = time.monotonic()
        if self._n_done == self._n_before:
            self._started_s = now_s  # the first one's time went into loading
        self._n_done += n_rows
        counted = self._n_done - self._n_before - n_rows
        rate = counted / (now_s - self._started_s) if counted > 0 else 0.0
        shown = f"{rate:,.1f}/s" if rate else ""
        self._progress.update(self._task, completed=self._n_done, rate=shown)
        if not self._console.is_terminal and now_s - self._printed_s > PLAIN_PROGRESS_S:
            self._printed_s = now_s  # a bar would show nothing until the end
            left = f", {(self._n_rows - self._n_done) / rate:,.0f} s left" if rate else ""
            self._console.print(f"{self._n_done:,} of {self._n_rows:,} rows {shown}{left}")
