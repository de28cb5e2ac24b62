"""The tasks of an evaluation, and which items a command line asks for.

Where it sits: between the files (``data.py``) and the evaluation; what it makes are ``Probe``s,
the judge's items with choices and labels.

Design decisions

* Deterministic by seed and file: the same command asks the same things.
* *continuation* puts a bridge between context and target, which every variant sees as text:
  without it the last words of the context alone (``truncate-tail``) win by fluency.
* *answer* contexts are never cut: those that are too short or too long are left out, since a cut
  text may no longer hold the answer.
* *cloze* asks about the contexts of *continuation*, *recall* about those of *reconstruction*: what
  was condensed for one serves the other.
* *needle* and *counterfactual* are generated and need no file.
* Without a choice of tasks the quick ones run: *continuation* and *answer*, as the files allow, or
  *counterfactual* without any file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.cloze import cloze_probes, recall_probes
from neural_condense_core.evaluation.counterfactuals import counterfactual_probes
from neural_condense_core.evaluation.data import (
    Passage,
    Question,
    load_prose,
    load_qa,
    passages_of,
)
from neural_condense_core.evaluation.needles import DEPTHS, LENGTHS, needle_probes
from neural_condense_core.evaluation.probes import Probe, TaskName
from neural_condense_core.evaluation.windows import grouped, shuffled, turns, windows
from neural_condense_core.llm.base import TargetLLM

TASKS: tuple[TaskName, ...] = (
    "continuation",
    "answer",
    "cloze",
    "reconstruction",
    "recall",
    "needle",
    "counterfactual",
)
QUICK_TASKS: tuple[TaskName, ...] = ("continuation", "answer")
GENERATED_TASKS: tuple[TaskName, ...] = ("needle", "counterfactual")

CONTEXT_TOKENS = 256
BRIDGE_TOKENS = 32
TARGET_TOKENS = 64
RECONSTRUCTION_TOKENS = 128
MIN_ANSWER_CONTEXT = 64
MAX_ANSWER_CONTEXT = 512
MAX_ANSWER_TOKENS = 64

PROMPT_ROOM = 256
"""Positions that a chat around a context, its bridge and its target take at most."""


def continuation_items(
    target: TargetLLM,
    passages: Sequence[Passage],
    limit: int,
    seed: int,
    lengths: Sequence[int] = (CONTEXT_TOKENS,),
) -> list[Probe]:
    """Return at most ``limit`` items: context, bridge, and the text that follows.

    Parameters
    ----------
    lengths : tokens of a context; of several, each takes its turn
    """

    def stream(n_context: int) -> Iterator[Probe]:
        bridge_end = n_context + BRIDGE_TOKENS
        for passage, ids in windows(target, passages, bridge_end + TARGET_TOKENS, seed):
            yield Probe(
                "continuation",
                passage.document,
                passage.source,
                ids[:n_context],
                ids[bridge_end:],
                bridge_ids=ids[n_context:bridge_end],
                labels=(("length", str(n_context)),) if len(lengths) > 1 else (),
            )

    return list(islice(turns(map(stream, lengths)), limit))


def reconstruction_items(
    target: TargetLLM, passages: Sequence[Passage], limit: int, seed: int
) -> list[Probe]:
    """Return at most ``limit`` items whose target is the context itself."""
    return [
        Probe("reconstruction", passage.document, passage.source, ids, ids)
        for passage, ids in islice(windows(target, passages, RECONSTRUCTION_TOKENS, seed), limit)
    ]


def answer_items(
    target: TargetLLM, questions: Sequence[Question], limit: int, seed: int
) -> list[Probe]:
    """Return at most ``limit`` items whose target is the gold answer.

    Contexts of less than ``MIN_ANSWER_CONTEXT`` or more than ``MAX_ANSWER_CONTEXT`` tokens are
    left out.
    """
    tokenized: dict[str, tuple[int, ...]] = {}

    def stream(question: Question) -> Iterator[Probe]:
        text = question.context
        if text not in tokenized:
            tokenized[text] = tuple(target.tokenize(text))
        answer = tuple(target.tokenize(question.answer))
        fits = MIN_ANSWER_CONTEXT <= len(tokenized[text]) <= MAX_ANSWER_CONTEXT
        if fits and 0 < len(answer) <= MAX_ANSWER_TOKENS:
            yield Probe(
                "answer",
                question.document,
                question.source,
                tokenized[text],
                answer,
                question=question.question,
                golds=question.answers or (question.answer,),
            )

    def of_document(members: list[Question]) -> Iterator[Probe]:
        by_context = grouped(members, lambda question: question.context).values()
        return turns(chain.from_iterable(map(stream, same)) for same in by_context)

    def of_source(members: list[Question]) -> Iterator[Probe]:
        by_document = grouped(members, lambda question: question.document)
        return turns(map(of_document, by_document.values()))

    by_source = grouped(shuffled(questions, seed), lambda question: question.source)
    return list(islice(turns(of_source(by_source[name]) for name in sorted(by_source)), limit))


@dataclass(frozen=True)
class ItemsConfig:
    """Which items to make.

    Parameters
    ----------
    tasks : which; None = the quick ones that the files allow
    prose, qa : parquet files; ``continuation`` and ``cloze`` need prose, ``answer`` needs qa,
        ``reconstruction`` and ``recall`` take prose, else the contexts of qa
    limit : most items a task
    seed : same seed, same items
    lengths : context tokens of ``needle`` and ``continuation``; None = each task's own
    depths : where needles stand, as shares of the text
    """

    tasks: Sequence[TaskName] | None = None
    prose: Path | None = None
    qa: Path | None = None
    limit: int = 64
    seed: int = 0
    lengths: tuple[int, ...] | None = None
    depths: tuple[float, ...] = DEPTHS


def build_items(target: TargetLLM, config: ItemsConfig) -> dict[TaskName, list[Probe]]:
    """Read the files and build the items of each task.

    Parameters
    ----------
    target : whose tokens are counted
    config : which items

    Raises
    ------
    ConfigError
        A task's file is missing, a file holds too little for a task, or a length does not fit the
        target model.
    """
    if config.lengths and max(config.lengths) > target.max_positions - PROMPT_ROOM:
        raise ConfigError(
            f"--lengths: {max(config.lengths)} tokens and a question do not fit {target.name}, "
            f"which has {target.max_positions} positions"
        )
    makers = _makers(target, config)
    found: dict[TaskName, list[Probe]] = {}
    for task in config.tasks or _quick(makers):
        if task not in makers:
            wanted = {"answer": "--qa", "continuation": "--prose", "cloze": "--prose"}
            flag = wanted.get(task, "--prose or --qa")
            raise ConfigError(f"task {task!r} needs {flag} FILE.parquet")
        items = makers[task]()
        if len({item.document for item in items}) < 2:
            raise ConfigError(
                f"too little data for task {task!r}: it needs usable texts of at least two "
                "documents; give a larger file, a higher --limit or other --lengths"
            )
        found[task] = items
    return found


def lengths_that_fit(target: TargetLLM) -> tuple[int, ...]:
    """Return the usual lengths of needle texts that fit the target model with a question."""
    return tuple(n for n in LENGTHS if n <= target.max_positions - PROMPT_ROOM)


def _quick(makers: dict[TaskName, Callable[[], list[Probe]]]) -> list[TaskName]:
    return [task for task in QUICK_TASKS if task in makers] or ["counterfactual"]


def _makers(target: TargetLLM, config: ItemsConfig) -> dict[TaskName, Callable[[], list[Probe]]]:
    limit, seed = config.limit, config.seed
    passages = load_prose(config.prose) if config.prose else []
    questions = load_qa(config.qa) if config.qa else []
    texts = passages or passages_of(questions)
    lengths = config.lengths or (CONTEXT_TOKENS,)
    window = CONTEXT_TOKENS + BRIDGE_TOKENS + TARGET_TOKENS
    makers: dict[TaskName, Callable[[], list[Probe]]] = {
        "needle": lambda: needle_probes(
            target, config.lengths or lengths_that_fit(target), config.depths, limit, seed
        ),
        "counterfactual": lambda: counterfactual_probes(target, limit, seed),
    }
    if passages:
        makers["continuation"] = lambda: continuation_items(target, passages, limit, seed, lengths)
        makers["cloze"] = lambda: cloze_probes(
            target, windows(target, passages, window, seed), CONTEXT_TOKENS, limit, seed
        )
    if questions:
        makers["answer"] = lambda: answer_items(target, questions, limit, seed)
    if texts:
        makers["reconstruction"] = lambda: reconstruction_items(target, texts, limit, seed)
        makers["recall"] = lambda: recall_probes(
            target, windows(target, texts, RECONSTRUCTION_TOKENS, seed), limit, seed
        )
    return makers
