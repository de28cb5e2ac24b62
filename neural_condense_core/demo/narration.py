"""What a demo says while it works: phases with their times, lines, and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

PLAIN_PROGRESS_S = 10.0


class Narrator:
    """Talks to the user and takes the time.

    Parameters
    ----------
    console : on stderr
    seconds : phase -> seconds; filled as phases end
    """

    def __init__(self, console: Console, seconds: dict[str, float]) -> None:
        self.console = console
        self.seconds = seconds

    @contextmanager
    def phase(self, name: str, message: str) -> Iterator[None]:
        """Announce a phase, and note how long the block took."""
        self.console.print(f"[bold]{message}[/]")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def say(self, line: str) -> None:
        """Print a line as it is."""
        self.console.print(line, markup=False, soft_wrap=True)

    def fail(self, name: str, why: str) -> None:
        """Print that something failed, and why."""
        self.console.print(f"  [bold red]{name} failed:[/] ", end="")
        self.say(why)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Give a line to rewrite; where stderr is no terminal, print one now and then."""
        if self.console.is_terminal:
            with self.console.status("starting") as status:
                yield status.update
            return
        printed = time.monotonic()

        def show(line: str) -> None:
            nonlocal printed
            if time.monotonic() - printed >= PLAIN_PROGRESS_S:
                self.say(f"  {line}")
                printed = time.monotonic()

        yield show
