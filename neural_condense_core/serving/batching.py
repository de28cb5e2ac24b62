"""``TokenQueue``: what waits for a worker, bounded in tokens and taken in batches.

Pure: no clock, no event loop, no process. The engine brings those.

Design decisions

* The bound counts tokens, not requests: a request's cost is its length.
* The entry with the nearest deadline always starts the batch, so nothing starves; entries of
  like length from the window behind it join as long as the padded batch stays within its budget
  and padding does not cost more than ``MAX_PADDING``.
* Entries that were given up or whose deadline has passed never reach a worker.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from neural_condense_core.errors import OverloadedError

T = TypeVar("T")

WINDOW = 64
"""How many entries behind the first are looked through for a batch."""

MAX_PADDING = 1.5
"""Most that padding may multiply a batch's attention cost by: n * max^2 / sum(length^2)."""


@dataclass(eq=False)
class Entry(Generic[T]):
    """One request that waits.

    Parameters
    ----------
    item : what the worker gets
    n_tokens : length, context tokens, at least 1
    deadline_s : when its answer is no longer wanted, on the caller's clock
    group : entries of different groups never share a batch
    alone : whether it must not share a batch at all
    """

    item: T
    n_tokens: int
    deadline_s: float
    group: Hashable = None
    alone: bool = False
    abandoned: bool = field(default=False, init=False)


def fits(lengths: list[int], n_tokens: int, max_batch_tokens: int) -> bool:
    """Return whether one more entry may join a batch.

    Parameters
    ----------
    lengths : of the entries in the batch, at least one
    n_tokens : length of the one to join
    max_batch_tokens : budget for the padded batch
    """
    joined = [*lengths, n_tokens]
    longest = max(joined)
    if longest * len(joined) > max_batch_tokens:
        return False
    return len(joined) * longest**2 <= MAX_PADDING * sum(length**2 for length in joined)


class TokenQueue(Generic[T]):
    """Entries in order of their deadline.

    Parameters
    ----------
    max_queued_tokens : most tokens that wait at once
    max_batch_tokens : budget for a padded batch; a longer entry goes by itself
    """

    def __init__(self, max_queued_tokens: int, max_batch_tokens: int) -> None:
        self.max_queued_tokens = max_queued_tokens
        self.max_batch_tokens = max_batch_tokens
        self.n_tokens = 0
        self._entries: list[Entry[T]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry[T]) -> None:
        """Add an entry.

        Raises
        ------
        OverloadedError
            The entry's tokens do not fit beside those that wait.
        """
        if self.n_tokens + entry.n_tokens > self.max_queued_tokens:
            raise OverloadedError(
                f"{self.n_tokens} tokens wait already; retry later",
                {"queued_tokens": self.n_tokens, "max_queued_tokens": self.max_queued_tokens},
            )
        self._insert(entry)

    def put_back(self, entries: list[Entry[T]]) -> None:
        """Return entries of a lost batch, each to go alone; the bound does not apply to them."""
        for entry in entries:
            if not entry.abandoned:
                entry.alone = True
                self._insert(entry)

    def discard(self, entry: Entry[T]) -> None:
        """Give an entry up, whether it waits, runs or has been answered."""
        entry.abandoned = True
        if entry in self._entries:
            self._entries.remove(entry)
            self.n_tokens -= entry.n_tokens

    def clear(self) -> list[Entry[T]]:
        """Remove and return all entries."""
        entries, self._entries, self.n_tokens = self._entries, [], 0
        return entries

    def take(self, now_s: float) -> list[Entry[T]]:
        """Remove and return the next batch, empty if nothing waits.

        Parameters
        ----------
        now_s : the time, on the clock of the deadlines
        """
        while self._entries and self._entries[0].deadline_s <= now_s:
            self.discard(self._entries[0])
        if not self._entries:
            return []
        batch = self._batch()
        for entry in batch:
            self._entries.remove(entry)
            self.n_tokens -= entry.n_tokens
        return batch

    def _batch(self) -> list[Entry[T]]:
        first = self._entries[0]
        if first.alone:
            return [first]
        batch, lengths = [first], [first.n_tokens]
        window = [
            entry
            for entry in self._entries[1 : WINDOW + 1]
            if entry.group == first.group and not entry.alone
        ]
        # Nearest lengths first: each that joins costs the least padding that is to be had.
        window.sort(key=lambda entry: abs(entry.n_tokens - first.n_tokens))
        for entry in window:
            if fits(lengths, entry.n_tokens, self.max_batch_tokens):
                batch.append(entry)
                lengths.append(entry.n_tokens)
        return batch

    def _insert(self, entry: Entry[T]) -> None:
        insort(self._entries, entry, key=lambda waiting: waiting.deadline_s)
        self.n_tokens += entry.n_tokens
