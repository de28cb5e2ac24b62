"""A round of replies in, every miner's content recovery out: what the scoring service computes.

Where it sits: ``worker.py`` runs it in a process of its own behind HTTP; ``condense bench`` and the
tests call it directly. The losses come from the judge (``judge.py``), as the evaluation's do.

Design decisions

* Absolute: a miner's numbers depend on its own replies, the challenges and the seed, never on who
  else is in the round. Each reply is judged in calls of its own, so they are the same bit by bit on
  one machine, alone or among a hundred. (Only a *copy* needs somebody to be a copy of.)
* C of a miner: every item's target behind the miner's own tokens of that context, against the
  miner's own tokens of another of its contexts, chosen by the seed. Tokens that only set a style,
  however well, are worth the same for both and cancel. With fewer than two good replies there is
  nothing to swap, and C is null.
* The C of this service is stricter than the evaluation's: before the ratio, each item's loss behind
  the other tokens is capped at what no context or the other full text costs (``parts.py``). Making
  the tokens worse for other texts gains nothing beyond that. Baselines are measured alike.
* Likelihood only: no model writes a verdict, so nothing in a text or a matrix can talk to a judge.
* Every reply is judged under a small disturbance, another one from context to context: a matrix
  that only works bit for bit loses, and the price is that of one pass.
* What a context costs (no text, full text, other full text) is measured once a round, as are the
  baselines at one number of tokens.
* Bad replies get a code and the rest goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from neural_condense_core.condensers.base import BudgetedCondenser
from neural_condense_core.errors import UnknownModelError
from neural_condense_core.llm.base import TargetLLM, TokenIds
from neural_condense_core.scoring.asking import as_item
from neural_condense_core.scoring.checks import Vocabulary, check_matrix, find_copies
from neural_condense_core.scoring.judge import (
    Item,
    Losses,
    Reference,
    Score,
    derangement,
    judge,
    measure,
)
from neural_condense_core.scoring.parts import by_task, capped, joined
from neural_condense_core.scoring.perturbation import perturb
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.scoring import (
    BaselineScore,
    MinerScore,
    ReplyCode,
    ReplyRef,
    ReplyScore,
    ScoreAnswer,
    ScoreRequest,
)
from neural_condense_core.wire.tensor_bundle import Array


@dataclass(frozen=True)
class ServiceConfig:
    """What a service accepts and does.

    Parameters
    ----------
    max_condensed_tokens : most rows of a reply
    perturbations : of ``perturbation.PERTURBATIONS``; a miner's contexts get them in turn
    refuse_copies : whether a reply that copies an earlier one gets a code instead of a score
    """

    max_condensed_tokens: int = 1024
    perturbations: tuple[str, ...] = ("noise", "int8")
    refuse_copies: bool = True


class _Pair(NamedTuple):
    """Two contexts, whose tokens are swapped, with how many tokens each was condensed to."""

    own: str
    other: str
    n_own: int
    n_other: int


class ScoringService:
    """Scores rounds for one target model.

    Parameters
    ----------
    target : the model that reads
    vocabulary : its input embeddings
    baselines : what replies are shown beside, at their own numbers of tokens
    config : limits and perturbations
    clock : monotonic seconds
    """

    def __init__(
        self,
        target: TargetLLM,
        vocabulary: Vocabulary,
        baselines: Sequence[BudgetedCondenser] = (),
        config: ServiceConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.vocabulary = vocabulary
        self.baselines = tuple(baselines)
        self.config = config or ServiceConfig()
        self._clock = clock

    def score(self, request: ScoreRequest, tensors: Mapping[str, Array]) -> ScoreAnswer:
        """Score a round.

        Parameters
        ----------
        request : what was asked and who answered
        tensors : reply id -> matrix, of any shape and values

        Raises
        ------
        UnknownModelError
            The round is for another target model.
        """
        start_s = self._clock()
        if request.target_model != self.target.name:
            raise UnknownModelError(
                f"this service scores for {self.target.name!r} only",
                {"served": self.target.name},
            )
        scored_round = _Round(self, request, self._codes(request.replies, tensors), tensors)
        miners = {
            miner: scored_round.miner(members)
            for miner, members in _by_miner(request.replies).items()
        }
        seconds = self._clock() - start_s
        return ScoreAnswer(target_model=self.target.name, seconds=seconds, miners=miners)

    def _codes(
        self, replies: Sequence[ReplyRef], tensors: Mapping[str, Array]
    ) -> dict[str, ReplyCode]:
        config, width = self.config, self.target.hidden_size
        codes: dict[str, ReplyCode] = {
            reply.id: check_matrix(
                tensors[reply.id], self.vocabulary, width, config.max_condensed_tokens
            )
            for reply in replies
        }
        if not config.refuse_copies:
            return codes
        good = {reply.id: tensors[reply.id] for reply in replies if codes[reply.id] == "ok"}
        return codes | dict.fromkeys(find_copies(replies, good, self.vocabulary), "copied")


class _Round:
    """One request; remembers what its contexts cost."""

    def __init__(
        self,
        service: ScoringService,
        request: ScoreRequest,
        codes: Mapping[str, ReplyCode],
        tensors: Mapping[str, Array],
    ) -> None:
        self.service = service
        self.target = service.target
        self.seed = request.seed
        self.codes = codes
        self.tensors = tensors
        self.challenges = {challenge.id: challenge for challenge in request.challenges}
        self._items: dict[str, list[Item]] = {}
        self._ends: dict[str, tuple[Losses, Losses]] = {}
        self._full_other: dict[tuple[str, str], Losses] = {}
        self._baselines: dict[tuple[str, _Pair], Score] = {}

    def miner(self, replies: Sequence[ReplyRef]) -> MinerScore:
        """Return the score of one miner, by its own replies alone."""
        good = [reply for reply in replies if self.codes[reply.id] == "ok"]
        codes = {reply.id: self._reply_score(reply) for reply in replies}
        pairs = self._swapped(good)
        kinds = self.service.config.perturbations
        scores = [
            self._judged(own, other, kinds[(position + self.seed) % len(kinds)])
            for position, (own, other) in enumerate(pairs)
        ]
        if not scores:
            return MinerScore(content_recovery=None, recovery=None, n_items=0, replies=codes)
        whole = joined(scores)
        tasks = [item.task for own, _ in pairs for item in self.challenges[own.challenge].items]
        return MinerScore(
            content_recovery=whole.content_recovery,
            recovery=whole.recovery,
            best_baseline=self._best_baseline(pairs),
            n_items=int(whole.reference.kept.sum()),
            tasks=by_task(whole, tasks),
            replies=codes,
        )

    def _reply_score(self, reply: ReplyRef) -> ReplyScore:
        tensor = self.tensors[reply.id]
        n = int(tensor.shape[0]) if tensor.ndim == 2 else None
        return ReplyScore(code=self.codes[reply.id], n_condensed=n)

    def _swapped(self, good: Sequence[ReplyRef]) -> list[tuple[ReplyRef, ReplyRef]]:
        """Pair each good reply with the reply whose tokens stand in for another document's."""
        asked = [reply for reply in good if self.challenges[reply.challenge].items]
        # By challenge, not by arrival: the order of replies must not change who is swapped.
        asked.sort(key=lambda reply: reply.challenge)
        challenges = [self.challenges[reply.challenge] for reply in asked]
        documents = [challenge.document for challenge in challenges]
        if len(set(documents)) < 2:
            return []
        sources = [challenge.source for challenge in challenges]
        others = derangement(documents, sources, self.seed)
        return [(reply, asked[other]) for reply, other in zip(asked, others, strict=True)]

    def _judged(self, own: ReplyRef, other: ReplyRef, perturbation: str) -> Score:
        """Judge one reply, in calls of its own."""
        mine, swapped = (
            perturb(self._tokens(reply), perturbation, self.seed) for reply in (own, other)
        )
        return self._score(own.challenge, other.challenge, mine, swapped)

    def _score(
        self, own: str, other: str, mine: CondensedTokens, swapped: CondensedTokens
    ) -> Score:
        items = self._items_of(own)
        n = len(items)
        found = judge(
            self.target,
            items,
            [mine] * n,
            [swapped] * n,
            self._reference(own, other),
            min_shared_rows=0,
        )
        return capped(found)

    def _measure(self, items: Sequence[Item], context: TokenIds | None) -> Losses:
        return measure(self.target, items, [context] * len(items), min_shared_rows=0)

    def _tokens(self, reply: ReplyRef) -> CondensedTokens:
        matrix = self.tensors[reply.id].astype(np.float32)
        n_context = len(self._items_of(reply.challenge)[0].context_ids)
        return CondensedTokens(matrix, self.target.name, n_context)

    def _items_of(self, challenge_id: str) -> list[Item]:
        if challenge_id not in self._items:
            challenge = self.challenges[challenge_id]
            ids = tuple(self.target.tokenize(challenge.context))
            self._items[challenge_id] = [
                as_item(self.target, challenge, ids, item) for item in challenge.items
            ]
        return self._items[challenge_id]

    def _reference(self, own: str, other: str) -> Reference:
        items = self._items_of(own)
        if own not in self._ends:
            text = TokenIds(items[0].context_ids)
            self._ends[own] = (self._measure(items, None), self._measure(items, text))
        if (own, other) not in self._full_other:
            other_text = TokenIds(self._items_of(other)[0].context_ids)
            self._full_other[own, other] = self._measure(items, other_text)
        return Reference(*self._ends[own], self._full_other[own, other])

    def _best_baseline(self, pairs: Sequence[tuple[ReplyRef, ReplyRef]]) -> BaselineScore | None:
        best: BaselineScore | None = None
        for baseline in self.service.baselines:
            whole = joined([self._baseline(baseline, own, other) for own, other in pairs])
            c = whole.content_recovery
            if c is not None and (best is None or c > best.content_recovery):
                best = BaselineScore(
                    name=baseline.name, content_recovery=c, recovery=whole.recovery
                )
        return best

    def _baseline(self, baseline: BudgetedCondenser, own: ReplyRef, other: ReplyRef) -> Score:
        n_own, n_other = (int(self.tensors[reply.id].shape[0]) for reply in (own, other))
        pair = _Pair(own.challenge, other.challenge, n_own, n_other)
        key = (baseline.name, pair)
        if key not in self._baselines:
            mine = self._condensed(baseline, pair.own, n_own)
            swapped = self._condensed(baseline, pair.other, n_other)
            self._baselines[key] = self._score(pair.own, pair.other, mine, swapped)
        return self._baselines[key]

    def _condensed(
        self, baseline: BudgetedCondenser, challenge: str, budget: int
    ) -> CondensedTokens:
        ids = self._items_of(challenge)[0].context_ids
        return baseline.condense_to([ids], [min(budget, len(ids))])[0]


def _by_miner(replies: Sequence[ReplyRef]) -> dict[str, list[ReplyRef]]:
    found: dict[str, list[ReplyRef]] = {}
    for reply in replies:
        found.setdefault(reply.miner, []).append(reply)
    return found
