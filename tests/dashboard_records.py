"""Records of a small subnet, as a validator would have written them."""

from neural_condense_core.constants import TIERS
from neural_condense_core.records import Records, ReplyRow, ScoreRow
from neural_condense_core.records.standing import write_incentives
from neural_condense_core.validator.state import State

NOW = 1_790_000_000.0
GOOD, POOR, DEAD = (f"5{name:x<47}" for name in ("Good", "Poor", "Dead"))
TASK = {
    "content_recovery": 0.5,
    "recovery": 0.6,
    "n": 4,
    "loss_own": 2.0,
    "loss_other": 3.0,
    "loss_none": 3.5,
    "loss_full": 1.5,
}


def play_round(records, tier="research", c=0.5, at=NOW):
    """Write one judged round of three miners and return its id."""
    with records.transaction() as connection:
        made = records.open_round(connection, tier, 1, 100, at)
        replies = [
            ReplyRow(made, GOOD, 3, "a", "synthetic", "ok", "ok", 0.25, 64),
            ReplyRow(made, GOOD, 3, "b", "synthetic", "ok", "ok", 0.35, 64),
            ReplyRow(made, POOR, 4, "a", "synthetic", "ok", "ok", 0.1, 64),
            ReplyRow(made, POOR, 4, "b", "synthetic", "malformed", "norm", 0.1, 64),
            ReplyRow(made, DEAD, 5, "a", "synthetic", "timeout", "timeout", None, None),
        ]
        parts = {"n_items": 4, "tasks": {"cloze": TASK}}
        scores = [
            ScoreRow(made, GOOD, 3, tier, c, 0.6, "head-tail", 0.3, c, c, parts),
            ScoreRow(made, POOR, 4, tier, None, None, None, None, 0.0, 0.1),
            ScoreRow(made, DEAD, 5, tier, None, None, None, None, 0.0, 0.0),
        ]
        records.write_round(connection, replies, scores)
        assert records.close_round(connection, made, at + 7)
    return made


def write_subnet(path):
    """Write two rounds, a submission of weights and what the chain pays."""
    with Records(path) as records:
        State(records).remember_tiers(TIERS)
        play_round(records, c=0.4)
        play_round(records, c=0.5, at=NOW + 60)
        made = records.write_weights(120, {3: (GOOD, 0.75), 4: (POOR, 0.25)}, code="ok", now=NOW)
        records.confirm_weights(made)
        write_incentives(records, 100, NOW, {3: (GOOD, 0.5), 4: (POOR, 0.0)})
        write_incentives(records, 200, NOW + 60, {3: (GOOD, 0.7), 4: (POOR, 0.0)})
