"""SIGINT and SIGTERM as one exception that cannot come at a bad moment.

Design decisions

* The first signal raises ``Interrupted`` in the main thread, wherever it is; every later one is
  ignored, so that it cannot cut the clean-up short. The clean-up itself has a deadline.
* While a child is being started signals wait: between its start and its entry in our books nobody
  would know about it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
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
        self._holds = 0
        self._pending: int | None = None
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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the block ends.

        Raises
        ------
        Interrupted
            One came meanwhile.
        """
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._pending is not None and not self._holds and not self._raised:
            self._raised = True
            raise Interrupted(self._pending)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._raised:
            return
        if self._holds:
            self._pending = self._pending or signum
            return
        self._raised = True
        raise Interrupted(signum)
