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

from bisect import bisect_right, insort
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
    queued : whether it waits; False once it was taken or given up
    """

    item: T
    n_tokens: int
    deadline_s: float
    group: Hashable = None
    alone: bool = False
    abandoned: bool = field(default=False, init=False)
    queued: bool = field(default=False, init=False)


class Batch(Generic[T]):
    """Entries that go to a worker together, padded to the longest.

    Parameters
    ----------
    first : the entry that starts it
    max_tokens : budget of the padded batch; the first may exceed it, and then nobody joins
    """

    def __init__(self, first: Entry[T], max_tokens: int) -> None:
        self.entries = [first]
        self.max_tokens = max_tokens
        self.longest = first.n_tokens
        self._squares = first.n_tokens**2

    @property
    def n_padded_tokens(self) -> int:
        """Tokens with the padding."""
        return self.longest * len(self.entries)

    def join(self, entry: Entry[T]) -> bool:
        """Add an entry if budget and padding allow it; return whether they do."""
        n = len(self.entries) + 1
        longest = max(self.longest, entry.n_tokens)
        squares = self._squares + entry.n_tokens**2
        if longest * n > self.max_tokens or n * longest**2 > MAX_PADDING * squares:
            return False
        self.entries.append(entry)
        self.longest, self._squares = longest, squares
        return True


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
                {
                    "reason": "queued_tokens",
                    "queued_tokens": self.n_tokens,
                    "max_queued_tokens": self.max_queued_tokens,
                },
            )
        self._insert(entry)

    def put_back(self, entries: list[Entry[T]]) -> None:
        """Return entries of a lost batch, each to go alone; the bound does not apply to them."""
        for entry in entries:
            if not entry.abandoned:
                entry.alone = True
                self._insert(entry)

    def discard(self, entry: Entry[T]) -> bool:
        """Give an entry up, whether it waits, runs or has been answered.

        Returns
        -------
        whether it waited, and now never reaches a worker
        """
        entry.abandoned = True
        if not entry.queued:
            return False
        self._remove(entry)
        return True

    def ahead_of(self, deadline_s: float) -> tuple[int, int]:
        """Return how many entries, and tokens, would be taken before one of that deadline."""
        if not self._entries or self._entries[-1].deadline_s <= deadline_s:
            return len(self._entries), self.n_tokens
        at = bisect_right(self._entries, deadline_s, key=lambda waiting: waiting.deadline_s)
        return at, sum(entry.n_tokens for entry in self._entries[:at])

    def last_deadline_s(self) -> float | None:
        """Return the deadline of the entry that is taken last; None if nothing waits."""
        return self._entries[-1].deadline_s if self._entries else None

    def clear(self) -> list[Entry[T]]:
        """Remove and return all entries."""
        entries, self._entries, self.n_tokens = self._entries, [], 0
        for entry in entries:
            entry.queued = False
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
            self._remove(entry)
        return batch

    def _batch(self) -> list[Entry[T]]:
        first = self._entries[0]
        if first.alone or 2 * first.n_tokens > self.max_batch_tokens:
            return [first]
        batch = Batch(first, self.max_batch_tokens)
        window = [
            entry
            for entry in self._entries[1 : WINDOW + 1]
            if entry.group == first.group and not entry.alone
        ]
        # Nearest lengths first: each that joins costs the least padding that is to be had.
        window.sort(key=lambda entry: abs(entry.n_tokens - first.n_tokens))
        for entry in window:
            batch.join(entry)
        return batch.entries

    def _insert(self, entry: Entry[T]) -> None:
        insort(self._entries, entry, key=lambda waiting: waiting.deadline_s)
        self.n_tokens += entry.n_tokens
        entry.queued = True

    def _remove(self, entry: Entry[T]) -> None:
        self._entries.remove(entry)
        self.n_tokens -= entry.n_tokens
        entry.queued = False
