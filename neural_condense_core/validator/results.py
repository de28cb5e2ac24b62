"""What a round found out about one miner, before it is written down.

Where it sits: ``rounds.py`` makes these, ``state.py`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neural_condense_core.chain.base import Peer
from neural_condense_core.records import ReplyRow, ScoreRow

SYNTHETIC = "synthetic"
ORGANIC = "organic"


@dataclass(frozen=True)
class ReplyResult:
    """How one context of a round ended for one miner.

    Parameters
    ----------
    challenge : id of the context
    kind : ``synthetic`` or ``organic``
    status, code, elapsed_s : of the exchange; the judge's code where it found fault
    n_condensed : rows
    """

    challenge: str
    kind: str
    status: str
    code: str
    elapsed_s: float | None = None
    n_condensed: int | None = None


@dataclass(frozen=True)
class MinerResult:
    """What a round found out about one miner.

    Parameters
    ----------
    peer : who
    replies : one a context it was asked, failed ones too
    score : S
    content_recovery, recovery : C and R over the usable replies; None = not measurable
    best_baseline_name, best_baseline_c : what a training-free method reached at equal length
    parts : JSON-ready, by task
    """

    peer: Peer
    replies: tuple[ReplyResult, ...]
    score: float
    content_recovery: float | None = None
    recovery: float | None = None
    best_baseline_name: str | None = None
    best_baseline_c: float | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, round_id: int) -> list[ReplyRow]:
        """Return the rows of its replies."""
        return [
            ReplyRow(
                round_id,
                self.peer.hotkey,
                self.peer.uid,
                one.challenge,
                one.kind,
                one.status,
                one.code,
                one.elapsed_s,
                one.n_condensed,
            )
            for one in self.replies
        ]

    def score_row(self, round_id: int, tier: str, rating: float) -> ScoreRow:
        """Return the row of its score.

        Parameters
        ----------
        round_id, tier : of the round
        rating : after it
        """
        return ScoreRow(
            round_id,
            self.peer.hotkey,
            self.peer.uid,
            tier,
            self.content_recovery,
            self.recovery,
            self.best_baseline_name,
            self.best_baseline_c,
            self.score,
            rating,
            dict(self.parts),
        )
