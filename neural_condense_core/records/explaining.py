"""Why a miner has its score, from the records alone.

Where it sits: ``condense explain`` prints it on the validator's machine, ``GET /v1/explain`` hands
each miner its own, and the dashboard shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from neural_condense_core.constants import TierConfig
from neural_condense_core.records.log import Records
from neural_condense_core.records.rows import DORMANT, OK, ReplyRow, ScoreRow
from neural_condense_core.wire.organic import Explanation

DEFAULT_ROUNDS = 10
MAX_ROUNDS = 100

ADVICE = {
    "timeout": "no answer within the tier's timeout",
    "connect": "nobody listens at the endpoint that is on the chain",
    "no_endpoint": "no endpoint is on the chain; start the miner so that it publishes one",
    "private_address": "the endpoint on the chain is not a public address; see --axon.external_ip",
    "bad_signature": "the answer was not signed by the miner's hotkey for this request",
    "dormant": "not asked after several silent rounds; the next trial comes by itself",
    "given_up": "not asked any more after two silent contexts in this round",
    "norm": "rows far shorter or longer than the target model's own embeddings",
    "copied": "the same matrix as an earlier reply",
    "not_finite": "NaN or infinity in the matrix",
    "too_many_tokens": "more condensed tokens than the tier allows",
    "hidden_size": "the rows are not as wide as the target model's embeddings",
    "wrong_width": "the rows are not as wide as the target model's embeddings",
    "target_model": "made for another target model than the tier's",
    "forbidden": "the miner refused this validator: permit, stake or its own list",
    "signature": "the miner refused this validator's signature; check its clock",
    "overloaded": "the miner said that it was asked too much",
}


def explain(
    records: Records,
    hotkey: str,
    *,
    limit: int = DEFAULT_ROUNDS,
    tiers: Mapping[str, TierConfig] | None = None,
) -> Explanation:
    """Return why a miner has the score that it has.

    Parameters
    ----------
    records : of the validator
    hotkey : of the miner
    limit : rounds to tell, newest first
    tiers : limits by name, to tell what time cost; None = it is not told
    """
    scores = records.scores(hotkey, min(limit, MAX_ROUNDS))
    rounds = []
    for score in scores:
        replies = records.replies(round_id=score.round, hotkey=hotkey)
        rounds.append((score, replies))
    ratings: dict[str, float] = {}
    for score in scores:
        ratings.setdefault(score.tier, score.rating)
    organic = Counter(row.code for row in records.organic(1_000, hotkey=hotkey))
    why = [sentence_of(score, replies, tiers) for score, replies in rounds]
    return Explanation(
        hotkey=hotkey,
        uid=scores[0].uid if scores else None,
        why=tuple(why) or ("no round has asked this miner yet",),
        ratings=ratings,
        weight=_weight(records, hotkey),
        rounds=tuple(_round(score, replies) for score, replies in rounds),
        organic=dict(organic),
    )


def sentence_of(
    score: ScoreRow, replies: Sequence[ReplyRow], tiers: Mapping[str, TierConfig] | None = None
) -> str:
    """Return one round of one miner in words.

    Parameters
    ----------
    score : of the round
    replies : of the miner in that round
    tiers : limits by name
    """
    return " ".join(reasons_of(score, replies, tiers))


def reasons_of(
    score: ScoreRow, replies: Sequence[ReplyRow], tiers: Mapping[str, TierConfig] | None = None
) -> tuple[str, ...]:
    """Return one round of one miner as sentences: what it scored, why, and what held it back most.

    Parameters
    ----------
    score : of the round
    replies : of the miner in that round
    tiers : limits by name
    """
    good = [reply for reply in replies if reply.code == OK]
    parts = [
        f"Round {score.round}, tier {score.tier}: score S = {score.score:.3f}, rating now "
        f"{score.rating:.3f}.",
        f"{len(good)} of {len(replies)} replies could be judged.",
        *_failures(replies),
    ]
    time_factor = None
    if good:
        parts += _quality(score, len(good))
        said, time_factor = _speed(score, good, tiers)
        parts += said
    return (*parts, *_held_back(score, len(good), len(replies), time_factor))


def _failures(replies: Sequence[ReplyRow]) -> list[str]:
    counts = Counter(reply.code for reply in replies if reply.code != OK)
    return [
        f"{n} x {code}" + (f" ({ADVICE[code]})" if code in ADVICE else "") + ", which scores 0."
        for code, n in counts.most_common()
    ]


def _quality(score: ScoreRow, n_good: int) -> list[str]:
    if score.content_recovery is None:
        if n_good < 2:
            return ["Content recovery needs two good replies in a round: without it S = 0."]
        return ["Content recovery could not be measured: S = 0."]
    kept = max(0.0, score.content_recovery)
    found = [
        f"The condensed tokens told the model {100 * kept:.0f} % of what is specific to each text: "
        f"content recovery C = {score.content_recovery:.3f}."
    ]
    if score.best_baseline_c is not None:
        gap = score.best_baseline_c - score.content_recovery
        amount = "more" if gap > 0 else "less" if gap < 0 else "as much"
        found.append(
            f"The best training-free method, {score.best_baseline_name}, told {amount} with as "
            f"many tokens: C = {score.best_baseline_c:.3f}."
        )
    if score.recovery is not None:
        note = ": below 0 they mislead the model, so S = 0" if score.recovery < 0 else ""
        found.append(f"Recovery R, which style alone raises too, is {score.recovery:.3f}{note}.")
    return found


def _speed(
    score: ScoreRow, good: Sequence[ReplyRow], tiers: Mapping[str, TierConfig] | None
) -> tuple[list[str], float | None]:
    taken = [reply.elapsed_s for reply in good if reply.elapsed_s is not None]
    if not taken:
        return [], None
    mean = sum(taken) / len(taken)
    tier = (tiers or {}).get(score.tier)
    if tier is None:
        return [f"A reply took {mean:.2f} s on average."], None
    if not tier.latency_weight:
        told = f"A reply took {mean:.2f} s on average, which costs nothing in this tier within its "
        return [f"{told}{tier.timeout_s:g} s."], None
    factor = 1 - tier.latency_weight * mean / tier.timeout_s
    told = f"A reply took {mean:.2f} of {tier.timeout_s:g} s on average: a factor of {factor:.2f}."
    return [told], factor


def _held_back(
    score: ScoreRow, n_good: int, n_asked: int, time_factor: float | None
) -> tuple[str, ...]:
    """Name the smallest of what the score is a product of."""
    if score.content_recovery is None or not n_asked:
        return ()
    misleads = score.recovery is not None and score.recovery < 0
    left = {
        "how little of a text is kept": 0.0 if misleads else score.content_recovery,
        "replies that failed": n_good / n_asked,
        "the time that replies take": 1.0 if time_factor is None else time_factor,
    }
    cause = min(left, key=left.__getitem__)
    return (f"What held the score back most: {cause}.",) if left[cause] < 1 else ()


def _round(score: ScoreRow, replies: Sequence[ReplyRow]) -> dict[str, Any]:
    return {
        **asdict(score),
        "parts": dict(score.parts),
        "replies": [
            {
                key: value
                for key, value in asdict(reply).items()
                if key in {"challenge", "kind", "status", "code", "elapsed_s", "n_condensed"}
            }
            for reply in replies
        ],
        "is_dormant": bool(replies) and all(reply.status == DORMANT for reply in replies),
    }


def _weight(records: Records, hotkey: str) -> dict[str, Any] | None:
    for weight_set in records.weight_sets(1):
        for row in records.weights(weight_set.id):
            if row.hotkey == hotkey:
                return {"weight": row.weight, "uid": row.uid, **asdict(weight_set)}
    return None
