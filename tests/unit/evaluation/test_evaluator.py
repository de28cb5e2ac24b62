"""Which rows an evaluation makes, at which lengths, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import FakeTarget, Head, Retrieval, Trained, items_of

from neural_condense_core.condensers.base import Condenser
from neural_condense_core.condensers.self_information import SelfInformationCondenser
from neural_condense_core.condensers.spans import SpansCondenser
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.evaluator import EvaluationConfig, Evaluator
from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.llm.hf import load_target


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
        Probe("answer", f"d{k}", "s", tuple(rng.integers(10, 200, size=12).tolist()), (20, 21), "?")
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


def test_what_is_written_depends_on_the_task() -> None:
    tasks: Any = {name: items_of(name) for name in ("answer", "reconstruction", "continuation")}
    rows = [row for row in evaluator([Trained()]).run(tasks) if row.source == "all"]
    written = {task: [row.written for row in rows if row.task == task] for task in tasks}
    assert written["answer"] == [{"n": 2, "f1": 0.0, "exact_match": 0.0}] * 3
    assert [found["n"] for found in written["reconstruction"] if found] == [2] * 3
    assert written["continuation"] == [None] * 3
    assert {row.greedy_accuracy for row in rows if row.task == "reconstruction"} == {0.0}
    assert {row.greedy_accuracy for row in rows if row.task == "answer"} == {None}
    without = evaluator([Trained()], greedy_limit=0).run(tasks)
    assert {row.greedy_accuracy for row in without} == {None}
    assert all(row.written is None for row in without)


def test_examples_tell_what_was_written_behind_each_kind_of_context() -> None:
    running = evaluator(
        [Trained()], [Head()], ratios=(2.0, 4.0), perturbations=("none", "int8"), examples=1
    )
    tasks: Any = {name: items_of(name) for name in ("answer", "continuation")}
    running.run(tasks)
    (found,) = running.examples.as_json()
    assert (found["task"], found["document"], found["gold"]) == ("answer", "d0", "gold 0")
    replies: Any = found["replies"]
    assert [(reply["condenser"], reply["ratio"]) for reply in replies] == [
        ("none", None), ("full", None), ("trained", 2.0), ("trained", 4.0),
    ]  # fmt: skip


def test_tasks_share_what_was_condensed_of_the_same_context() -> None:
    head = Head()
    answers = items_of("answer")
    again = [replace(item, question="another?") for item in answers]
    tasks: Any = {"answer": answers, "needle": again}
    rows = evaluator([head]).run(tasks)
    contexts = [item.context_ids for item in answers]
    assert sorted(ids for ids, _, _ in head.calls if ids in contexts) == contexts
    shown_rows = [row for row in rows if row.ratio and row.source == "all"]
    assert [row.task for row in shown_rows] == ["answer", "needle"]
    first, second = shown_rows
    assert (first.content_recovery, first.encode_ms) == (second.content_recovery, second.encode_ms)


def test_choices_are_ranked_behind_each_kind_of_context() -> None:
    def chosen(item: Probe) -> Probe:
        return replace(item, target_ids=item.context_ids[:1], distractors=((5,), (6,), (7,)))

    items = [chosen(item) for item in items_of("answer")]
    rows = evaluator([Head(), Trained()]).run({"counterfactual": items})
    found = {row.condenser: row.choice for row in rows if row.source == "all"}
    # the head keeps the token that is asked for, the tail loses it
    assert [found[name].accuracy for name in ("none", "full", "truncate-head", "trained")] == [  # type: ignore[union-attr]
        0.0, 1.0, 1.0, 0.0,
    ]  # fmt: skip
    head = found["truncate-head"]
    assert head is not None
    assert (head.n, head.n_choices, head.share, head.ci) == (6, 4, 1.0, (1.0, 1.0))


def test_another_dtype_reads_the_same_tokens() -> None:
    class Other(FakeTarget):
        """Knows nothing."""

        def loglikelihood(self, prompts: Any, targets: Any, *, prefix: Any) -> Any:
            found = super().loglikelihood(prompts, targets, prefix=prefix)
            return [replace(each, logprobs=each.logprobs - 1) for each in found]

    with pytest.raises(ConfigError, match="needs the target in another dtype"):
        evaluator([Head()], perturbations=("none", "dtype")).check()
    target: Any = FakeTarget()
    other: Any = Other()
    rows = Evaluator(
        target, [Head()], [], EvaluationConfig(perturbations=("none", "dtype")), elsewhere=other
    ).run({"answer": items_of("answer")})
    plain, moved = (row for row in rows if row.ratio and row.source == "all")
    assert (plain.perturbation, moved.perturbation) == ("none", "dtype")
    assert moved.loss == (plain.loss or 0) + 1
    assert moved.loss_full == (plain.loss_full or 0) + 1
    assert (plain.fall, moved.fall) == (None, 0.0)


def test_a_ratio_that_a_condenser_lacks_is_noted_and_left_out() -> None:
    running = evaluator([Trained(), Head()], ratios=(2.0, 3.0))
    rows = running.run({"answer": items_of("answer")})
    assert shown(rows)[2:] == [("trained", 2.0), ("truncate-head", 2.0), ("truncate-head", 3.0)]
    assert running.notes == ["trained does not offer ratio 3"]


def test_lengths_are_swapped_among_themselves() -> None:
    items = [
        replace(item, source="s", labels=(("length", str(n)),), context_ids=item.context_ids[:n])
        for item, n in zip(items_of("answer"), (4, 8, 4, 8, 4, 8), strict=True)
    ]
    rows = evaluator([Head()], ratios=(2.0,)).run({"needle": items})
    by_length = {row.source: row for row in rows if row.by == "length" and row.ratio}
    assert {name: row.n_context for name, row in by_length.items()} == {"4": 4.0, "8": 8.0}
    assert {name: row.bytes for name, row in by_length.items()} == {"4": 16.0, "8": 32.0}


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
