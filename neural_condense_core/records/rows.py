"""What one row of the records says; frozen values, fit for JSON by ``dataclasses.asdict``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OK = "ok"
DORMANT = "dormant"
JUDGED = "judged"
OPEN = "open"
ABANDONED = "abandoned"


@dataclass(frozen=True)
class RoundRow:
    """One round of one tier.

    Parameters
    ----------
    id : grows with time
    tier, epoch, block : what was asked and when, as the validator counted
    started_at, finished_at : seconds since 1970
    status : ``open``, ``judged`` or ``abandoned``
    reason : why it was abandoned
    """

    id: int
    tier: str
    epoch: int
    block: int
    started_at: float
    finished_at: float | None = None
    status: str = OPEN
    reason: str = ""


@dataclass(frozen=True)
class ReplyRow:
    """What one miner answered to one context.

    Parameters
    ----------
    round : id of the round
    hotkey, uid : of the miner
    challenge : id of the context within the round
    kind : ``synthetic`` or ``organic``
    status : ``ok``, ``timeout``, ``refused``, ``malformed``, ``unreachable`` or ``dormant``
    code : why, in one word; ``ok`` where the judge took it
    elapsed_s : the wire exchange alone
    n_condensed : rows of the matrix
    """

    round: int
    hotkey: str
    uid: int
    challenge: str
    kind: str
    status: str
    code: str
    elapsed_s: float | None = None
    n_condensed: int | None = None


@dataclass(frozen=True)
class ScoreRow:
    """What a round made of one miner.

    Parameters
    ----------
    round, hotkey, uid, tier : whose
    content_recovery, recovery : C and R over the miner's usable replies
    best_baseline_name, best_baseline_c : what a training-free method reached at equal length
    score : S, mean over everything that was asked; what failed counts 0
    rating : moving average after this round
    parts : JSON-ready details by task
    """

    round: int
    hotkey: str
    uid: int
    tier: str
    content_recovery: float | None
    recovery: float | None
    best_baseline_name: str | None
    best_baseline_c: float | None
    score: float
    rating: float
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightSet:
    """One submission of weights.

    Parameters
    ----------
    id : grows with time
    block, at : when, block and seconds since 1970
    code, message : what the chain said
    confirmed : the chain was read afterwards and holds them
    is_dry_run : computed and not sent
    """

    id: int
    block: int
    at: float
    code: str
    message: str
    confirmed: bool
    is_dry_run: bool


@dataclass(frozen=True)
class WeightRow:
    """One weight of a submission."""

    weight_set: int
    uid: int
    hotkey: str
    weight: float


@dataclass(frozen=True)
class IncentiveRow:
    """What the chain pays one miner.

    Parameters
    ----------
    block, at : when the chain was read, block and seconds since 1970
    uid, hotkey : of the miner
    incentive : its share of what all miners get, in [0, 1]
    """

    block: int
    at: float
    uid: int
    hotkey: str
    incentive: float


@dataclass(frozen=True)
class OrganicRow:
    """One attempt to serve a user's request by one miner.

    Parameters
    ----------
    at : seconds since 1970
    caller : id of the API key, or the hotkey, that asked
    tier, hotkey, uid, status, code, elapsed_s, n_condensed : as in ``ReplyRow``
    n_chars : length of the context
    is_sampled : it goes to the judge with the miner's next round
    """

    at: float
    caller: str
    tier: str
    hotkey: str
    uid: int
    status: str
    code: str
    elapsed_s: float | None
    n_chars: int
    n_condensed: int | None = None
    is_sampled: bool = False
