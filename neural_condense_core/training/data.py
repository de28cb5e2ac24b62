"""Text and questions for training, drawn so that a step depends on (seed, step) alone.

Where it sits: between files (``packed.py``, or Parquet through ``evaluation.data``) and batches.
Any Parquet file with the right columns will do: ``source, text`` for prose, ``context, question,
answers`` for questions.

Design decisions

* Drawing is the same whether texts are tokenised when they are drawn or were packed beforehand:
  ``Questions`` asks for rows of token ids and does not care where they come from.
* A context is brought to the exact length that is asked for, since each length is a shape.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.data import read_rows
from neural_condense_core.llm.base import TargetLLM, token_ids
from neural_condense_core.llm.prompt import answer_prompt

CHARACTERS_PER_TOKEN = 8
"""More than any text here needs, so that one draw suffices."""
MAX_DRAWS = 200
SEPARATOR = "\n\n"
MAX_ANSWER_TOKENS = 16
"""Longer answers are cut."""
NOT_IN_CONTEXT = -1

PROSE_COLUMNS = {"source": "string", "text": "string"}
QA_COLUMNS = {"context": "string", "question": "string", "answers": "list<string>"}


@dataclass(frozen=True)
class TokenRow:
    """A question as token ids.

    Parameters
    ----------
    context_ids : of the whole context
    tail_ids : of the chat prompt behind the context, the question in it
    answer_ids : of the gold answer
    answer_at : where the answer begins in the context, ``NOT_IN_CONTEXT`` if it is not found there
    """

    context_ids: Sequence[int]
    tail_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    answer_at: int


@dataclass(frozen=True)
class Question:
    """A question about a context of exactly the length asked for; ids of the target model."""

    context_ids: tuple[int, ...]
    tail_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


class ProseSource(Protocol):
    """Running text to draw stretches of tokens from."""

    def draw(self, rng: random.Random, n_tokens: int) -> tuple[int, ...]:
        """Return a contiguous stretch of exactly ``n_tokens`` token ids."""


class QuestionRows(Protocol):
    """Questions as token ids, by number."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int) -> TokenRow:
        """Return one of them."""


def read_prose(path: Path) -> list[dict[str, Any]]:
    """Read ``source`` and ``text`` of a Parquet file, rows without text left out.

    Raises
    ------
    ConfigError
        No row has text.
    """
    rows = [row for row in read_rows(path, PROSE_COLUMNS) if row["text"]]
    if not rows:
        raise ConfigError(f"{path} holds no text")
    return rows


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Read the answered questions of a Parquet file; yes and no teach style, and are left out.

    Raises
    ------
    ConfigError
        No question has an answer that a text can hold.
    """
    rows = [row for row in read_rows(path, QA_COLUMNS) if _teaches_content(row)]
    if not rows:
        raise ConfigError(f"{path} holds no answered question")
    return rows


class Prose:
    """Documents whose stretches are tokenised when they are drawn.

    Parameters
    ----------
    rows : ``source`` and ``text`` each
    target : whose tokenizer to use
    source_weights : part of a ``source`` -> how much likelier its text is drawn; otherwise 1
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        target: TargetLLM,
        source_weights: Mapping[str, float],
    ) -> None:
        self._texts = [row["text"] for row in rows]
        weights = [len(row["text"]) * weight_of(row["source"], source_weights) for row in rows]
        self._cumulative = list(itertools.accumulate(weights))
        self._target = target

    def draw(self, rng: random.Random, n_tokens: int) -> tuple[int, ...]:
        """Return a contiguous stretch of exactly ``n_tokens`` token ids.

        Raises
        ------
        ConfigError
            No document in ``MAX_DRAWS`` draws was long enough.
        """
        n_characters = CHARACTERS_PER_TOKEN * n_tokens
        for _ in range(MAX_DRAWS):
            at = rng.random() * self._cumulative[-1]
            text = self._texts[bisect.bisect(self._cumulative, at)]
            start = rng.randrange(max(1, len(text) - n_characters // 2))
            start = max(start, text.find(" ", start) + 1)  # begin with a word, if there are any
            ids = self._target.tokenize(text[start : start + n_characters])
            if len(ids) >= n_tokens:
                return tuple(ids[:n_tokens])
        raise ConfigError(f"the prose holds no stretch of {n_tokens} tokens; give longer texts")


class TextRows:
    """Questions that are tokenised when they are drawn.

    Parameters
    ----------
    rows : ``context``, ``question`` and ``answers`` each
    target : whose tokenizer and chat template to use
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], target: TargetLLM) -> None:
        self._rows = rows
        self._target = target

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenRow:
        row = self._rows[index]
        context, answer = row["context"], str(row["answers"][0]).strip()
        ids = self._target.tokenize(context)
        return tokenise_question(self._target, context, ids, row["question"], answer)


def tokenise_question(
    target: TargetLLM, context: str, context_ids: Sequence[int], question: str, answer: str
) -> TokenRow:
    """Return a question, whose context is tokenised already, as token ids."""
    found = context.find(answer)
    return TokenRow(
        context_ids,
        token_ids(answer_prompt(target, None, question)[-1]),
        tuple(target.tokenize(answer)[:MAX_ANSWER_TOKENS]),
        len(target.tokenize(context[:found])) if found >= 0 else NOT_IN_CONTEXT,
    )


class Questions:
    """Questions with their contexts, each brought to the exact length that is asked for.

    Parameters
    ----------
    given : questions of a collection; may be empty
    generated : generated ones; may be empty
    generated_share : share of the draws that are generated ones, where there are both
    separator : token ids between two contexts
    prose : what generated questions' contexts are filled up with, which are made of contexts that
        would contradict them; None = of contexts all the same
    """

    def __init__(
        self,
        given: QuestionRows,
        generated: QuestionRows,
        generated_share: float = 0.0,
        separator: Sequence[int] = (),
        prose: ProseSource | None = None,
    ) -> None:
        self._prose = prose
        self.given = given
        self._generated = generated
        self._share = generated_share if len(given) else 1.0
        self._fillers = given if len(given) else generated
        self._separator = tuple(separator)

    def draw(self, rng: random.Random, n_tokens: int) -> Question:
        """Return a question whose context is exactly ``n_tokens`` long.

        A longer context is cut to a window around the answer, a shorter one stands between other
        contexts of the collection, or in prose.

        Raises
        ------
        ConfigError
            No question in ``MAX_DRAWS`` draws had its answer in its context.
        """
        is_generated = len(self._generated) > 0 and rng.random() < self._share
        rows = self._generated if is_generated else self.given
        for _ in range(MAX_DRAWS):
            row = rows[rng.randrange(len(rows))]
            ids = _window(rng, row, n_tokens)
            if ids is not None:
                n_missing = n_tokens - len(ids)
                others = self._others(rng, row, n_missing, is_generated)
                cut = rng.randint(0, n_missing)
                context = (*others[:cut], *ids, *others[cut:n_missing])
                return Question(context, row.tail_ids, row.answer_ids)
        raise ConfigError(f"no context holds its answer within {n_tokens} tokens")

    def _others(
        self, rng: random.Random, row: TokenRow, n_tokens: int, is_generated: bool
    ) -> Sequence[int]:
        """Return at least ``n_tokens`` to stand around a row's context."""
        if is_generated and self._prose is not None:
            return self._prose.draw(rng, n_tokens) if n_tokens else ()
        others: list[int] = []
        while len(others) < n_tokens:
            others += self._other_context(rng, row)
            others += self._separator
        return others

    def _other_context(self, rng: random.Random, row: TokenRow) -> Sequence[int]:
        """Draw a context that is not the row's, if there are others."""
        own = tuple(row.context_ids)
        for _ in range(MAX_DRAWS):
            found = self._fillers[rng.randrange(len(self._fillers))].context_ids
            if len(found) != len(own) or tuple(found) != own:
                break
        return found


def _window(rng: random.Random, row: TokenRow, n_tokens: int) -> Sequence[int] | None:
    """Return at most ``n_tokens`` of a context; None if a cut could lose the answer."""
    ids, at = row.context_ids, row.answer_at
    if len(ids) <= n_tokens:
        return ids
    if at == NOT_IN_CONTEXT:
        return None
    lowest = max(0, min(at - 3 * n_tokens // 4, len(ids) - n_tokens))
    highest = max(lowest, min(at, len(ids) - n_tokens))
    start = rng.randint(lowest, highest)
    return ids[start : start + n_tokens]


def _teaches_content(row: Mapping[str, Any]) -> bool:
    """Return whether a question has an answer that a text can hold."""
    answers = row["answers"]
    if not (answers and row["context"] and row["question"]):
        return False
    return str(answers[0] or "").strip().lower().rstrip(".") not in {"", "yes", "no"}


def weight_of(source: str | None, weights: Mapping[str, float]) -> float:
    """Return the weight of the first entry that is part of a source's name, else 1."""
    return next((weight for part, weight in weights.items() if part in (source or "")), 1.0)
