"""How fast training is: context tokens a second, and the share of what the machine can do.

Design decisions

* The machine's rate is measured, on one large matrix product in the type that training uses;
  data sheets promise what no product reaches.
* Operations are counted while a step runs, once for each shape of step, backward pass included; no
  formula has to be kept in step with the model. A step that cannot be counted has no share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from neural_condense_core.evaluation.operations import count_operations

T = TypeVar("T")

MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
REPEATS = 5


def measure_matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Return the operations a second of a square matrix product on a device, best of a few."""
    kind = torch.device(device).type
    size = MATRIX_SIZE.get(kind, MATRIX_SIZE["cpu"])
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(REPEATS):
        started = time.perf_counter()
        left @ right
        if kind == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


class Meter:
    """Counts operations of steps by their shape, and adds up time.

    Parameters
    ----------
    matrix_rate : operations a second that the machine reaches; see ``measure_matrix_rate``
    """

    def __init__(self, matrix_rate: float) -> None:
        self.matrix_rate = matrix_rate
        self._operations: dict[tuple[object, ...], int | None] = {}
        self._tokens = 0
        self._spent = 0
        self._seconds = 0.0
        self._counted_seconds = 0.0

    def run(self, shape: tuple[object, ...], work: Callable[[], T]) -> T:
        """Do a step's work; the first of its shape is counted, which takes a little longer."""
        if shape in self._operations:
            return work()
        with torch.compiler.set_stance("force_eager"):
            done, self._operations[shape] = count_operations(work)
        return done

    def is_known(self, shape: tuple[object, ...]) -> bool:
        """Return whether a shape was counted, so that a step of it runs at full speed."""
        return shape in self._operations

    def note(self, shape: tuple[object, ...], n_tokens: int, seconds: float) -> float | None:
        """Take down a step's time; returns its share of the matrix rate, None if it has no count.

        Parameters
        ----------
        shape : one that ``is_known``
        n_tokens : context tokens of this process
        """
        self._tokens += n_tokens
        self._seconds += seconds
        operations = self._operations[shape]
        if operations is None:
            return None
        self._spent += operations
        self._counted_seconds += seconds
        return operations / seconds / self.matrix_rate

    @property
    def tokens_per_s(self) -> float:
        """Context tokens a second of this process, over the steps noted."""
        return self._tokens / self._seconds if self._seconds else 0.0

    @property
    def matrix_share(self) -> float:
        """Share of the matrix rate, over the steps noted that have a count."""
        if not self._counted_seconds:
            return 0.0
        return self._spent / self._counted_seconds / self.matrix_rate
