"""Standing, score and verdict of a backend, on a target model whose losses are known."""

from dataclasses import replace

import numpy as np
import pytest
from rounds import HIDDEN, FakeTarget, FakeVocabulary, challenges, row_of

from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
from neural_condense_core.constants import TIERS
from neural_condense_core.errors import BackendError, OverloadedError
from neural_condense_core.scoring.bench import Reply, assess, collect
from neural_condense_core.scoring.challenges import make_contexts
from neural_condense_core.scoring.service import ScoringService, ServiceConfig
from neural_condense_core.scoring.texts import Generated
from neural_condense_core.tokens import CondensedTokens

TIER = replace(TIERS["inference_0"], max_condensed_tokens=64)


class Head(BudgetedCondenser):
    name = "truncate-head"

    def __init__(self, target, keep=99):
        self.target, self.keep, self.budgets = target, keep, []

    @classmethod
    def load(cls, options):
        raise NotImplementedError

    def tokenize(self, context):
        return self.target.tokenize(context)

    def condense_to(self, contexts, n_condensed, *, queries=None):
        self.budgets += n_condensed
        return [as_tokens(contexts[0][: min(n_condensed[0], self.keep)])]


class Trained(Condenser):
    name = "trained"
    ratios = (2, 4)

    def __init__(self, target):
        self.target = target

    @classmethod
    def load(cls, options):
        raise NotImplementedError

    def tokenize(self, context):
        return self.target.tokenize(context)

    def condense(self, contexts, ratio, *, queries=None):
        assert ratio == 4
        return [as_tokens(contexts[0][:1])]


def as_tokens(words):
    return CondensedTokens(np.stack([row_of(i) for i in words]), "fake", 4)


def bench(keep=2, elapsed_s=1.0, spoil=None, methods=None):
    target = FakeTarget()
    asked = challenges(4)
    replies = [
        Reply(as_tokens(target.tokenize(each.context)[:keep]), elapsed_s, "ok") for each in asked
    ]
    if spoil is not None:
        replies[0] = spoil
    config = ServiceConfig(TIER.max_condensed_tokens, ("none",), refuse_copies=False)
    service = ScoringService(target, FakeVocabulary(), (), config)
    beside = {name: make(target) for name, make in (methods or {}).items()}
    return assess(service, TIER, 3, asked, replies, beside), beside


def test_a_good_backend_passes_and_its_score_is_the_validator_s():
    result, _ = bench(methods={"truncate-head": lambda target: Head(target, keep=1)})
    assert result.miner.content_recovery == pytest.approx(2 / 3)
    assert result.score == pytest.approx(2 / 3 * (1 - 0.4 * 1.0 / TIER.timeout_s))
    assert result.faults == ()
    assert [(each.name, each.kind) for each in result.standings] == [
        ("backend", "backend"), ("truncate-head", "baseline"),
    ]  # fmt: skip
    assert result.rank == 1


def test_baselines_meet_the_backend_s_numbers_of_tokens():
    _, beside = bench(keep=3, methods={"truncate-head": Head})
    assert beside["truncate-head"].budgets == [3] * 4


def test_a_backend_that_a_training_free_method_equals_falls_short():
    result, _ = bench(methods={"truncate-head": Head, "trained": Trained})
    assert any("truncate-head needs no training" in fault for fault in result.faults)
    assert [each.kind for each in result.standings] == ["backend", "baseline", "shipped"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (Reply(None, 4.0, "deadline", "too slow"), "deadline"),
        (Reply(CondensedTokens(np.ones((2, 3), np.float32), "fake", 4), 1.0, "ok"), "wrong_width"),
        (
            Reply(CondensedTokens(np.full((2, HIDDEN), 99, np.float32), "fake", 4), 1.0, "ok"),
            "norm",
        ),
    ],
)
def test_a_failed_reply_costs_its_share_and_is_named(spoil, code):
    whole, _ = bench()
    result, _ = bench(spoil=spoil, methods={"truncate-head": lambda target: Head(target, keep=1)})
    assert result.replies[0].code == code
    assert result.score == pytest.approx(whole.score * 3 / 4)
    assert f"1 of 4 replies failed: {code}" in result.faults


def test_nothing_said_scores_0():
    result, _ = bench(keep=1, spoil=None)
    nothing = [Reply(None, 1.0, "unavailable")] * 4
    target = FakeTarget()
    service = ScoringService(target, FakeVocabulary())
    found = assess(service, TIER, 1, challenges(4), nothing, {"truncate-head": Head(target)})
    assert found.score == 0.0
    assert "the expected score is 0" in found.faults
    assert result.score > 0


class Client:
    def __init__(self, *outcomes):
        self.outcomes, self.asked = list(outcomes), []

    def condense(self, context, *, max_condensed_tokens, target_model):
        self.asked.append((context, max_condensed_tokens, target_model))
        found = self.outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def test_contexts_go_out_one_by_one_after_a_warm_up():
    drafts = make_contexts(1, 3, 800, Generated())
    tokens = as_tokens([1])
    busy = OverloadedError("busy")
    odd = BackendError("odd", {"reason": "not_finite"})
    client = Client(tokens, tokens, busy, odd)
    replies = collect(client, drafts, TIER, "fake")
    assert [reply.code for reply in replies] == ["ok", "overloaded", "not_finite"]
    assert [each[0] for each in client.asked[1:]] == [draft.context for draft in drafts]
    assert {each[1:] for each in client.asked} == {(64, "fake")}
    assert len(client.asked[0][0]) <= 400


def test_a_backend_that_is_away_ends_it():
    away = BackendError("away", {"reason": "unreachable"})
    with pytest.raises(BackendError):
        collect(Client(away), make_contexts(1, 1, 800, Generated()), TIER, "fake")
