"""One round of one tier, as a function: contexts out, replies in, targets drawn, judged, scored.

Where it sits: ``node.py`` decides who is invited and writes the results down; nothing here knows
the chain, the clock or the disk.

Design decisions

* Every miner gets texts of its own, of the same make and lengths: there is nobody to copy from.
* Targets are drawn when the last reply is in. Before that nobody, this process included, knows
  what will be asked about a text.
* A miner is asked one thing after another and miners side by side, so that nobody's time depends
  on how many others there are.
* A miner's score is its own: who fails scores 0 for what failed, and a group whose content the
  judge refuses is judged miner by miner, so that the refusal costs none but its cause. A miner
  alone is tried without users' texts, which it did not choose; if it is refused still, the round
  says nothing about it.
* When the judge itself fails, or refuses for a reason that no miner can give (the token, the
  model, the size of the body), nobody is scored: that is an error and not a result.
* A user's request comes at any moment, so contexts do too: before each there is a random gap, and
  miners begin in random order. A test is not told from a user by its time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol

from neural_condense_core.chain.base import Peer
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import CodecError, NeuralCondenseError, RequestError
from neural_condense_core.scoring.ratings import round_score
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.validator.dendrite import Asker
from neural_condense_core.validator.replies import DORMANT, MALFORMED, OK, SILENT, Reply
from neural_condense_core.validator.results import ORGANIC, SYNTHETIC, MinerResult, ReplyResult
from neural_condense_core.wire.scoring import (
    Challenge,
    MinerScore,
    ReplyRef,
    ScoreAnswer,
    ScoreLimits,
    ScoreRequest,
)

log = logging.getLogger(__name__)

MAX_SILENT = 2
"""Silent replies in one round after which a miner's other contexts count as failed, unasked."""
GIVEN_UP = "given_up"
JUDGE_REFUSED = "judge_refused"
MAX_GAP = 3.0
"""Longest gap before a context, in means."""
TEXT_BYTES = 8
"""Room for a context and its items in a request, bytes a character."""


class Draft(Protocol):
    """A context before anything is asked about it."""

    @property
    def context(self) -> str:
        """The text that the miner gets."""
        ...


class Examiner(Protocol):
    """Makes contexts, and later the questions about them; pure but for its seeds."""

    def contexts(self, seed: int, n: int, max_chars: int) -> Sequence[Draft]:
        """Return ``n`` texts of at most ``max_chars`` characters."""
        ...

    def draft_of(self, context: str) -> Draft | None:
        """Return a user's text as one that can be asked about; None where nothing can be."""
        ...

    def ask(self, drafts: Sequence[Draft], seed: int) -> Sequence[Challenge]:
        """Return the challenges, one a draft, in their order."""
        ...


class Judge(Protocol):
    """Scores replies; ``client.scoring.ScoringClient`` is one."""

    async def score(
        self, request: ScoreRequest, tensors: Mapping[str, CondensedTokens]
    ) -> ScoreAnswer:
        """Return every miner's score; raises our errors where it cannot."""
        ...


@dataclass(frozen=True, eq=False)
class Sample:
    """A user's request that a miner has answered, kept for the judge.

    Parameters
    ----------
    context : the user's text; in memory only
    reply : what the miner made of it
    """

    context: str
    reply: Reply

    def __repr__(self) -> str:
        return f"Sample(uid={self.reply.uid}, n_chars={len(self.context)})"


@dataclass(frozen=True)
class Invitation:
    """A miner whose turn it is.

    Parameters
    ----------
    peer : who
    is_dormant : it is not asked, and scores 0
    samples : organic replies that are judged along
    """

    peer: Peer
    is_dormant: bool = False
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class RoundPlan:
    """What is to be done in a round.

    Parameters
    ----------
    id : of the records
    tier : limits and model
    seed : secret until the round is over; of the contexts
    n_contexts : synthetic contexts a miner
    invited : whose turn it is
    gap_s : mean time before a context is sent
    """

    id: int
    tier: TierConfig
    seed: int
    n_contexts: int
    invited: tuple[Invitation, ...]
    gap_s: float = 0.0


@dataclass(frozen=True, eq=False)
class _Asked:
    challenge_id: str
    kind: str
    draft: Draft
    reply: Reply


@dataclass(frozen=True, eq=False)
class _Group:
    """What one miner answered."""

    peer: Peer
    asked: tuple[_Asked, ...]

    @property
    def usable(self) -> list[_Asked]:
        return [one for one in self.asked if one.reply.is_ok]

    @property
    def n_bytes(self) -> int:
        matrices = sum(one.reply.tokens.nbytes for one in self.usable if one.reply.tokens)
        return matrices + TEXT_BYTES * sum(len(one.draft.context) for one in self.usable)

    def without_samples(self) -> _Group:
        kept = (one for one in self.asked if one.kind != ORGANIC or not one.reply.is_ok)
        return replace(self, asked=tuple(kept))


_Judged = list[tuple[_Group, MinerScore | None]]
"""What was judged, with its score; None where there was nothing usable."""


async def run_round(
    plan: RoundPlan,
    *,
    dendrite: Asker,
    judge: Judge,
    examiner: Examiner,
    draw_seed: Callable[[], int],
    limits: ScoreLimits | None = None,
) -> list[MinerResult]:
    """Run a round; what the judge cannot do comes as its error.

    Parameters
    ----------
    plan : who and what
    dendrite : asks miners
    judge : scores replies
    examiner : makes contexts and questions
    draw_seed : a fresh secret seed, for the targets
    limits : what the judge takes at once

    Returns
    -------
    one result an invited miner, in the order of the invitations; a miner that the judge refuses
    has none
    """
    rng = Random(plan.seed)  # noqa: S311 - the seed is secret
    starts = rng.sample(plan.invited, len(plan.invited))
    groups = await _all([_ask_miner(plan, each, dendrite, examiner) for each in starts])
    seed = draw_seed()
    judged: _Judged = [(group, None) for group in groups if not group.usable]
    for some in _portions([group for group in groups if group.usable], limits or ScoreLimits()):
        judged += await _judged(plan.tier, some, seed, judge, examiner)
    results = {group.peer: _result(plan.tier, group, score) for group, score in judged}
    return [results[each.peer] for each in plan.invited if each.peer in results]


async def _all(asking: Sequence[Awaitable[_Group]]) -> list[_Group]:
    # A group, so that a cancelled round leaves no request behind.
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_run(one)) for one in asking]
    return [task.result() for task in running]


async def _run(one: Awaitable[_Group]) -> _Group:
    return await one


async def _ask_miner(
    plan: RoundPlan, invitation: Invitation, dendrite: Asker, examiner: Examiner
) -> _Group:
    peer, tier = invitation.peer, plan.tier
    drafts = await asyncio.to_thread(
        examiner.contexts, _seed_of(plan.seed, peer), plan.n_contexts, tier.max_context_chars
    )
    asked = [
        _Asked(f"{peer.uid}:user{i}", ORGANIC, draft, one.reply)
        for i, one in enumerate(invitation.samples)
        if (draft := examiner.draft_of(one.context)) is not None
    ]
    n_silent = 0
    gaps = _gaps(plan, peer)
    for i, draft in enumerate(drafts):
        if invitation.is_dormant:
            reply = Reply(peer.uid, peer.hotkey, DORMANT, DORMANT)
        elif n_silent >= MAX_SILENT:
            reply = Reply(peer.uid, peer.hotkey, asked[-1].reply.status, GIVEN_UP)
        else:
            await asyncio.sleep(next(gaps))
            reply = await dendrite.ask(peer, tier, draft.context)
        n_silent += reply.status in SILENT
        asked.append(_Asked(f"{peer.uid}:{i}", SYNTHETIC, draft, reply))
    return _Group(peer, tuple(asked))


def _gaps(plan: RoundPlan, peer: Peer) -> Iterator[float]:
    """Yield the seconds before each context of a miner, as a stream of users would leave them."""
    rng = Random(_seed_of(plan.seed, peer))  # noqa: S311 - the seed is secret
    while True:
        yield plan.gap_s * min(rng.expovariate(1.0), MAX_GAP)


def _seed_of(seed: int, peer: Peer) -> int:
    digest = hashlib.sha256(f"{seed}/{peer.hotkey}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _portions(groups: Sequence[_Group], limits: ScoreLimits) -> Iterator[list[_Group]]:
    """Split miners into requests that a judge takes; a miner's own replies stay together."""
    n_most = min(limits.max_replies, limits.max_challenges)
    n_bytes_most = int(0.9 * limits.max_bytes)
    some: list[_Group] = []
    n_replies = n_bytes = 0
    for whole in groups:
        fits = len(whole.usable) <= n_most and whole.n_bytes <= n_bytes_most
        group = whole if fits else whole.without_samples()
        n, size = len(group.usable), group.n_bytes
        if some and (n_replies + n > n_most or n_bytes + size > n_bytes_most):
            yield some
            some, n_replies, n_bytes = [], 0, 0
        some.append(group)
        n_replies, n_bytes = n_replies + n, n_bytes + size
    if some:
        yield some


async def _judged(
    tier: TierConfig, groups: Sequence[_Group], seed: int, judge: Judge, examiner: Examiner
) -> _Judged:
    try:
        request, tensors = await asyncio.to_thread(_request, tier, groups, seed, examiner)
        answer = await judge.score(request, tensors)
    except (RequestError, CodecError) as error:
        if not _is_about_content(error):
            raise
        if len(groups) == 1:
            return await _judged_without_samples(tier, groups[0], seed, judge, examiner)
        half = len(groups) // 2
        first = await _judged(tier, groups[:half], seed, judge, examiner)
        return first + await _judged(tier, groups[half:], seed, judge, examiner)
    return [(group, answer.miners.get(group.peer.hotkey)) for group in groups]


async def _judged_without_samples(
    tier: TierConfig, group: _Group, seed: int, judge: Judge, examiner: Examiner
) -> _Judged:
    rest = group.without_samples()
    if not rest.usable:
        return [(rest, None)]
    if len(rest.asked) < len(group.asked):
        return await _judged(tier, [rest], seed, judge, examiner)
    log.warning("the judge refuses what uid %d answered; its rating stays", group.peer.uid)
    return []


def _is_about_content(error: NeuralCondenseError) -> bool:
    # What a service answered stands in the detail; the class is one for several statuses.
    return error.detail.get("status", error.status) == RequestError.status


def _request(
    tier: TierConfig, groups: Sequence[_Group], seed: int, examiner: Examiner
) -> tuple[ScoreRequest, dict[str, CondensedTokens]]:
    challenges: list[Challenge] = []
    replies: list[ReplyRef] = []
    tensors: dict[str, CondensedTokens] = {}
    for group in groups:
        usable = group.usable
        for one, challenge in zip(
            usable, examiner.ask([one.draft for one in usable], seed), strict=True
        ):
            name = one.challenge_id
            challenges.append(challenge.model_copy(update={"id": name}))
            replies.append(ReplyRef(id=name, miner=group.peer.hotkey, challenge=name))
            if one.reply.tokens is not None:
                tensors[name] = one.reply.tokens
    request = ScoreRequest(
        target_model=tier.target_model,
        seed=seed,
        challenges=tuple(challenges),
        replies=tuple(replies),
    )
    return request, tensors


def _result(tier: TierConfig, group: _Group, found: MinerScore | None) -> MinerResult:
    replies = tuple(_reply_result(one, found) for one in group.asked)
    if found is None:
        return MinerResult(group.peer, replies, 0.0)
    elapsed = [one.elapsed_s if one.status == OK else None for one in replies]
    best = found.best_baseline
    return MinerResult(
        group.peer,
        replies,
        round_score(found.content_recovery, found.recovery, elapsed, tier),
        found.content_recovery,
        found.recovery,
        best.name if best else None,
        best.content_recovery if best else None,
        _parts(found),
    )


def _reply_result(one: _Asked, found: MinerScore | None) -> ReplyResult:
    reply = one.reply
    status, code = reply.status, reply.code
    n_condensed = reply.tokens.n_condensed_tokens if reply.tokens else None
    if reply.is_ok:
        judged = found.replies.get(one.challenge_id) if found else None
        code = judged.code if judged else JUDGE_REFUSED
        status = OK if code == OK else MALFORMED
    return ReplyResult(one.challenge_id, one.kind, status, code, reply.elapsed_s, n_condensed)


def _parts(found: MinerScore) -> dict[str, Any]:
    tasks = {name: task.model_dump() for name, task in found.tasks.items()}
    return {"n_items": found.n_items, "tasks": tasks}
