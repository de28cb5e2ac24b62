"""Who owns which sequence of llama.cpp's cache, and who has to give way.

Design decisions

* A prefix keeps its sequence until somebody needs the room; the least recently used gives way, and
  one that a running answer reads never does.
* Rows are counted where they were computed: a copy of a prefix takes up none.
* Pure bookkeeping, called by ``llama_cpp.py`` under its lock; ``drop`` alone may be called at any
  moment, as the garbage collector does.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from neural_condense_core.errors import OverloadedError


class Sequences:
    """Which sequence of the cache belongs to whom, and how many rows each has of its own.

    Parameters
    ----------
    n_sequences : how many there are
    n_cells : rows they share
    forget : empties a sequence
    """

    def __init__(self, n_sequences: int, n_cells: int, forget: Callable[[int], None]) -> None:
        self._free = list(range(n_sequences))
        self._n_cells = n_cells
        self._forget = forget
        self._rows: dict[int, int] = {}
        self._kept: OrderedDict[int, int] = (
            OrderedDict()
        )  # key of a prefix -> sequence, oldest first
        self._readers: dict[int, int] = {}  # key of a prefix -> answers that read it
        self._dropped: deque[int] = deque()

    def drop(self, key: int) -> None:
        """Note that a prefix is gone; safe at any moment, from any thread."""
        self._dropped.append(key)

    def find(self, key: int) -> int | None:
        """Return a prefix's sequence, now the most recently used, or None if it has none."""
        self._collect()
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def take(self, n_rows: int) -> int:
        """Return an empty sequence with room for rows; prefixes that nobody reads make room.

        Raises
        ------
        OverloadedError
            Answers that run take all there is.
        """
        self._collect()
        while not self._free or sum(self._rows.values()) + n_rows > self._n_cells:
            oldest = next((key for key in self._kept if not self._readers.get(key)), None)
            if oldest is None:
                raise OverloadedError(
                    "llama.cpp's cache is taken by answers that run; ask again when one has ended"
                )
            self.release(self._kept.pop(oldest))
        sequence = self._free.pop()
        self._rows[sequence] = n_rows
        return sequence

    def keep(self, key: int, sequence: int) -> None:
        """Let a prefix own a sequence that was taken."""
        self._kept[key] = sequence

    def release(self, sequence: int) -> None:
        """Empty a sequence for the next who asks."""
        self._forget(sequence)
        del self._rows[sequence]
        self._free.append(sequence)

    @contextmanager
    def reading(self, key: int | None) -> Iterator[None]:
        """Protect a prefix's rows for as long as the block runs."""
        if key is None:
            yield
            return
        self._readers[key] = self._readers.get(key, 0) + 1
        try:
            yield
        finally:
            self._readers[key] -= 1
            if not self._readers[key]:
                del self._readers[key]

    def _collect(self) -> None:
        while self._dropped:
            sequence = self._kept.pop(self._dropped.popleft(), None)
            if sequence is not None:
                self.release(sequence)
