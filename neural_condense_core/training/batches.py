"""Batches of one fixed shape per objective: contexts, and what to predict behind them.

* *continuation*: the text goes on behind the context; a bridge of its next tokens is shown as text,
  as in the evaluation.
* *reconstruction*: the text from a random place in the context on, a few tokens shown as text; in
  some rows from the very start, as in the evaluation.
* *answer*: the gold answer to a question about the context.
* *imitation*: each condensed token becomes the embedding of the context token at its own position,
  a start that the frozen model can read; needs no pass through it.

Design decisions

* Real chat prompts from the start (``llm/prompt.py``), so what is trained is what is used; what
  does not depend on the text is tokenised once.
* Fixed shapes: on CPU every new shape costs oneDNN a new kernel, on a GPU a new compilation.
* Every row is drawn from a seed of its own, so a process draws its rows alone and they are what
  they would be in one process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from neural_condense_core.evaluation.tasks import BRIDGE_TOKENS, TARGET_TOKENS
from neural_condense_core.llm.base import TargetLLM, token_ids
from neural_condense_core.llm.prompt import continuation_prompt, reconstruction_prompt
from neural_condense_core.training.data import MAX_ANSWER_TOKENS, ProseSource, Questions
from neural_condense_core.training.schedule import IMITATION

CUE_TOKENS = 16
FROM_START_SHARE = 0.3
"""Share of reconstructions that begin at the context's start, without a cue."""
ANSWER_ROWS = 96
"""Rows for a question's prompt and answer; longer ones are cut."""
IGNORED = -100
ALL_ROWS = slice(None)


@dataclass(frozen=True, eq=False)
class Batch:
    """Contexts and what to predict behind them.

    Parameters
    ----------
    objective : name
    context_ids : (batch, n_context) int64
    suffix_ids : (batch, n_suffix) int64, all text behind the context, targets included
    labels : (batch, n_suffix) int64, the token that follows each suffix token where it counts,
        else ``IGNORED``
    """

    objective: str
    context_ids: Tensor
    suffix_ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.context_ids)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        moved = (part.to(device) for part in (self.context_ids, self.suffix_ids, self.labels))
        return Batch(self.objective, *moved)

    def split(self, size: int) -> Iterator[Batch]:
        """Yield batches of at most ``size`` rows; 0 = all at once."""
        step = size or len(self)
        for first in range(0, len(self), step):
            own = slice(first, first + step)
            yield Batch(
                self.objective, self.context_ids[own], self.suffix_ids[own], self.labels[own]
            )


@dataclass(frozen=True)
class Drawn:
    """A row: the context, the prompt's tail behind it with the reply's beginning, and targets."""

    context_ids: Sequence[int]
    tail_ids: Sequence[int]
    target_ids: Sequence[int]


Draw = Callable[[random.Random, int], Drawn]


class BatchMaker:
    """Draws batches; the same generator state gives the same batch.

    Parameters
    ----------
    target : the model that will read them
    prose : needed for continuation, reconstruction and imitation
    questions : needed for answers
    """

    def __init__(
        self, target: TargetLLM, prose: ProseSource | None, questions: Questions | None
    ) -> None:
        self._draw: dict[str, Draw] = {}
        goes_on = token_ids(continuation_prompt(target, None, ())[-1])
        repeats = token_ids(reconstruction_prompt(target, None, ())[-1])
        self._n_suffix = {
            "continuation": len(goes_on) + BRIDGE_TOKENS + TARGET_TOKENS - 1,
            "reconstruction": len(repeats) + CUE_TOKENS + TARGET_TOKENS - 1,
            "answer": ANSWER_ROWS,
            IMITATION: 1,
        }
        if prose is not None:
            self._draw["continuation"] = partial(_continuation, prose, goes_on)
            self._draw["reconstruction"] = partial(_reconstruction, prose, repeats)
            self._draw[IMITATION] = partial(_imitation, prose)
        if questions is not None:
            self._draw["answer"] = partial(_answer, questions)

    def draw(
        self,
        objective: str,
        rng: random.Random,
        size: int,
        n_context: int,
        own: slice = ALL_ROWS,
    ) -> Batch:
        """Return a batch of one objective, all contexts ``n_context`` tokens long.

        Parameters
        ----------
        objective : name
        rng : the step's
        size : rows of the whole batch
        n_context : tokens of each context
        own : which of these rows to return
        """
        seeds = [rng.getrandbits(64) for _ in range(size)][own]
        rows = [self._draw[objective](random.Random(seed), n_context)  # noqa: S311 - no secret
                for seed in seeds]  # fmt: skip
        suffix_ids, labels = _lay_out(rows, self._n_suffix[objective])
        contexts = torch.tensor([list(row.context_ids) for row in rows])
        return Batch(objective, contexts, suffix_ids, labels)


def _continuation(
    prose: ProseSource, tail: tuple[int, ...], rng: random.Random, n_context: int
) -> Drawn:
    ids = prose.draw(rng, n_context + BRIDGE_TOKENS + TARGET_TOKENS)
    end = n_context + BRIDGE_TOKENS
    return Drawn(ids[:n_context], (*tail, *ids[n_context:end]), ids[end:])


def _reconstruction(
    prose: ProseSource, tail: tuple[int, ...], rng: random.Random, n_context: int
) -> Drawn:
    ids = prose.draw(rng, n_context)
    n_target = min(TARGET_TOKENS, n_context // 2)
    start = rng.randint(min(CUE_TOKENS, n_context - n_target), n_context - n_target)
    cue = ids[max(0, start - CUE_TOKENS) : start]
    if rng.random() < FROM_START_SHARE:
        start, cue = 0, ()
    return Drawn(ids, (*tail, *cue), ids[start : start + n_target])


def _imitation(prose: ProseSource, rng: random.Random, n_context: int) -> Drawn:
    return Drawn(prose.draw(rng, n_context), (0,), ())


def _answer(questions: Questions, rng: random.Random, n_context: int) -> Drawn:
    drawn = questions.draw(rng, n_context)
    return Drawn(drawn.context_ids, drawn.tail_ids, drawn.answer_ids[:MAX_ANSWER_TOKENS])


def _lay_out(rows: Sequence[Drawn], length: int) -> tuple[Tensor, Tensor]:
    """Return suffix ids and labels, padded on the right to one length.

    A row longer than that loses its beginning: a long question, never its answer.
    """
    suffix = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    for i, row in enumerate(rows):
        ids = [*row.tail_ids, *row.target_ids][: -1 if row.target_ids else None]
        marks = [IGNORED] * (len(row.tail_ids) - 1) + list(row.target_ids or [IGNORED])
        kept = min(length, len(ids))
        suffix[i, :kept] = torch.tensor(ids[-kept:])
        labels[i, :kept] = torch.tensor(marks[-kept:])
    return suffix, labels
