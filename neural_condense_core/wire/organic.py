"""The messages of a validator's organic API.

Where it sits: ``validator/gate.py`` reads and answers with these, ``client/organic.py`` the other
way round. The matrix itself goes through ``wire/codec.py``, in the format that ``Accept`` names.

Design decisions

* A tier's ``target_model`` may be named to be sure of it, and need not be: the tier decides.
* What a miner is told about itself is the same document that ``condense explain`` prints.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from neural_condense_core.wire.messages import ContextText, Message

CONDENSE_PATH = "/v1/condense"
EXPLAIN_PATH = "/v1/explain"
TIERS_PATH = "/v1/tiers"
UID_HEADER = "x-condense-miner-uid"
HOTKEY_HEADER = "x-condense-miner-hotkey"
TIER_HEADER = "x-condense-tier"
TIMEOUT_HEADER = "x-request-timeout"
QUOTA_HEADER = "x-condense-quota-left"
REQUEST_ID_HEADER = "x-request-id"
MAX_DEADLINE_S = 120.0
"""Most seconds that a request may name."""


class OrganicBody(Message):
    """Body of ``POST /v1/condense``; ``{"context": "..."}`` alone is valid."""

    context: ContextText
    tier: str | None = Field(
        default=None, min_length=1, max_length=64, description="absent = the first that is served"
    )
    target_model: str | None = Field(
        default=None, min_length=1, max_length=256, description="must be the tier's, if given"
    )
    uid: int | None = Field(default=None, description="only this miner; absent = the best")


class TierInfo(Message):
    """One tier as a user sees it."""

    name: str
    target_model: str
    max_context_chars: int
    max_condensed_tokens: int
    timeout_s: float
    n_miners: int = Field(ge=0)


class TierList(Message):
    """Body of ``GET /v1/tiers``."""

    tiers: tuple[TierInfo, ...]


class Explanation(Message):
    """Why a miner has the score that it has; body of ``GET /v1/explain``."""

    hotkey: str
    uid: int | None
    why: tuple[str, ...] = Field(description="in sentences, the newest round first")
    ratings: dict[str, float] = Field(description="tier -> rating")
    weight: dict[str, Any] | None = Field(description="in the last submission of weights")
    rounds: tuple[dict[str, Any], ...] = Field(description="newest first, all parts")
    organic: dict[str, int] = Field(description="code -> how many of the last users' requests")
