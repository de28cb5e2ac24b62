"""Things that are made ahead, in a thread, while the device is busy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Makes numbered things in order, at most ``depth`` of them ahead.

    What ``make`` raises is raised by ``take``. What it made does not depend on when it was made, so
    a run with and one without prefetching are the same run.

    Parameters
    ----------
    make : number -> thing; runs in one thread
    end : the number that is not made any more
    depth : how many are made ahead; 0 = none, and no thread
    """

    def __init__(self, make: Callable[[int], T], end: int, depth: int = 2) -> None:
        self._make = make
        self._end = end
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, "prefetch") if depth else None
        self._ahead: dict[int, Future[T]] = {}

    def take(self, number: int) -> T:
        """Return a thing, and begin with those that follow."""
        if self._pool is None:
            return self._make(number)
        for ahead in range(number, min(number + self._depth + 1, self._end)):
            if ahead not in self._ahead:
                self._ahead[ahead] = self._pool.submit(self._make, ahead)
        return self._ahead.pop(number).result()

    def close(self) -> None:
        """Forget what was made ahead; waits for the one that is being made."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._ahead.clear()
        self._depth = 0
