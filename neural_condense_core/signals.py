"""SIGINT and SIGTERM as one exception that cannot come at a bad moment.

Where it sits: the demo stops by it, and whoever starts a child process holds signals meanwhile.

Design decisions

* The first signal raises ``Interrupted`` in the main thread, wherever it is; every later one is
  ignored, so that it cannot cut the clean-up short. The clean-up itself has a deadline.
* While a child is being started signals wait: between its start and its entry in our books nobody
  would know about it.
* They wait in Python's handlers, not in the thread's signal mask: with other threads about (a
  progress bar's, a numerical library's) the system gives the signal to one of those, and Python
  runs the handler all the same; the child would inherit the mask, too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The user or the system asked us to stop; like KeyboardInterrupt no error.

    Parameters
    ----------
    signum : the signal
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process that died of the signal."""
        return 128 + self.signum


class StopSignals:
    """Catches SIGINT and SIGTERM while it is entered; for the main thread only."""

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}
        self._raised = False

    def __enter__(self) -> Self:
        """Take the signals over."""
        for signum in CAUGHT:
            self._previous[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._raised:
            return
        self._raised = True
        raise Interrupted(signum)


@contextmanager
def held_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block ends; then they do what they did before.

    Only the main thread runs handlers, so in any other there is nothing to hold.
    """
    came: list[int] = []
    try:
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                for signum in CAUGHT:
                    previous = signal.getsignal(signum)
                    if previous in {None, signal.SIG_IGN}:
                        continue
                    stack.callback(signal.signal, signum, previous)
                    signal.signal(signum, lambda number, frame: came.append(number))
            yield
    finally:
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
