"""Whether a request can still be answered in time: known when it arrives, not when it is late.

Pure: no clock, no queue, no process. The engine says what waits and what workers have in hand.

Design decisions

* How fast workers are is measured: at warm-up first, then at every batch. Time is fitted as a fixed
  part a batch and a part a token; what is old counts less and less.
* What is refused would have been late: it is told so at once, and the workers' time goes to what
  can still be answered. Under twice the load, as much is answered in time as under just enough.
* The budget of a batch guards the latency of those in it. Where a batch is over in ``BRIEF_S``
  anyway there is nothing to guard, and the way to a worker and back is what costs: more share it.
* Whoever finds nothing waiting and a worker free is never refused, however slow the workers were:
  a forecast that nothing can contradict would hold for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from neural_condense_core.errors import OverloadedError

KEEP = 0.95
"""Weight that an observation keeps when the next one comes: about twenty batches are remembered."""
MARGIN = 1.15
"""Factor on what is predicted: a request that is let in should be answered in time."""
MAX_RETRY_AFTER_S = 60.0
BRIEF_S = 0.025
"""A batch that takes no longer may go beyond its budget."""
MAX_BRIEF_TOKENS = 65_536
"""What it may have then at most."""

QUEUED_TOKENS = "queued_tokens"
PREDICTED_WAIT = "predicted_wait"


class Pace:
    """How long batches take: a line through what was measured, old measurements fading."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._tokens2 = 0.0
        self._products = 0.0

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return self._weight > 0

    @property
    def brief_tokens(self) -> int:
        """Tokens that take ``BRIEF_S`` even if all the time was theirs and none the batch's."""
        if self._products <= 0:
            return 0
        return int(min(BRIEF_S * self._tokens2 / self._products, MAX_BRIEF_TOKENS))

    def observe(self, n_tokens: int, seconds: float) -> None:
        """Take in how long a batch took.

        Parameters
        ----------
        n_tokens : of the whole batch, without padding
        seconds : from giving it to a worker to having its answers
        """
        self._weight = KEEP * self._weight + 1.0
        self._tokens = KEEP * self._tokens + n_tokens
        self._seconds = KEEP * self._seconds + seconds
        self._tokens2 = KEEP * self._tokens2 + float(n_tokens) ** 2
        self._products = KEEP * self._products + n_tokens * seconds

    def seconds(self, n_tokens: int, n_batches: float = 1.0) -> float:
        """Return how long so many tokens in so many batches take one worker; 0 while unknown."""
        fixed, per_token = self.line()
        return fixed * n_batches + per_token * n_tokens

    def line(self) -> tuple[float, float]:
        """Return the seconds of a batch and of a token; neither is below 0."""
        if not self._weight or not self._tokens2:
            return 0.0, 0.0
        mean_tokens = self._tokens / self._weight
        mean_seconds = self._seconds / self._weight
        spread = self._tokens2 / self._weight - mean_tokens**2
        through_origin = self._products / self._tokens2
        # Batches of nearly one size say nothing of how the time divides.
        if spread <= 1e-3 * mean_tokens**2:
            return 0.0, through_origin
        per_token = (self._products / self._weight - mean_tokens * mean_seconds) / spread
        if per_token <= 0:
            return mean_seconds, 0.0
        fixed = mean_seconds - per_token * mean_tokens
        return (fixed, per_token) if fixed >= 0 else (0.0, through_origin)


@dataclass(frozen=True)
class Load:
    """What is ahead of a request.

    Parameters
    ----------
    n_entries, n_tokens : that wait for a worker
    in_hand_s : seconds until the workers are through with what they have, all together
    n_workers : how many can answer
    n_free : how many of them have nothing to do
    """

    n_entries: int
    n_tokens: int
    in_hand_s: float
    n_workers: int
    n_free: int


class Admission:
    """The rule by which requests are let in.

    Parameters
    ----------
    max_batch_tokens : budget of a padded batch, to begin with
    max_brief_tokens : what it rises to at most where batches take hardly any time; 0 = it does not
    """

    def __init__(self, max_batch_tokens: int, max_brief_tokens: int = 0) -> None:
        self.budget = BatchBudget(max_batch_tokens)
        self.max_brief_tokens = max_brief_tokens
        self.pace = Pace()

    @property
    def max_batch_tokens(self) -> int:
        """Budget of a padded batch now."""
        return self.budget.within(min(self.max_brief_tokens, self.pace.brief_tokens))

    def predict_s(self, load: Load, n_tokens: int) -> float:
        """Return the seconds in which a request is expected to be answered.

        Parameters
        ----------
        load : what is ahead of it
        n_tokens : its own length
        """
        # Short entries share batches, long ones go alone.
        n_batches = min(load.n_entries, math.ceil(load.n_tokens / self.max_batch_tokens))
        ahead_s = self.pace.seconds(load.n_tokens, n_batches) + load.in_hand_s
        return ahead_s / max(1, load.n_workers) + self.pace.seconds(n_tokens)

    def check(self, load: Load, n_tokens: int, left_s: float) -> None:
        """Refuse a request that would be late.

        Parameters
        ----------
        load : what is ahead of it
        n_tokens : its own length
        left_s : seconds until its deadline

        Raises
        ------
        OverloadedError
            Its answer is expected after its deadline; ``retry_after_s`` says when it would not be.
        """
        if not load.n_entries and load.n_free:
            return
        predicted_s = MARGIN * self.predict_s(load, n_tokens)
        if predicted_s <= left_s:
            return
        raise OverloadedError(
            f"an answer would take about {predicted_s:.2g} s and {max(0.0, left_s):.2g} s are "
            "left; retry later",
            {"reason": PREDICTED_WAIT, "predicted_s": round(predicted_s, 3)},
            retry_after_s=min(MAX_RETRY_AFTER_S, predicted_s - left_s),
        )

    def retry_after_s(self, load: Load) -> float:
        """Return the seconds in which about half of what waits will be gone, at least 1."""
        waits_s = self.predict_s(load, 0) / 2
        return min(MAX_RETRY_AFTER_S, max(1.0, waits_s))


class BatchBudget:
    """How many tokens a padded batch may have: halved when memory runs out, slowly regained.

    Parameters
    ----------
    limit : what it starts with and never exceeds, tokens
    """

    REGAIN_AFTER = 32
    """Batches without trouble after which a sixteenth of the limit is given back."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tokens = limit
        self._good = 0

    def shrink(self, n_padded_tokens: int) -> None:
        """Note that a batch of so many tokens did not fit into memory."""
        self._good = 0
        self.tokens = max(1, min(self.tokens, n_padded_tokens) // 2)

    def within(self, brief_tokens: int) -> int:
        """Return the budget, or what a brief batch may have if that is more and memory lasts."""
        return self.tokens if self.tokens < self.limit else max(self.limit, brief_tokens)

    def regain(self) -> None:
        """Note that a batch went well."""
        if self.tokens == self.limit:
            return
        self._good += 1
        if self._good >= self.REGAIN_AFTER:
            self._good = 0
            self.tokens = min(self.limit, self.tokens + max(1, self.limit // 16))
