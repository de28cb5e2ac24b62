"""Which rows an evaluation makes, at which lengths, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from neural_condense_core.condensers.base import BudgetedCondenser, Condenser, LoadOptions
from neural_condense_core.condensers.self_information import SelfInformationCondenser
from neural_condense_core.condensers.spans import SpansCondenser
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.evaluator import EvaluationConfig, Evaluator
from neural_condense_core.llm.base import Likelihood, Prompt, TokenIds
from neural_condense_core.llm.hf import load_target
from neural_condense_core.scoring.judge import Item
from neural_condense_core.tokens import CondensedTokens

HIDDEN = 4


class FakeTarget:
    """Knows a target token if it stands in the prompt, as an id or in an embedding."""

    name = "fake"
    hidden_size = HIDDEN
    max_positions = 4096

    def __init__(self) -> None:
        self.scored = 0

    def tokenize(self, text: str) -> list[int]:
        return [1000 + ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        return f"<{messages[0]['content']}>"

    def prefill(self, prompt: Prompt) -> Prompt:
        return prompt

    def loglikelihood(
        self, prompts: Sequence[Prompt], targets: Sequence[Sequence[int]], *, prefix: Prompt | None
    ) -> list[Likelihood]:
        self.scored += len(prompts)
        found = []
        for prompt, target in zip(prompts, targets, strict=True):
            seen: set[int] = set()
            for part in (*(prefix or ()), *prompt):
                ids = part.ids if isinstance(part, TokenIds) else part.embeds[:, 0].round()
                seen.update(int(i) for i in ids)
            known = np.array([token in seen for token in target])
            found.append(Likelihood(np.where(known, -1.0, -3.0).astype(np.float32), known))
        return found

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        return ["x"] * len(prompts)


class Head(BudgetedCondenser):
    """Keeps the first n tokens, as rows that begin with their id."""

    def __init__(self, name: str = "truncate-head") -> None:
        self.name = name
        self.target_model = "fake"
        self.hidden_size = HIDDEN
        self.calls: list[tuple[tuple[int, ...], int, str | None]] = []

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        return cls()

    def tokenize(self, context: str) -> list[int]:
        return [ord(letter) for letter in context]

    def condense_to(
        self,
        contexts: Sequence[Sequence[int]],
        n_condensed: Sequence[int],
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        asked = queries or [None] * len(contexts)
        self.calls += [
            (tuple(ids), n, query)
            for ids, n, query in zip(contexts, n_condensed, asked, strict=True)
        ]
        return [self.rows(ids, n) for ids, n in zip(contexts, n_condensed, strict=True)]

    def rows(self, ids: Sequence[int], n: int) -> CondensedTokens:
        embeds = np.zeros((n, HIDDEN), np.float32)
        embeds[:, 0] = ids[:n]
        return CondensedTokens(embeds, "fake", len(ids))


class Retrieval(Head):
    query_aware: ClassVar[bool] = True


class Trained(Condenser):
    """Keeps the last tokens, ``extra`` more of them than the ratio says."""

    ratios = (2, 4)

    def __init__(self, name: str = "trained", extra: int = 0, lies: bool = False) -> None:
        self.name = name
        self.target_model = "fake"
        self.hidden_size = HIDDEN
        self.extra = extra
        self.lies = lies

    load = Head.load
    tokenize = Head.tokenize

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        return super().n_condensed_tokens(n_context_tokens, ratio) + self.extra

    def condense(
        self, contexts: Sequence[Sequence[int]], ratio: float, *, queries: Any = None
    ) -> list[CondensedTokens]:
        found = []
        for ids in contexts:
            n = self.n_condensed_tokens(len(ids), ratio) + self.lies
            embeds = np.zeros((n, HIDDEN), np.float32)
            embeds[:, 0] = [*ids, *ids][-n:]
            positions = np.arange(n, dtype=np.int64)
            found.append(CondensedTokens(embeds, "fake", len(ids), positions))
        return found


def items_of(task: Any, n: int = 6) -> list[Item]:
    """Contexts of 8 to 13 tokens of their own; the targets are their first and their last."""
    found = []
    for k in range(n):
        ids = tuple(range(100 * (k + 1), 100 * (k + 1) + 8 + k))
        target = ids if task == "reconstruction" else (ids[0], ids[-1])
        extra: dict[str, Any] = {"question": f"q{k}"} if task == "answer" else {}
        if task == "continuation":
            extra = {"bridge_ids": (ord("b"), ord("0") + k)}
        found.append(Item(task, f"d{k}", f"s{k % 2}", ids, target, **extra))
    return found


def evaluator(
    condensers: Sequence[Condenser], baselines: Sequence[Any] = (), **config: Any
) -> Evaluator:
    target: Any = FakeTarget()
    return Evaluator(
        target, condensers, baselines, EvaluationConfig(**{"greedy_limit": 2} | config)
    )


def shown(rows: Sequence[Any]) -> list[tuple[str, float | None]]:
    return [(row.condenser, row.ratio) for row in rows if row.source == "all"]


def test_rows_of_one_task() -> None:
    rows = evaluator([Trained()], [Head()], ratios=(4.0, 2.0)).run({"answer": items_of("answer")})
    assert shown(rows) == [
        ("none", None),
        ("full", None),
        ("trained", 4.0),
        ("truncate-head", 4.0),
        ("trained", 2.0),
        ("truncate-head", 2.0),
    ]
    by_name = {row.condenser: row for row in rows if row.source == "all"}
    assert (by_name["none"].recovery, by_name["none"].content_recovery) == (0.0, 0.0)
    assert (by_name["full"].recovery, by_name["full"].content_recovery) == (1.0, 1.0)
    assert by_name["full"].ci == (1.0, 1.0)
    # one of the two target tokens is kept by either end
    assert by_name["trained"].recovery == 0.5
    assert by_name["truncate-head"].content_recovery == 0.5
    assert by_name["truncate-head"].encode_ms is not None
    assert by_name["none"].encode_ms is None
    assert Counter(row.source for row in rows) == {"all": 6, "s0": 6, "s1": 6}


def test_baselines_get_the_compared_condensers_exact_length() -> None:
    head = Head()
    items = items_of("answer")
    rows = evaluator([Trained(extra=1)], [head]).run({"answer": items})
    wanted = {item.context_ids: -(-len(item.context_ids) // 4) + 1 for item in items}
    assert {ids: n for ids, n, _ in head.calls if ids in wanted} == wanted
    trained, baseline = (row for row in rows if row.ratio and row.source == "all")
    assert trained.budgets == baseline.budgets == tuple(wanted.values())
    assert trained.n_condensed == sum(wanted.values()) / len(wanted)


def test_baselines_are_shared_by_condensers_of_equal_length_only() -> None:
    three = [Trained("a"), Trained("b"), Trained("c", extra=1)]
    rows = evaluator(three, [Head()]).run({"answer": items_of("answer")})
    assert shown(rows)[2:] == [
        ("a", 4.0), ("truncate-head", 4.0), ("b", 4.0), ("c", 4.0), ("truncate-head", 4.0),
    ]  # fmt: skip


def test_a_compared_baseline_appears_once() -> None:
    rows = evaluator([Head()], [Head()]).run({"answer": items_of("answer")})
    assert shown(rows)[2:] == [("truncate-head", 4.0)]


def test_a_baseline_never_gets_more_tokens_than_the_context_has() -> None:
    head = Head()
    evaluator([Trained(extra=11)], [head]).run({"answer": items_of("answer")})
    assert all(n == len(ids) for ids, n, _ in head.calls)


def test_each_context_is_condensed_once_besides_timing() -> None:
    head = Head()
    items = items_of("answer", n=20)
    evaluator([head]).run({"answer": items})
    contexts = [item.context_ids for item in items]
    condensed = [ids for ids, _, _ in head.calls if ids in contexts]
    assert sorted(condensed) == contexts
    # the clock runs on documents of the same tokens that no method has seen
    timed = [ids for ids, _, _ in head.calls if ids not in contexts]
    assert len(timed) == len(set(timed)) == 2 * len(range(0, 20, 20 // 8))
    assert {tuple(sorted(ids)) for ids in timed} <= set(contexts)


def test_no_method_is_timed_on_what_another_one_has_kept(tiny_llama: str) -> None:
    target = load_target(tiny_llama, "cpu", "float32")
    passes: list[int] = []

    class Counting:
        """The target, its passes for surprisal counted."""

        def __getattr__(self, name: str) -> Any:
            return getattr(target, name)

        def surprisal(self, batch: Sequence[Sequence[int]]) -> Any:
            passes.append(len(batch))
            return target.surprisal(batch)

    counting: Any = Counting()
    rng = np.random.default_rng(0)
    items = [
        Item("answer", f"d{k}", "s", tuple(rng.integers(10, 200, size=12).tolist()), (20, 21), "?")
        for k in range(10)
    ]
    rows = Evaluator(
        counting,
        [SelfInformationCondenser(counting)],
        [SpansCondenser(counting), SelfInformationCondenser(counting)],
        EvaluationConfig(ratios=(2.0, 3.0, 4.0)),
        clock=lambda: float(len(passes)),  # a second a pass
    ).run({"answer": items})
    timed = [(row.condenser, row.ratio, row.encode_ms) for row in rows if row.ratio]
    assert timed == [
        (name, ratio, 1000.0) for ratio in (2.0, 3.0, 4.0) for name in ("self-information", "spans")
    ]


def test_query_aware_methods_condense_the_other_document_for_the_same_query() -> None:
    retrieval = Retrieval("sentence-retrieval")
    items = items_of("answer")
    rows = evaluator([Trained()], [retrieval]).run({"answer": items})
    contexts_of: dict[str, set[tuple[int, ...]]] = {}
    known = {item.context_ids for item in items}
    for ids, _, query in retrieval.calls:
        if ids in known:
            contexts_of.setdefault(str(query), set()).add(ids)
    assert sorted(contexts_of) == [item.question for item in items]
    for item in items:
        assert item.context_ids in contexts_of[item.question]
        assert len(contexts_of[item.question]) == 2
    assert [row.query_aware for row in rows if row.condenser == "sentence-retrieval"] == [True] * 3


def test_queries_of_a_continuation_are_the_bridge_and_reconstruction_has_none() -> None:
    retrieval = Retrieval("sentence-retrieval")
    tasks: Any = {name: items_of(name) for name in ("continuation", "reconstruction")}
    rows = evaluator([Trained()], [retrieval]).run(tasks)
    assert {query for _, _, query in retrieval.calls} == {f"b{k}" for k in range(6)}
    assert {row.task for row in rows if row.condenser == "sentence-retrieval"} == {"continuation"}


def test_greedy_accuracy_is_for_reconstruction_only() -> None:
    tasks: Any = {name: items_of(name) for name in ("answer", "reconstruction")}
    rows = [row for row in evaluator([Trained()]).run(tasks) if row.source == "all"]
    assert [row.greedy_accuracy for row in rows if row.task == "answer"] == [None] * 3
    assert [row.greedy_accuracy for row in rows if row.task == "reconstruction"] == [0.0] * 3
    without = evaluator([Trained()], greedy_limit=0).run({
        "reconstruction": tasks["reconstruction"]
    })
    assert {row.greedy_accuracy for row in without} == {None}


def test_variants_of_positions_and_perturbations() -> None:
    rows = evaluator(
        [Trained(), Head()], positions=("plain", "explicit"), perturbations=("none", "int8")
    ).run({"answer": items_of("answer")})
    found = [
        (row.condenser, row.positions, row.perturbation)
        for row in rows
        if row.ratio and row.source == "all"
    ]
    # the head says nothing about positions, so it has no row with explicit ones
    assert found == [
        ("trained", "plain", "none"),
        ("trained", "plain", "int8"),
        ("trained", "explicit", "none"),
        ("trained", "explicit", "int8"),
        ("truncate-head", "plain", "none"),
        ("truncate-head", "plain", "int8"),
    ]


def test_none_and_full_are_measured_once_a_task() -> None:
    running = evaluator([Head("a"), Head("b")], ratios=(2.0, 4.0))
    running.run({"answer": items_of("answer")})
    target: Any = running.target
    assert target.scored == 6 * 3 + 2 * 2 * 6 * 2


def test_progress_reaches_the_announced_total() -> None:
    told: list[tuple[int, int]] = []
    target: Any = FakeTarget()
    Evaluator(
        target,
        [Trained("a"), Trained("b")],
        [Head(), Retrieval("sentence-retrieval")],
        EvaluationConfig(ratios=(2.0, 4.0)),
        progress=lambda label, done, total: told.append((done, total)),
    ).run({"answer": items_of("answer"), "reconstruction": items_of("reconstruction")})
    assert [done for done, _ in told] == list(range(1, 27))
    assert {total for _, total in told} == {26}


def test_same_seed_same_rows() -> None:
    def run(seed: int) -> list[dict[str, object]]:
        rows = evaluator([Trained()], seed=seed).run({"answer": items_of("answer")})
        return [row.as_json() | {"encode_ms": None} for row in rows]

    assert run(3) == run(3)


def test_what_cannot_be_compared_is_refused() -> None:
    tasks: Any = {"answer": items_of("answer")}
    with pytest.raises(ConfigError, match="does not offer ratio 3; it offers 2, 4"):
        evaluator([Trained()], ratios=(3.0,)).run(tasks)
    stranger = Trained()
    stranger.target_model = "another"
    with pytest.raises(ConfigError, match="condenses for 'another'"):
        evaluator([stranger]).run(tasks)
    with pytest.raises(ConfigError, match="made 3 condensed tokens of 8 at ratio 4 and promised 2"):
        evaluator([Trained(lies=True)]).run(tasks)


def test_names_that_stand_for_two_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="two condensers are called 'a'"):
        evaluator([Trained("a"), Trained("b"), Trained("a")]).check()
    for name in ("truncate-head", "spans", "sentence-retrieval", "none", "full"):
        with pytest.raises(ConfigError, match=f"a trained condenser is called '{name}'"):
            evaluator([Trained(name)], [Head()]).check()
    with pytest.raises(ConfigError, match="called 'sentence-retrieval'"):
        evaluator([Head("sentence-retrieval")], [Retrieval("sentence-retrieval")]).check()
    evaluator([Head(), Trained()], [Head()]).check()
