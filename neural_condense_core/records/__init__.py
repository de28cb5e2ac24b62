"""The validator's log: rounds, replies, scores, weights and organic requests.

The validator writes it; ``condense explain``, the miners' own questions and the dashboard read it,
each from its own process.
"""

from neural_condense_core.records.log import FILE_NAME, Records
from neural_condense_core.records.rows import (
    ABANDONED,
    DORMANT,
    JUDGED,
    OK,
    OPEN,
    IncentiveRow,
    OrganicRow,
    ReplyRow,
    RoundRow,
    ScoreRow,
    WeightRow,
    WeightSet,
)

__all__ = [
    "ABANDONED",
    "DORMANT",
    "FILE_NAME",
    "JUDGED",
    "OK",
    "OPEN",
    "IncentiveRow",
    "OrganicRow",
    "Records",
    "ReplyRow",
    "RoundRow",
    "ScoreRow",
    "WeightRow",
    "WeightSet",
]
