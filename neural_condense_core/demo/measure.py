"""What the demo measures: condensed tokens over HTTP, beside baselines, judged and asked.

Design decisions

* Each method condenses two texts, the document and its neighbour, since content recovery C compares
  the two (``scoring/judge.py``). Both R and C are taken on the answers to the questions asked.
* Every baseline gets exactly as many tokens as a backend used, for both texts.
* A time is the median of ``REPEATS`` runs after one that is not counted: the first run of a shape
  pays for loading kernels. Baselines are not timed: they share passes over the text that are kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from neural_condense_core.client.backend import BackendClient
from neural_condense_core.condensers.base import BudgetedCondenser, Condenser
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.demo.document import Document, Question
from neural_condense_core.llm.base import Segment, TargetLLM, TokenIds, as_segment
from neural_condense_core.llm.prompt import answer_prompt
from neural_condense_core.scoring.judge import Item, judge, measure_reference
from neural_condense_core.tokens import CondensedTokens

NONE, FULL = "none", "full"
REPEATS = 3
ROOM_FOR_QUESTION = 512
"""Positions that a chat needs beside the context: template, question and answer."""


@dataclass(frozen=True, eq=False)
class Variant:
    """The two texts as one method condensed them.

    Parameters
    ----------
    name : of the method, or of the backend
    own : the document
    other : its neighbour
    ms : milliseconds for the document, the way over HTTP included; None for a baseline
    url : of the backend; None for a baseline
    """

    name: str
    own: CondensedTokens
    other: CondensedTokens
    ms: float | None = None
    url: str | None = None


def median_ms(run: Callable[[], CondensedTokens]) -> tuple[CondensedTokens, float]:
    """Return what ``run`` returns and its median time in milliseconds."""
    found = run()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        found = run()
        times.append((time.perf_counter() - started) * 1e3)
    return found, statistics.median(times)


def condense_over_http(
    name: str, url: str, document: Document, other: Document, ratio: float, timeout_s: float
) -> Variant:
    """Have a backend condense both texts.

    Parameters
    ----------
    name : of the backend
    url : where it listens
    document, other : the texts
    ratio : compression ratio to ask for
    timeout_s : seconds a request may take
    """
    with BackendClient(url, timeout_s=timeout_s) as client:
        own, ms = median_ms(lambda: client.condense(document.text, ratio=ratio))
        return Variant(name, own, client.condense(other.text, ratio=ratio), ms, url)


def faults(variant: Variant, target: TargetLLM, document: Document) -> list[str]:
    """Return what is wrong with a backend's matrix for the document; nothing, if it is valid.

    That it is a finite matrix with at least one row was checked when it was read.
    """
    tokens, found = variant.own, []
    n_context = len(target.tokenize(document.text))
    if tokens.hidden_size != target.hidden_size:
        found.append(f"{tokens.hidden_size} wide, but {target.name} takes {target.hidden_size}")
    if tokens.n_context_tokens != n_context:
        found.append(f"says {tokens.n_context_tokens} context tokens, there are {n_context}")
    if tokens.n_condensed_tokens >= n_context:
        found.append(f"{tokens.n_condensed_tokens} tokens are no fewer than the text's {n_context}")
    return found


def baseline_variants(
    target: TargetLLM, document: Document, other: Document, beside: Sequence[Variant]
) -> list[Variant]:
    """Condense both texts by every baseline, at each number of tokens that a backend used.

    Parameters
    ----------
    target : the model that reads them
    document, other : the texts
    beside : what the backends made

    Returns
    -------
    one a baseline and number of tokens; named ``NAME@N`` where the backends used several numbers
    """
    budgets = sorted({
        (each.own.n_condensed_tokens, each.other.n_condensed_tokens) for each in beside
    })
    ids, other_ids = target.tokenize(document.text), target.tokenize(other.text)
    found = []
    for name in BASELINES:
        condenser = load_condenser(name, target.name)
        for n_own, n_other in budgets:
            label = name if len(budgets) == 1 else f"{name}@{n_own}"
            own = _condense_to(condenser, ids, n_own)
            swapped = _condense_to(condenser, other_ids, min(n_other, len(other_ids)))
            found.append(Variant(label, own, swapped))
    return found


def _condense_to(condenser: Condenser, ids: Sequence[int], n_condensed: int) -> CondensedTokens:
    if not isinstance(condenser, BudgetedCondenser):
        raise TypeError(f"the baseline {condenser.name!r} cannot meet a number of tokens")
    return condenser.condense_to([ids], [n_condensed])[0]


def answer(
    target: TargetLLM, context: Segment | None, questions: Sequence[Question], max_new_tokens: int
) -> list[str]:
    """Answer all questions about one context, which is read once."""
    prompts = [answer_prompt(target, context, each.question) for each in questions]
    head = prompts[0][:-1]
    rests = [prompt[len(head) :] for prompt in prompts]
    prefix = target.prefill(head) if head else None
    return target.generate(rests, max_new_tokens, prefix=prefix)


def fill_golds(questions: Sequence[Question], from_full: Sequence[str] | None) -> list[Question]:
    """Let the full text's answers stand in for gold answers that are missing.

    Parameters
    ----------
    questions : as asked
    from_full : one answer a question; None where the full text does not fit the model, and then no
        question has a gold answer, as there is nothing to compare with
    """
    if from_full is None:
        return [replace(each, gold=None) for each in questions]
    return [
        each if each.gold else replace(each, gold=said or None)
        for each, said in zip(questions, from_full, strict=True)
    ]


class AnswerJudge:
    """Judges variants by the answers to a document's questions.

    Parameters
    ----------
    target : the model that reads
    document, other : the texts
    questions : with gold answers, those without are left out
    """

    def __init__(
        self, target: TargetLLM, document: Document, other: Document, questions: Sequence[Question]
    ) -> None:
        self._target = target
        ids = tuple(target.tokenize(document.text))
        self.items = [
            Item(
                task="answer",
                document=document.path,
                source="demo",
                context_ids=ids,
                target_ids=tuple(target.tokenize(each.gold)),
                question=each.question,
            )
            for each in questions
            if each.gold
        ]
        n = len(self.items)
        others = [tuple(target.tokenize(other.text))] * n
        self._reference = measure_reference(target, self.items, others) if n else None

    def judge(self, variant: Variant) -> tuple[float | None, float | None]:
        """Return R and C of a variant.

        Returns
        -------
        each None where the full text does not help, or nothing is known to compare with
        """
        if self._reference is None:
            return None, None
        n = len(self.items)
        score = judge(
            self._target, self.items, [variant.own] * n, [variant.other] * n, self._reference
        )
        return score.recovery, score.content_recovery


def forms(
    target: TargetLLM, document: Document, variants: Sequence[Variant]
) -> dict[str, Segment | None]:
    """Return every form of the document: ``NONE``, ``FULL`` if it fits the model, each variant."""
    ids = tuple(target.tokenize(document.text))
    found: dict[str, Segment | None] = {NONE: None}
    if len(ids) + ROOM_FOR_QUESTION <= target.max_positions:
        found[FULL] = TokenIds(ids)
    return found | {each.name: as_segment(each.own) for each in variants}
