"""A backend measured as a validator would: its replies, its score, its rank.

Where it sits: behind ``condense bench``, which prints it.

Design decisions

* Nothing is rebuilt here: codes and losses are ``service.py``, S is ``ratings.py``.
* The condensers that ship answer the same contexts, and the baselines at exactly the backend's
  numbers of tokens, so the rank says what a miner is up against. Copies are not looked for: a
  backend that serves a shipped condenser is its equal, not its thief.
* Time is measured around each exchange, one at a time, after one that does not count.
* It falls short where a reply fails, where S is 0, or where a training-free method is worth as
  much: then a validator pays little or nothing for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from neural_condense_core.client.async_client import UNREACHABLE
from neural_condense_core.client.backend import BackendClient
from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.scoring.challenges import ContextDraft
from neural_condense_core.scoring.ratings import round_score
from neural_condense_core.scoring.service import ScoringService
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.scoring import (
    Challenge,
    MinerScore,
    ReplyRef,
    ReplyScore,
    ScoreRequest,
)

SUBJECT = "backend"
RATIO = 4.0
"""Compression ratio of the condensers that ship, where the tier's limit allows it."""
WARM_UP_CHARS = 400


@dataclass(frozen=True, eq=False)
class Reply:
    """What came of one context.

    Parameters
    ----------
    tokens : None where it failed
    elapsed_s : seconds of the exchange
    code : ``"ok"`` or the error's
    message : why, for a failure
    """

    tokens: CondensedTokens | None
    elapsed_s: float
    code: str
    message: str = ""


@dataclass(frozen=True)
class Standing:
    """One method in the ranking.

    Parameters
    ----------
    name : of the condenser, or ``"backend"``
    kind : ``"backend"``, ``"shipped"`` or ``"baseline"``
    content_recovery, recovery : None where nothing could be measured
    """

    name: str
    kind: str
    content_recovery: float | None
    recovery: float | None


@dataclass(frozen=True)
class Result:
    """What a validator would see.

    Parameters
    ----------
    target_model : what read the tokens
    score : the expected S of a round
    miner : all parts of C
    replies : one a context
    standings : best first
    faults : why it falls short; empty = it does not
    """

    target_model: str
    score: float
    miner: MinerScore
    replies: tuple[Reply, ...]
    standings: tuple[Standing, ...]
    faults: tuple[str, ...]

    @property
    def rank(self) -> int:
        """Place of the backend among all methods, from 1."""
        return 1 + [each.kind for each in self.standings].index(SUBJECT)


def collect(
    client: BackendClient, drafts: Sequence[ContextDraft], tier: TierConfig, target_model: str
) -> list[Reply]:
    """Have every context condensed, one at a time, and take the times."""
    _exchange(client, drafts[0].context[:WARM_UP_CHARS], tier, target_model)
    return [_exchange(client, draft.context, tier, target_model) for draft in drafts]


def _exchange(client: BackendClient, context: str, tier: TierConfig, target_model: str) -> Reply:
    start_s = time.perf_counter()
    try:
        tokens = client.condense(
            context, max_condensed_tokens=tier.max_condensed_tokens, target_model=target_model
        )
    except NeuralCondenseError as error:
        code = str(error.detail.get("reason", error.code))
        if code == UNREACHABLE:
            raise
        return Reply(None, time.perf_counter() - start_s, code, error.message)
    return Reply(tokens, time.perf_counter() - start_s, "ok")


def assess(
    service: ScoringService,
    tier: TierConfig,
    seed: int,
    challenges: Sequence[Challenge],
    replies: Sequence[Reply],
    methods: Mapping[str, Condenser],
) -> Result:
    """Judge the replies and everything beside them.

    Parameters
    ----------
    service : the judge
    tier : gives limits and the formula of S
    seed : of the swaps and the disturbances
    challenges : contexts with what is asked
    replies : one a context
    methods : what stands beside, by name; baselines meet the backend's numbers of tokens
    """
    matrices = {"": [reply.tokens for reply in replies]}
    for name, method in methods.items():
        matrices[name] = _condensed(method, challenges, replies, tier)
    scores = _judged(service, seed, challenges, matrices)
    miner = scores[""]
    standings = [
        Standing(
            name or SUBJECT,
            SUBJECT if not name else "baseline" if name in BASELINES else "shipped",
            found.content_recovery,
            found.recovery,
        )
        for name, found in scores.items()
    ]
    # A dict keeps the backend first: among equals it stands before what it is compared with.
    standings.sort(key=lambda each: -_or_least(each.content_recovery))
    known = [
        _with_code(reply, miner.replies.get(f"/{challenge.id}"))
        for reply, challenge in zip(replies, challenges, strict=True)
    ]
    elapsed_s = [reply.elapsed_s if reply.code == "ok" else None for reply in known]
    score = round_score(miner.content_recovery, miner.recovery, elapsed_s, tier)
    return Result(
        service.target.name,
        score,
        miner,
        tuple(known),
        tuple(standings),
        tuple(_faults(score, miner, known, standings)),
    )


def _judged(
    service: ScoringService,
    seed: int,
    challenges: Sequence[Challenge],
    matrices: Mapping[str, Sequence[CondensedTokens | None]],
) -> dict[str, MinerScore]:
    refs, tensors = [], {}
    for name, made in matrices.items():
        for challenge, tokens in zip(challenges, made, strict=True):
            if tokens is not None:
                ref = ReplyRef(
                    id=f"{name}/{challenge.id}", miner=name or SUBJECT, challenge=challenge.id
                )
                refs.append(ref)
                tensors[ref.id] = tokens.embeds
    request = ScoreRequest(
        target_model=service.target.name,
        seed=seed,
        challenges=tuple(challenges),
        replies=tuple(refs),
    )
    found = service.score(request, tensors).miners
    nothing = MinerScore(content_recovery=None, recovery=None, n_items=0)
    return {name: found.get(name or SUBJECT, nothing) for name in matrices}


def _condensed(
    method: Condenser,
    challenges: Sequence[Challenge],
    replies: Sequence[Reply],
    tier: TierConfig,
) -> list[CondensedTokens | None]:
    found: list[CondensedTokens | None] = []
    for challenge, reply in zip(challenges, replies, strict=True):
        ids = method.tokenize(challenge.context)
        if isinstance(method, BudgetedCondenser):
            if reply.tokens is None:
                found.append(None)
                continue
            budget = min(reply.tokens.n_condensed_tokens, len(ids))
            found += method.condense_to([ids], [budget])
        else:
            ratio = method.fit_ratio(len(ids), RATIO, tier.max_condensed_tokens)
            found += method.condense([ids], ratio)
    return found


def _faults(
    score: float, miner: MinerScore, replies: Sequence[Reply], standings: Sequence[Standing]
) -> list[str]:
    found = []
    codes = [reply.code for reply in replies if reply.code != "ok"]
    for code in dict.fromkeys(codes):
        found.append(f"{codes.count(code)} of {len(replies)} replies failed: {code}")
    if miner.recovery is not None and miner.recovery < 0:
        found.append("the tokens are worse than no context at all (R below 0), so S is 0")
    elif score == 0:
        found.append("the expected score is 0")
    own = _or_least(miner.content_recovery)
    beaten = [
        each
        for each in standings
        if each.kind == "baseline" and _or_least(each.content_recovery) >= own
    ]
    if beaten:
        found.append(f"{beaten[0].name} needs no training and is worth as much at equal length")
    return found


def _with_code(reply: Reply, judged: ReplyScore | None) -> Reply:
    if judged is None or judged.code == "ok":
        return reply
    return replace(reply, code=judged.code, message="refused before it was judged")


def _or_least(value: float | None) -> float:
    return float("-inf") if value is None else value
