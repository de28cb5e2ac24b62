"""Places for requests whose sender is not proven yet: few for each address, bounded in all.

Where it sits: a miner's axon and a validator's organic API read signed bodies under this bound and
give the places of their own callers only to who has proved to be one.

Design decisions

* A signature covers the body, so a stranger can make a server read one. What it can hold meanwhile
  are these places, and from one address only a few of them.
* Refused at once, never queued: a queue is one more thing to fill.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from neural_condense_core.errors import OverloadedError


class Places:
    """Counts who is inside; for one event loop.

    Parameters
    ----------
    most : places in all
    most_each : of which one key can have
    """

    def __init__(self, most: int, most_each: int) -> None:
        self.most = most
        self.most_each = most_each
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def take(self, key: str) -> Iterator[None]:
        """Hold one place.

        Parameters
        ----------
        key : whose, for example the caller's address

        Raises
        ------
        OverloadedError
            All places are taken, or the key has its share.
        """
        if self._taken[key] >= self.most_each:
            raise OverloadedError(
                "too many requests are arriving from this address; retry later",
                {"limit": self.most_each},
            )
        if self._taken.total() >= self.most:
            raise OverloadedError(
                "too many requests are arriving; retry later", {"limit": self.most}
            )
        self._taken[key] += 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
