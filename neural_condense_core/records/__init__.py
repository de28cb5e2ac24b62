"""The validator's log: rounds, replies, scores, weights and organic requests.

The validator writes it; ``condense explain``, the miners' own questions and the dashboard read it,
each from its own process.
"""

from neural_condense_core.records.log import FILE_NAME, Records
from neural_condense_core.records.rows import (
    ABANDONED,
    JUDGED,
    OPEN,
    OrganicRow,
    ReplyRow,
    RoundRow,
    ScoreRow,
    WeightRow,
    WeightSet,
)

__all__ = [
    "ABANDONED",
    "FILE_NAME",
    "JUDGED",
    "OPEN",
    "OrganicRow",
    "Records",
    "ReplyRow",
    "RoundRow",
    "ScoreRow",
    "WeightRow",
    "WeightSet",
]
