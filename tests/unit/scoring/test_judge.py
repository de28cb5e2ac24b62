"""The judge on a tiny random model, and on a fake one whose losses are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from neural_condense_core.llm.base import Embeds, Likelihood, Prompt, Segment, TokenIds
from neural_condense_core.llm.hf import load_target
from neural_condense_core.scoring.judge import (
    MIN_GAP,
    Item,
    judge,
    measure,
    measure_reference,
    prompt_for,
)
from neural_condense_core.tokens import CondensedTokens

HIDDEN = 4


@dataclass
class FakeTarget:
    """Loses 2 nats a target token less for each of them that stands in the context."""

    name: str = "fake"
    hidden_size: int = HIDDEN
    max_positions: int = 4096
    prefilled: list[Prompt] = field(default_factory=list)

    def tokenize(self, text: str) -> list[int]:
        return [1000 + ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i - 1000) for i in ids)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        return f"<{messages[0]['content']}>"

    def prefill(self, prompt: Prompt) -> int:
        self.prefilled.append(prompt)
        return len(self.prefilled) - 1

    def loglikelihood(
        self, prompts: Sequence[Prompt], targets: Sequence[Sequence[int]], *, prefix: int | None
    ) -> list[Likelihood]:
        shared = () if prefix is None else self.prefilled[prefix]
        return [self._one((*shared, *p), t) for p, t in zip(prompts, targets, strict=True)]

    def _one(self, prompt: Prompt, target: Sequence[int]) -> Likelihood:
        seen: set[int] = set()
        for segment in prompt:
            if isinstance(segment, TokenIds):
                seen.update(segment.ids)
            else:
                seen.update(int(value) for value in segment.embeds[:, 0])
        known = np.array([token in seen for token in target])
        return Likelihood(np.where(known, -1.0, -3.0).astype(np.float32), known)


def item(document: str, context: Sequence[int], target: Sequence[int], **extra: object) -> Item:
    found = {"task": "answer", "source": "s", "question": "?"} | extra
    return Item(document=document, context_ids=tuple(context), target_ids=tuple(target), **found)


def condensed(*ids: int) -> CondensedTokens:
    embeds = np.zeros((len(ids), HIDDEN), np.float32)
    embeds[:, 0] = ids
    return CondensedTokens(embeds, "fake", 10)


ITEMS = [item("a", [1, 2, 3], [1, 2]), item("b", [4, 5, 6], [4, 5])]
OTHERS = [[4, 5, 6], [1, 2, 3]]


def test_reference() -> None:
    reference = measure_reference(FakeTarget(), ITEMS, OTHERS)
    assert reference.none.nats.tolist() == [6, 6]
    assert reference.full.nats.tolist() == [2, 2]
    assert reference.full_other.nats.tolist() == [6, 6]
    assert reference.none.n_tokens.tolist() == [2, 2]
    assert reference.full.n_correct.tolist() == [2, 2]
    assert reference.kept.tolist() == [True, True]
    assert reference.full.per_token(reference.kept) == 1
    assert reference.full.accuracy(reference.kept) == 1


@pytest.mark.parametrize(
    ("own", "other", "r", "c"),
    [
        ([condensed(1, 2), condensed(4, 5)], [condensed(4, 5), condensed(1, 2)], 1.0, 1.0),
        ([condensed(1), condensed(4)], [condensed(4), condensed(1)], 0.5, 0.5),
        ([condensed(9), condensed(9)], [condensed(9), condensed(9)], 0.0, 0.0),
        # tokens that fit every document recover everything and say nothing about theirs
        ([condensed(1, 2, 4, 5)] * 2, [condensed(1, 2, 4, 5)] * 2, 1.0, 0.0),
    ],
)
def test_judge(own, other, r, c) -> None:
    target = FakeTarget()
    found = judge(target, ITEMS, own, other, measure_reference(target, ITEMS, OTHERS))
    assert found.recovery == r
    assert found.content_recovery == c


def test_items_without_a_gap_are_dropped_before_looking() -> None:
    items = [*ITEMS, item("c", [7, 8, 9], [20, 21])]  # the full text does not help
    target = FakeTarget()
    reference = measure_reference(target, items, [*OTHERS, [1, 2, 3]])
    assert reference.kept.tolist() == [True, True, False]
    good, bad = condensed(1, 2), condensed(4, 5)
    poisoned = condensed(20, 21)
    found = judge(target, items, [good, bad, poisoned], [bad, good, good], reference)
    assert found.recovery == 1.0
    assert found.content_recovery == 1.0


def test_nothing_left_is_none_not_nan() -> None:
    items = [item("a", [1], [20]), item("b", [2], [21])]
    target = FakeTarget()
    reference = measure_reference(target, items, [[2], [1]])
    found = judge(target, items, [condensed(1)] * 2, [condensed(2)] * 2, reference)
    assert found.recovery is None
    assert found.content_recovery is None
    assert found.interval_over(reference.kept, ["a", "b"], 0) is None


def test_the_gap_is_per_token() -> None:
    target = FakeTarget()
    long = item("a", [1], [1, *range(30, 49)])  # 2 nats in 20 tokens: exactly MIN_GAP
    longer = item("b", [2], [2, *range(30, 50)])
    reference = measure_reference(target, [long, longer], [[2], [1]])
    assert pytest.approx(0.1) == MIN_GAP
    assert reference.kept.tolist() == [True, False]


def test_judge_refuses_what_does_not_fit() -> None:
    target = FakeTarget()
    reference = measure_reference(target, ITEMS, OTHERS)
    with pytest.raises(ValueError, match="2 items"):
        judge(target, ITEMS, [condensed(1)], [condensed(1)], reference)
    wide = CondensedTokens(np.zeros((1, HIDDEN + 1), np.float32), "fake", 10)
    with pytest.raises(ValueError, match="4 wide"):
        judge(target, ITEMS, [wide] * 2, [wide] * 2, reference)


def test_a_context_of_many_items_is_computed_once() -> None:
    target = FakeTarget()
    context = list(range(1, 300))
    items = [item("a", context, [k], question=f"{k}?") for k in range(1, 5)]
    text: list[Segment | None] = [TokenIds(tuple(context))] * 4
    losses = measure(target, items, text)
    assert losses.nats.tolist() == [1, 1, 1, 1]
    assert [prompt[-1] for prompt in target.prefilled] == [TokenIds(tuple(context))]
    same = condensed(*range(1, 300))
    target.prefilled.clear()
    measure(target, items, [Embeds(same.embeds) for _ in items])
    assert [len(prompt[-1]) for prompt in target.prefilled] == [299]


def test_measure_equals_scoring_one_by_one(tiny_llama: str) -> None:
    target = load_target(tiny_llama, "cpu", "float32")
    rng = np.random.default_rng(0)
    text = rng.integers(10, 200, size=400).tolist()
    items = [
        item("a", text[:300], text[5:9], question="one?"),
        item("a", text[:300], text[9:20], question="two or three?"),
        item("a", text[:300], text[20:22], question="three?"),
        item("b", text[300:320], text[301:306], task="continuation", bridge_ids=(7, 8, 9)),
        item("b", text[300:330], text[300:330], task="reconstruction"),
    ]
    contexts: list[Segment | None] = [TokenIds(i.context_ids) for i in items]
    contexts[3] = Embeds(target.embed(text[300:320]))
    together = measure(target, items, contexts)
    for k, (each, context) in enumerate(zip(items, contexts, strict=True)):
        alone = target.loglikelihood([prompt_for(target, each, context)], [each.target_ids])[0]
        assert together.nats[k] == pytest.approx(alone.loss, abs=1e-3)
        assert together.n_tokens[k] == len(each.target_ids)


def test_plain_embeddings_are_worth_the_full_text(tiny_llama: str) -> None:
    target = load_target(tiny_llama, "cpu", "float32")
    texts = [target.tokenize(text) for text in ("a river, a stone", "copper and thunder")]
    items = [item(name, ids, ids[:6]) for name, ids in zip("ab", texts, strict=True)]
    own = [CondensedTokens(target.embed(ids), target.name, len(ids)) for ids in texts]
    reference = measure_reference(target, items, texts[::-1])
    found = judge(target, items, own, own[::-1], reference)
    np.testing.assert_allclose(found.own.nats, reference.full.nats, atol=1e-3)
    np.testing.assert_allclose(found.other.nats, reference.full_other.nats, atol=1e-3)
