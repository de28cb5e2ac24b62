"""Text and questions for training, drawn so that a step depends on (seed, step) alone.

Any Parquet file with the right columns will do: ``source, title, text`` for prose,
``context, question, answers`` for questions. Texts are tokenised when they are drawn.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.base import TargetLLM

CHARACTERS_PER_TOKEN = 8
"""More than any text here needs, so that one draw suffices."""
MAX_DRAWS = 200


@dataclass(frozen=True)
class Question:
    """A question about a context of exactly the window's length; ids of the target model."""

    context_ids: tuple[int, ...]
    question: str
    answer_ids: tuple[int, ...]


def read_columns(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Read columns of a Parquet file as rows.

    Raises
    ------
    ConfigError
        The file cannot be read, lacks a column or has no rows.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=list(columns)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"cannot read {', '.join(columns)} of {path}: {error}") from error
    if not rows or any(column not in rows[0] for column in columns):
        raise ConfigError(f"{path} needs at least one row and the columns {', '.join(columns)}")
    return rows


class Prose:
    """Documents to draw stretches of tokens from.

    Parameters
    ----------
    path : Parquet file with ``source, text``
    target : whose tokenizer to use
    source_weights : part of a ``source`` -> how much likelier its text is drawn; otherwise 1
    """

    def __init__(self, path: Path, target: TargetLLM, source_weights: Mapping[str, float]) -> None:
        rows = read_columns(path, ("source", "text"))
        self._texts = [row["text"] for row in rows]
        weights = [len(row["text"]) * _weight(row["source"], source_weights) for row in rows]
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


class Questions:
    """Questions with their contexts, each brought to the window's exact length.

    Parameters
    ----------
    path : Parquet file with ``context, question, answers``
    target : whose tokenizer to use
    max_answer_tokens : longer answers are cut
    """

    def __init__(self, path: Path, target: TargetLLM, max_answer_tokens: int) -> None:
        rows = read_columns(path, ("context", "question", "answers"))
        self._rows = [row for row in rows if _teaches_content(row)]
        if not self._rows:
            raise ConfigError(f"{path} holds no answered question")
        self._target = target
        self._max_answer_tokens = max_answer_tokens

    def draw(self, rng: random.Random, n_tokens: int) -> Question:
        """Return a question whose context is exactly ``n_tokens`` long.

        A longer context is cut to a window around the answer, a shorter one stands between other
        contexts of the collection.

        Raises
        ------
        ConfigError
            No question in ``MAX_DRAWS`` draws had its answer in its context.
        """
        for _ in range(MAX_DRAWS):
            row = rng.choice(self._rows)
            answer = str(row["answers"][0]).strip()
            ids = self._window(rng, row["context"], answer, n_tokens)
            if ids is not None:
                return self._fill(rng, row["question"], answer, ids, n_tokens)
        raise ConfigError(f"no context holds its answer within {n_tokens} tokens")

    def _fill(
        self, rng: random.Random, question: str, answer: str, ids: list[int], n_tokens: int
    ) -> Question:
        before: list[int] = []
        while len(ids) + len(before) < n_tokens:
            before += self._target.tokenize(rng.choice(self._rows)["context"] + "\n\n")
        cut = rng.randint(0, n_tokens - len(ids))
        context = [*before[:cut], *ids, *before[cut : n_tokens - len(ids)]]
        answer_ids = self._target.tokenize(answer)[: self._max_answer_tokens]
        return Question(tuple(context), question, tuple(answer_ids))

    def _window(
        self, rng: random.Random, context: str, answer: str, n_tokens: int
    ) -> list[int] | None:
        """Return at most ``n_tokens`` of a context; None if a cut could lose the answer."""
        ids = self._target.tokenize(context)
        if len(ids) <= n_tokens:
            return ids
        found = context.find(answer)
        if found < 0:
            return None
        at = len(self._target.tokenize(context[:found]))
        lowest = max(0, min(at - 3 * n_tokens // 4, len(ids) - n_tokens))
        highest = max(lowest, min(at, len(ids) - n_tokens))
        start = rng.randint(lowest, highest)
        return ids[start : start + n_tokens]


def _teaches_content(row: Mapping[str, Any]) -> bool:
    """Return whether a question has an answer that a text can hold; yes and no teach style."""
    answers = row["answers"]
    return bool(answers) and str(answers[0]).strip().lower().rstrip(".") not in {"", "yes", "no"}


def _weight(source: str, weights: Mapping[str, float]) -> float:
    return next((weight for part, weight in weights.items() if part in source), 1.0)
