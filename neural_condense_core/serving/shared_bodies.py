"""``SharedBlock``: memory in which a worker leaves large bodies for the front.

Where it sits: between ``worker.py``, which fills it, and ``replica.py``, which empties it. Small
answers cross with the worker's other words (``calls.py``), whose buffers a large one would fill
again and again.

Design decisions

* A file of memory without a name, whose descriptor the worker inherits: when both processes are
  gone, however they went, so is the memory. A named block outlives a process that is killed, until
  someone who knows of it removes it.
* Written and read by ``pwrite`` and ``pread``: one copy on each side, and a block that is shorter
  than it should be is an error here, not a bus error. The front's copy is what the HTTP server
  then owns, so the next batch may use the block at once.
* One batch at a time: the worker begins at the front of the block with every batch. It grows as
  needed, and is cut back once it is far larger than a batch needs.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from multiprocessing.reduction import DupFd
from typing import Any

from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.serving.jobs import Answer, Outcome

SHARED_FROM_BYTES = 1 << 20
"""Bodies from this size on cross in the block."""
MAX_BLOCK_BYTES = 1 << 30
"""What does not fit crosses with the other words."""
KEPT_BYTES = 64 << 20
"""What a block is cut back to when a batch needs less."""


@dataclass(frozen=True)
class Handover:
    """What a worker answers a batch with.

    Parameters
    ----------
    outcomes : one a job; where the body is in the block, it is empty here
    places : (index of the outcome, offset, size) of each body in the block, bytes
    """

    outcomes: list[Outcome]
    places: tuple[tuple[int, int, int], ...] = ()


class SharedBlock:
    """Memory that this process and the one it is given to at its start both see.

    Parameters
    ----------
    descriptor : of the file of memory; None = make one
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = _anonymous() if descriptor is None else descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        # As a pipe's end does it: the descriptor is inherited, under a number of the child's own.
        return _from_inherited, (DupFd(self._descriptor),)

    @property
    def n_bytes(self) -> int:
        """Size of the block."""
        return os.fstat(self._descriptor).st_size

    def fill(self, outcomes: list[Outcome]) -> Handover:
        """Move the large bodies of a batch into the block; what it holds is overwritten."""
        if self.n_bytes > KEPT_BYTES:
            os.ftruncate(self._descriptor, KEPT_BYTES)
        left: list[Outcome] = []
        places = []
        end = 0
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Answer) and self._takes(len(outcome.body), end):
                size = len(outcome.body)
                self._write(outcome.body, end)
                places.append((index, end, size))
                left.append(replace(outcome, body=b""))
                end += size
            else:
                left.append(outcome)
        return Handover(left, tuple(places))

    def empty(self, handover: Handover) -> list[Outcome]:
        """Return a batch's outcomes with their bodies.

        Raises
        ------
        NeuralCondenseError
            The block does not hold them.
        """
        outcomes = handover.outcomes
        for index, offset, size in handover.places:
            answer = outcomes[index]
            body = os.pread(self._descriptor, size, offset)
            if not isinstance(answer, Answer) or len(body) != size:
                raise NeuralCondenseError("a worker's answer did not arrive whole")
            outcomes[index] = replace(answer, body=body)
        return outcomes

    def close(self) -> None:
        """Give this process's hold on the memory up; harmless when it is gone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _takes(self, size: int, end: int) -> bool:
        return size >= SHARED_FROM_BYTES and end + size <= MAX_BLOCK_BYTES

    def _write(self, body: bytes, offset: int) -> None:
        view = memoryview(body)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written


def _from_inherited(inherited: Any) -> SharedBlock:
    return SharedBlock(inherited.detach())


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("condensed-tokens", os.MFD_CLOEXEC)
    # Elsewhere a file that is unlinked at once: the system keeps it in memory if it can.
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
