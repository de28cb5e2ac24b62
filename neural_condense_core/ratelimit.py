"""The one rate limiter: a sliding window with an allowance a key, and stake-shared allowances.

Where it sits: the miner counts what validators ask, the validator counts what it asks of a miner,
and the HTTP fronts count addresses and API keys, all with this code.

Design decisions

* Pure: the time is an argument, so a window passes in a test without waiting.
* A sliding window, not one that is emptied at a fixed hour: whenever two sides start to count, at
  no moment does either see more than the allowance within a window.
* What is sent evenly may arrive bunched. Whoever counts arrivals takes a window shorter by
  ``ARRIVAL_GRACE`` than whoever counts departures, so that a sender who keeps to its allowance is
  never refused.
* Only what is allowed counts: a refused caller that keeps knocking does not push its own turn away.
* Bounded: a key holds at most its allowance of times, and the least recently seen keys go first.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping

ARRIVAL_GRACE = 0.05
"""By which share the window of the receiving side is shorter."""
MIN_SHARE = 10
"""Requests a window that even the smallest stake gets."""
MAX_KEYS = 10_000


class RateLimiter:
    """Counts requests by key; for one thread or event loop.

    Parameters
    ----------
    window_s : length of the window, seconds
    allowances : requests a window, by key
    default : requests a window of a key that has no allowance of its own
    max_keys : most keys that are remembered
    """

    def __init__(
        self,
        window_s: float,
        allowances: Mapping[str, int] | None = None,
        *,
        default: int = 0,
        max_keys: int = MAX_KEYS,
    ) -> None:
        if not 0 < window_s < math.inf or max_keys < 1:
            raise ValueError("window_s and max_keys must be above 0")
        self.window_s = window_s
        self._allowances = dict(allowances or {})
        self._default = default
        self._max_keys = max_keys
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def set_allowances(self, allowances: Mapping[str, int]) -> None:
        """Replace all allowances; what was counted stays counted.

        Parameters
        ----------
        allowances : requests a window, by key
        """
        self._allowances = dict(allowances)

    def allowance(self, key: str) -> int:
        """Return the requests that a key may make in one window."""
        return self._allowances.get(key, self._default)

    def left(self, key: str, now: float) -> int:
        """Return the requests that a key may still make at this moment.

        Parameters
        ----------
        key : who asks
        now : seconds of a clock that never goes back
        """
        return max(0, self.allowance(key) - len(self._current(key, now)))

    def check(self, key: str, now: float) -> float:
        """Count a request if it is allowed.

        Parameters
        ----------
        key : who asks
        now : seconds of a clock that never goes back

        Returns
        -------
        0 if it is allowed, and then it is counted; else the seconds after which the next one is,
        a whole window for a key without any allowance
        """
        times = self._current(key, now)
        allowance = self.allowance(key)
        if len(times) < allowance:
            times.append(now)
            self._remember(key, times)
            return 0.0
        if allowance < 1:
            return self.window_s
        # After a cut of the allowance several must leave the window before one may enter.
        return max(times[len(times) - allowance] + self.window_s - now, 1e-3)

    def _current(self, key: str, now: float) -> deque[float]:
        times = self._seen.get(key)
        if times is None:
            return deque()
        while times and times[0] + self.window_s <= now:
            times.popleft()
        return times

    def _remember(self, key: str, times: deque[float]) -> None:
        self._seen[key] = times
        self._seen.move_to_end(key)
        while len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)


def shares(total: int, stakes: Mapping[str, float], minimum: int = MIN_SHARE) -> dict[str, int]:
    """Share requests out in proportion to stake.

    Parameters
    ----------
    total : requests a window that the tier asks of a miner
    stakes : stake of everyone who may ask, by hotkey; negative and non-finite count as none
    minimum : what everyone gets at least

    Returns
    -------
    requests a window by hotkey, rounded down; where nobody has stake all get the same
    """
    weights = {key: stake if 0 < stake < math.inf else 0.0 for key, stake in stakes.items()}
    most = max(weights.values(), default=0.0)
    # Relative to the largest, so that a sum of huge stakes cannot overflow.
    weights = {key: weight / most if most else 1.0 for key, weight in weights.items()}
    whole = math.fsum(weights.values())
    return {key: max(minimum, int(total * (weight / whole))) for key, weight in weights.items()}
