"""What a miner said, as data: every way an exchange can end, with a reason code.

Where it sits: ``dendrite.py`` makes these, rounds and the organic API read them.

Design decisions

* A reply is never an exception: one miner's fault cannot unwind what others are owed.
* The code is one word of ours or a checked one of the miner's; free text from outside goes no
  further.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from neural_condense_core.records import rows
from neural_condense_core.tokens import CondensedTokens

OK = rows.OK
TIMEOUT = "timeout"
REFUSED = "refused"
MALFORMED = "malformed"
UNREACHABLE = "unreachable"
DORMANT = rows.DORMANT
"""Not asked: it has been silent for several rounds, and its next trial is not due."""
STATUSES = (OK, TIMEOUT, REFUSED, MALFORMED, UNREACHABLE, DORMANT)

SILENT = frozenset({TIMEOUT, UNREACHABLE})
"""Statuses of a miner that may be gone; asking it again at once would cost a full timeout."""

_CODE = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, eq=False)
class Reply:
    """How one exchange with one miner ended.

    Parameters
    ----------
    uid, hotkey : who was asked
    status : one of ``STATUSES``
    code : why, in one word
    elapsed_s : the wire exchange alone, first byte out to last byte in; None if there was none
    tokens : what came, where the status is ``ok``
    """

    uid: int
    hotkey: str
    status: str
    code: str
    elapsed_s: float | None = None
    tokens: CondensedTokens | None = None

    @property
    def is_ok(self) -> bool:
        """Whether there are condensed tokens."""
        return self.tokens is not None


@dataclass(frozen=True)
class MinerInfo:
    """What a miner says of itself at ``GET /v1/metadata``.

    Parameters
    ----------
    tier : the one it serves
    target_model : whose input embeddings its replies are
    """

    tier: str
    target_model: str


def reason_code(said: object, otherwise: str) -> str:
    """Return a code from outside if it is one short word, else another.

    Parameters
    ----------
    said : anything
    otherwise : of ours
    """
    return said if isinstance(said, str) and _CODE.fullmatch(said) else otherwise
