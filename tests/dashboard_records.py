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


def write_history(path, n_rounds=24):
    """Write a day of a subnet: two tiers, five miners, some trouble, weights now and then."""
    tiers = ("research", "inference_1")
    miners = [
        (f"5{name:x<47}", uid) for uid, name in enumerate(("Best", "Next", "Slow", "Odd", "Off"))
    ]
    ratings = {}
    with Records(path) as records:
        State(records).remember_tiers(TIERS)
        for number in range(n_rounds):
            at = NOW + 3600 * number
            tier = tiers[number % 2]
            with records.transaction() as connection:
                made = records.open_round(connection, tier, number, 100 + 360 * number, at)
                replies, scores = [], []
                for hotkey, uid in miners:
                    wave = 0.06 * ((number * (uid + 3)) % 7) / 7
                    found = _played(made, hotkey, uid, number, wave, TIERS[tier])
                    replies += found
                    good = [each for each in found if each.code == "ok"]
                    c = 0.52 - 0.11 * uid + wave if len(good) > 1 else None
                    slow = sum(each.elapsed_s for each in good) / max(1, len(good))
                    factor = 1 - TIERS[tier].latency_weight * slow / TIERS[tier].timeout_s
                    s = max(0.0, c or 0.0) * factor * len(good) / len(found)
                    ratings[tier, uid] = 0.8 * ratings.get((tier, uid), s) + 0.2 * s
                    baseline = None if c is None else 0.31 + wave / 2
                    scores.append(ScoreRow(
                        made, hotkey, uid, tier, c, None if c is None else c + 0.12,
                        None if c is None else "head-tail", baseline, s, ratings[tier, uid],
                        {"n_items": 8, "tasks": {"cloze": TASK, "continuation": TASK}} if c else {},
                    ))  # fmt: skip
                records.write_round(connection, replies, scores)
                assert records.close_round(connection, made, at + 41)
            if number % 4 == 3:
                total = sum(ratings.values())
                shares = {
                    uid: (hotkey, sum(ratings.get((each, uid), 0) for each in tiers) / total)
                    for hotkey, uid in miners[:4]
                }
                sent = records.write_weights(100 + 360 * number, shares, code="ok", now=at)
                records.confirm_weights(sent)
                write_incentives(records, 100 + 360 * number, at, shares)
    return miners


def _played(made, hotkey, uid, number, wave, tier):
    def reply(name, status="ok", code="ok", seconds=None):
        seconds = (0.2 + 0.1 * uid + wave) * tier.timeout_s / 4 if seconds is None else seconds
        return ReplyRow(made, hotkey, uid, name, "synthetic", status, code, seconds, 64 + uid)

    if uid == 4:
        return [reply(name, "unreachable", "connect", 0.01) for name in "abcd"]
    if uid == 3 and number % 3 == 0:
        return [reply("a"), reply("b", "malformed", "norm"), reply("c"),
                reply("d", "timeout", "timeout", tier.timeout_s)]  # fmt: skip
    return [reply(name) for name in "abcd"]


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
