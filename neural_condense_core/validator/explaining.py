"""What a validator tells each miner of itself: behind ``GET /v1/explain``.

Design decisions

* Miners ask over a connection of its own, read-only: their questions never wait for the validator's
  writes, nor these for them.
* Only who is on the roster is told anything; everybody else has no score to ask about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from neural_condense_core.chain.base import Roster
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import ForbiddenError
from neural_condense_core.records import Records
from neural_condense_core.records.explaining import explain
from neural_condense_core.wire.organic import Explanation


class Explainer:
    """Tells miners of the subnet about themselves; a context manager, for several threads.

    Parameters
    ----------
    path : the records of the validator
    roster : gives who is registered; None while that is not known
    tiers : limits by name
    """

    def __init__(
        self, path: Path, roster: Callable[[], Roster | None], tiers: Mapping[str, TierConfig]
    ) -> None:
        self._records = Records(path, read_only=True)
        self._roster = roster
        self._tiers = dict(tiers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._records.close()

    def __call__(self, hotkey: str) -> Explanation:
        """Return why a miner has its score.

        Parameters
        ----------
        hotkey : of the miner

        Raises
        ------
        ForbiddenError
            It is not registered on the subnet.
        """
        roster = self._roster()
        if roster is None or roster.by_hotkey(hotkey) is None:
            raise ForbiddenError(
                "this hotkey is not registered on the subnet; register it, and ask again when "
                "the validator has read the chain"
            )
        return explain(self._records, hotkey, tiers=self._tiers)
