"""From the validator's records to what the pages show, as JSON-ready values.

Where it sits: ``app.py`` calls these in a thread; nothing here knows HTTP.

Design decisions

* Everything comes from the records alone: the page shows what a validator has seen and written,
  and asks neither the chain nor a miner.
* A miner's rank within its tier follows the rating, which is what weights follow.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import UnknownMinerError, UnknownRoundError
from neural_condense_core.records import Records, ReplyRow, ScoreRow
from neural_condense_core.records.explaining import explain, reasons_of, sentence_of
from neural_condense_core.records.standing import (
    incentives,
    latest_incentives,
    tiers,
    weights_over_time,
)

ROUNDS_SHOWN = 50
SCORES_SHOWN = 200
WEIGHT_SETS_SHOWN = 50


def overview(records: Records) -> dict[str, Any]:
    """Return the leaderboard of every tier, the last submission of weights and the last round."""
    limits = tiers(records)
    latest = records.latest_scores()
    replies = _replies_of(records, latest)
    weights = _last_weights(records)
    paid = latest_incentives(records)
    by_tier: dict[str, list[dict[str, Any]]] = {name: [] for name in limits}
    for score in latest:
        row = _standing(score, replies[score.round, score.hotkey], limits)
        row["weight"] = weights.get(score.hotkey)
        row["incentive"] = paid.get(score.hotkey)
        ranked = by_tier.setdefault(score.tier, [])
        ranked.append({"rank": len(ranked) + 1, **row})
    rounds = records.rounds(1)
    sets = records.weight_sets(1)
    return {
        "schema": 1,
        "tiers": [
            {"name": name, "limits": _limits(limits.get(name)), "miners": miners}
            for name, miners in by_tier.items()
        ],
        "last_round": asdict(rounds[0]) if rounds else None,
        "last_weights": asdict(sets[0]) if sets else None,
    }


def miner(records: Records, hotkey: str) -> dict[str, Any]:
    """Return everything about one miner.

    Parameters
    ----------
    records : open for reading
    hotkey : of the miner

    Raises
    ------
    UnknownMinerError
        The records do not know it.
    """
    limits = tiers(records)
    scores = records.scores(hotkey, SCORES_SHOWN)
    if not scores:
        raise UnknownMinerError("no round has asked a miner of this hotkey")
    found = explain(records, hotkey, tiers=limits)
    return {
        "schema": 1,
        **found.model_dump(mode="json"),
        "reasons": _reasons(records, scores, limits),
        "series": [
            {
                "round": score.round,
                "tier": score.tier,
                "score": score.score,
                "rating": score.rating,
                "content_recovery": score.content_recovery,
                "best_baseline_c": score.best_baseline_c,
            }
            for score in reversed(scores)
        ],
        "tasks": _tasks(scores[0]),
        "latency": _latency(records, hotkey),
        "codes": dict(records.reply_counts().get(hotkey, {})),
        "weights": [list(point) for point in reversed(weights_over_time(records, hotkey))],
        "incentives": [[row.block, row.incentive] for row in reversed(incentives(records, hotkey))],
    }


def rounds(records: Records) -> dict[str, Any]:
    """Return the newest rounds, newest first, with how their replies ended."""
    found = []
    for row in records.rounds(ROUNDS_SHOWN):
        counts = Counter(reply.code for reply in records.replies(round_id=row.id))
        found.append({**asdict(row), "codes": dict(counts)})
    return {"schema": 1, "rounds": found}


def one_round(records: Records, round_id: int) -> dict[str, Any]:
    """Return one round: every miner's score and replies.

    Parameters
    ----------
    records : open for reading
    round_id : of the round

    Raises
    ------
    UnknownRoundError
        There is none.
    """
    row = next(iter(records.rounds(1, round_id=round_id)), None)
    if row is None:
        raise UnknownRoundError("there is no such round in the records")
    limits = tiers(records)
    replies = defaultdict(list)
    for reply in records.replies(round_id=round_id, limit=10_000):
        replies[reply.hotkey].append(reply)
    scores = records.scores(round_id=round_id, limit=10_000)
    scores.sort(key=lambda score: -score.score)
    return {
        "schema": 1,
        **asdict(row),
        "miners": [_standing(score, replies[score.hotkey], limits) for score in scores],
    }


def weights(records: Records) -> dict[str, Any]:
    """Return the newest submissions of weights, newest first, and the weights of the last."""
    sets = records.weight_sets(WEIGHT_SETS_SHOWN)
    return {
        "schema": 1,
        "sets": [asdict(one) for one in sets],
        "weights": [asdict(row) for row in records.weights(sets[0].id)] if sets else [],
        "incentives": latest_incentives(records),
    }


def _standing(
    score: ScoreRow, replies: Sequence[ReplyRow], limits: Mapping[str, TierConfig]
) -> dict[str, Any]:
    return {
        "uid": score.uid,
        "hotkey": score.hotkey,
        "tier": score.tier,
        "round": score.round,
        "rating": score.rating,
        "score": score.score,
        "content_recovery": score.content_recovery,
        "recovery": score.recovery,
        "best_baseline_name": score.best_baseline_name,
        "best_baseline_c": score.best_baseline_c,
        "codes": dict(Counter(reply.code for reply in replies)),
        "why": sentence_of(score, replies, limits),
    }


def _replies_of(
    records: Records, scores: Sequence[ScoreRow]
) -> defaultdict[tuple[int, str], list[ReplyRow]]:
    found: defaultdict[tuple[int, str], list[ReplyRow]] = defaultdict(list)
    for round_id in {score.round for score in scores}:
        for reply in records.replies(round_id=round_id, limit=10_000):
            found[round_id, reply.hotkey].append(reply)
    return found


def _last_weights(records: Records) -> dict[str, float]:
    for one in records.weight_sets(1):
        return {row.hotkey: row.weight for row in records.weights(one.id)}
    return {}


def _limits(tier: TierConfig | None) -> dict[str, Any] | None:
    return None if tier is None else asdict(tier)


def _reasons(
    records: Records, scores: Sequence[ScoreRow], limits: Mapping[str, TierConfig]
) -> dict[str, Sequence[str]]:
    """Return tier -> sentences about its newest round."""
    newest: dict[str, ScoreRow] = {}
    for score in scores:
        newest.setdefault(score.tier, score)
    return {
        tier: reasons_of(score, records.replies(round_id=score.round, hotkey=score.hotkey), limits)
        for tier, score in newest.items()
    }


def _tasks(score: ScoreRow) -> dict[str, Any]:
    found = score.parts.get("tasks", {})
    return dict(found) if isinstance(found, Mapping) else {}


def _latency(records: Records, hotkey: str) -> list[dict[str, float]]:
    taken: dict[int, list[float]] = {}
    for reply in records.replies(hotkey=hotkey):
        if reply.elapsed_s is not None:
            taken.setdefault(reply.round, []).append(reply.elapsed_s)
    return [
        {"round": made, "mean_s": sum(seconds) / len(seconds), "slowest_s": max(seconds)}
        for made, seconds in sorted(taken.items())
    ]
