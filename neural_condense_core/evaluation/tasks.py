"""Evaluation items from texts and questions: continuation, answer, reconstruction.

Where it sits: between the files (``data.py``) and the evaluation; what it makes are the judge's
``Item``s.

Design decisions

* Deterministic by seed and file: the same command asks the same things.
* Items are spread: sources take turns, within a source documents do, and one document gives a
  second item only when every other one has given its first. A few long books cannot decide a
  result.
* *continuation* puts a bridge between context and target, which every variant sees as text:
  without it the last words of the context alone (``truncate-tail``) win by fluency.
* *answer* contexts are never cut: those that are too short or too long are left out, since a cut
  text may no longer hold the answer.
* Windows start at a word, and windows of one text do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.data import (
    Passage,
    Question,
    load_prose,
    load_qa,
    passages_of,
)
from neural_condense_core.llm.base import TargetLLM
from neural_condense_core.scoring.judge import Item, Task

T = TypeVar("T")

TASKS: tuple[Task, ...] = ("continuation", "answer", "reconstruction")

CONTEXT_TOKENS = 256
BRIDGE_TOKENS = 32
TARGET_TOKENS = 64
RECONSTRUCTION_TOKENS = 128
MIN_ANSWER_CONTEXT = 64
MAX_ANSWER_CONTEXT = 512
MAX_ANSWER_TOKENS = 64
MAX_WINDOWS_PER_DOCUMENT = 4

CHARS_PER_TOKEN = 8
"""More characters than a token of running text has; windows are tokenised from so many."""


def continuation_items(
    target: TargetLLM, passages: Sequence[Passage], limit: int, seed: int
) -> list[Item]:
    """Return at most ``limit`` items: context, bridge, and the text that follows."""
    bridge_end = CONTEXT_TOKENS + BRIDGE_TOKENS
    return [
        Item(
            "continuation",
            passage.document,
            passage.source,
            ids[:CONTEXT_TOKENS],
            ids[bridge_end:],
            bridge_ids=ids[CONTEXT_TOKENS:bridge_end],
        )
        for passage, ids in _windows(target, passages, bridge_end + TARGET_TOKENS, limit, seed)
    ]


def reconstruction_items(
    target: TargetLLM, passages: Sequence[Passage], limit: int, seed: int
) -> list[Item]:
    """Return at most ``limit`` items whose target is the context itself."""
    return [
        Item("reconstruction", passage.document, passage.source, ids, ids)
        for passage, ids in _windows(target, passages, RECONSTRUCTION_TOKENS, limit, seed)
    ]


def answer_items(
    target: TargetLLM, questions: Sequence[Question], limit: int, seed: int
) -> list[Item]:
    """Return at most ``limit`` items whose target is the gold answer.

    Contexts of less than ``MIN_ANSWER_CONTEXT`` or more than ``MAX_ANSWER_CONTEXT`` tokens are
    left out.
    """
    tokenized: dict[str, tuple[int, ...]] = {}

    def stream(question: Question) -> Iterator[Item]:
        text = question.context
        if text not in tokenized:
            tokenized[text] = tuple(target.tokenize(text))
        answer = tuple(target.tokenize(question.answer))
        fits = MIN_ANSWER_CONTEXT <= len(tokenized[text]) <= MAX_ANSWER_CONTEXT
        if fits and 0 < len(answer) <= MAX_ANSWER_TOKENS:
            yield Item(
                "answer",
                question.document,
                question.source,
                tokenized[text],
                answer,
                question=question.question,
            )

    def of_document(members: list[Question]) -> Iterator[Item]:
        by_context = _grouped(members, lambda question: question.context).values()
        return _turns(chain.from_iterable(map(stream, same)) for same in by_context)

    def of_source(members: list[Question]) -> Iterator[Item]:
        by_document = _grouped(members, lambda question: question.document)
        return _turns(map(of_document, by_document.values()))

    shuffled = _shuffled(questions, seed)
    by_source = _grouped(shuffled, lambda question: question.source)
    return list(islice(_turns(of_source(by_source[name]) for name in sorted(by_source)), limit))


def build_items(
    target: TargetLLM,
    tasks: Sequence[Task] | None,
    prose: Path | None,
    qa: Path | None,
    *,
    limit: int,
    seed: int,
) -> dict[Task, list[Item]]:
    """Read the files and build the items of each task.

    Parameters
    ----------
    target : whose tokens are counted
    tasks : which; None = all that the files allow
    prose, qa : parquet files; ``continuation`` needs prose, ``answer`` needs qa,
        ``reconstruction`` takes prose, else the contexts of qa
    limit : most items a task
    seed : same seed, same items

    Raises
    ------
    ConfigError
        No file is given, a task's file is missing, or a file holds too little for a task.
    """
    if prose is None and qa is None:
        raise ConfigError("give --prose FILE.parquet, --qa FILE.parquet or both")
    passages = load_prose(prose) if prose else []
    questions = load_qa(qa) if qa else []
    makers: dict[Task, Callable[[], list[Item]]] = {}
    if passages:
        makers["continuation"] = lambda: continuation_items(target, passages, limit, seed)
    if questions:
        makers["answer"] = lambda: answer_items(target, questions, limit, seed)
    texts = passages or passages_of(questions)
    makers["reconstruction"] = lambda: reconstruction_items(target, texts, limit, seed)
    found = {}
    for task in tasks or [task for task in TASKS if task in makers]:
        if task not in makers:
            wanted = "--prose" if task == "continuation" else "--qa"
            raise ConfigError(f"task {task!r} needs {wanted} FILE.parquet")
        items = makers[task]()
        if len({item.document for item in items}) < 2:
            raise ConfigError(
                f"too little data for task {task!r}: it needs usable texts of at least two "
                "documents; give a larger file or a higher --limit"
            )
        found[task] = items
    return found


def _windows(
    target: TargetLLM, passages: Sequence[Passage], n_tokens: int, limit: int, seed: int
) -> list[tuple[Passage, tuple[int, ...]]]:
    """Cut at most ``limit`` windows of exactly ``n_tokens``; sources and documents take turns."""

    def of_passage(passage: Passage) -> Iterator[tuple[Passage, tuple[int, ...]]]:
        slot = n_tokens * CHARS_PER_TOKEN
        n_slots = max(1, len(passage.text) // slot)
        for k in np.random.default_rng([seed, len(passage.text)]).permutation(n_slots):
            ids = target.tokenize(_from_a_word(passage.text, int(k) * slot, slot))
            if len(ids) >= n_tokens:
                yield passage, tuple(ids[:n_tokens])

    def of_document(members: list[Passage]) -> Iterator[tuple[Passage, tuple[int, ...]]]:
        return islice(_turns(map(of_passage, members)), MAX_WINDOWS_PER_DOCUMENT)

    def of_source(members: list[Passage]) -> Iterator[tuple[Passage, tuple[int, ...]]]:
        by_document = _grouped(members, lambda passage: passage.document)
        return _turns(map(of_document, by_document.values()))

    by_source = _grouped(_shuffled(passages, seed), lambda passage: passage.source)
    return list(islice(_turns(of_source(by_source[name]) for name in sorted(by_source)), limit))


def _from_a_word(text: str, start: int, n_chars: int) -> str:
    """Return up to ``n_chars`` characters from ``start`` on, a word that is cut off left out."""
    piece = text[start : start + n_chars]
    if start:
        _, _, piece = piece.partition(" ")
    return piece.lstrip()


def _turns(streams: Iterable[Iterator[T]]) -> Iterator[T]:
    """Yield one of each stream in turn until all are empty."""
    left = list(streams)
    while left:
        remaining = []
        for stream in left:
            for value in islice(stream, 1):
                yield value
                remaining.append(stream)
        left = remaining


def _grouped(values: Sequence[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for value in values:
        found.setdefault(key(value), []).append(value)
    return found


def _shuffled(values: Sequence[T], seed: int) -> list[T]:
    return [values[i] for i in np.random.default_rng(seed).permutation(len(values))]
