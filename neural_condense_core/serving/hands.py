"""``Hand``: what does an engine's batches, wherever it runs.

Where it sits: ``engine.py`` knows its workers only by this; ``replica.py`` is a process on this
machine, ``ray.py`` a share of a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from neural_condense_core.serving.jobs import Job, Loaded, Outcome, Progress, WorkerSpec


class Hand(Protocol):
    """One batch at a time.

    Attributes
    ----------
    index : its number, for logs
    progress : how far its start has come
    alive : whether it can be given a batch
    """

    index: int
    progress: Progress
    alive: bool

    async def load(self) -> Loaded:
        """Get ready, or raise ``WorkerLostError``."""

    def mark_ready(self) -> None:
        """Note that it is ready."""

    async def run(self, jobs: Sequence[Job], limit_s: float) -> list[Outcome]:
        """Answer a batch within ``limit_s`` seconds, or raise ``WorkerLostError``."""

    async def close(self) -> None:
        """End it."""


MakeHand = Callable[[int, WorkerSpec, Callable[[], None]], Hand]
"""(index, what to load, what to call in the event loop when it is lost) -> a hand."""
