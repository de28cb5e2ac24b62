"""What is wrong with a reply's matrix, before any model reads it.

Where it sits: first in the scoring service. What passes here is judged; what does not gets a code,
scores 0, and costs nobody else anything.

Design decisions

* Cheap checks first: shape, number, width, values, length of the rows.
* Rows far shorter or longer than the model's own embeddings can push a model about whatever they
  say, so they are refused. A row that *is* an embedding of the model is fine at any length: some
  tokens' rows are unusual, and selecting tokens is honest work.
* A copy is told by its rows: nearly all of them point where rows of an earlier reply to the same
  context point. Rows that are embeddings of the model do not count: two miners that select tokens
  agree by right. Order of arrival decides who copied whom. Miners with contexts of their own have
  nothing to copy; this is for rounds that share them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from neural_condense_core.wire.scoring import ReplyCode, ReplyRef
from neural_condense_core.wire.tensor_bundle import Array

if TYPE_CHECKING:
    from neural_condense_core.llm.hf import HFTarget

Rows = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MIN_NORM, MAX_NORM = 0.3, 3.0
"""Lengths of a row that are accepted, in mean lengths of the model's embeddings."""
COPY_COSINE = 0.999
COPY_SHARE = 0.9
"""Share of the rows that have to point where an earlier reply's do."""
EMBEDDING_TOLERANCE = 0.02
"""How far from a row of the model a row may be to be one; bfloat16 alone takes 0.004."""

_CHUNK = 8192


class Vocabulary(Protocol):
    """The input embeddings of a target model."""

    @property
    def mean_norm(self) -> float:
        """Mean length of a row."""

    def contains(self, rows: Rows) -> Mask:
        """Return which rows are embeddings of the model, but for rounding: (n,)."""


class EmbeddingTable:
    """The vocabulary of a loaded model.

    Parameters
    ----------
    target : the model
    """

    def __init__(self, target: HFTarget) -> None:
        self._target = target

    @cached_property
    def mean_norm(self) -> float:
        """Mean length of a row."""
        norms = [np.linalg.norm(rows, axis=1) for rows in self._chunks()]
        return float(np.concatenate(norms).mean())

    def contains(self, rows: Rows) -> Mask:
        """Return which rows are embeddings of the model, but for rounding: (n,)."""
        found = np.zeros(len(rows), np.bool_)
        with np.errstate(over="ignore", invalid="ignore"):  # a huge row is no embedding: no match
            squares = np.square(rows).sum(axis=1)
            for table in self._chunks():
                own = np.square(table).sum(axis=1)
                distances = squares[:, None] - 2 * rows @ table.T + own
                near = distances <= EMBEDDING_TOLERANCE**2 * np.maximum(own, 1e-12)
                found |= near.any(axis=1)
        return found

    def _chunks(self) -> list[Rows]:
        n = int(self._target.embedding.num_embeddings)
        return [
            self._target.embed(range(start, min(start + _CHUNK, n)))
            for start in range(0, n, _CHUNK)
        ]


def check_matrix(
    matrix: Array, vocabulary: Vocabulary, hidden_size: int, max_condensed_tokens: int
) -> ReplyCode:
    """Return ``"ok"`` or what is wrong with one matrix.

    Parameters
    ----------
    matrix : of any shape and values
    vocabulary : of the target model
    hidden_size : its width
    max_condensed_tokens : most rows
    """
    if matrix.ndim != 2 or 0 in matrix.shape:
        return "shape"
    if matrix.shape[0] > max_condensed_tokens:
        return "too_many_tokens"
    if matrix.shape[1] != hidden_size:
        return "wrong_width"
    if not np.isfinite(matrix).all():
        return "not_finite"
    rows = matrix.astype(np.float32)
    # In float64: the square of a large float32 is infinite.
    norms = np.linalg.norm(rows.astype(np.float64), axis=1) / vocabulary.mean_norm
    odd = (norms < MIN_NORM) | (norms > MAX_NORM)
    if odd.any() and not vocabulary.contains(rows[odd]).all():
        return "norm"
    return "ok"


def find_copies(
    replies: Sequence[ReplyRef], matrices: Mapping[str, Array], vocabulary: Vocabulary
) -> set[str]:
    """Return the ids of replies that copy an earlier one to the same challenge.

    Parameters
    ----------
    replies : in order of arrival; those without a matrix are passed over
    matrices : reply id -> (n, hidden_size), checked
    vocabulary : of the target model
    """
    earlier: dict[str, list[tuple[str, Rows]]] = {}
    copies = set()
    for reply in replies:
        if reply.id not in matrices:
            continue
        rows = _directions(matrices[reply.id])
        before = earlier.setdefault(reply.challenge, [])
        others = [other for miner, other in before if miner != reply.miner]
        if _is_copy(rows, others, matrices[reply.id].astype(np.float32), vocabulary):
            copies.add(reply.id)
        before.append((reply.miner, rows))
    return copies


def _is_copy(rows: Rows, others: Sequence[Rows], matrix: Rows, vocabulary: Vocabulary) -> bool:
    near = [(rows @ other.T).max(axis=1) > COPY_COSINE for other in others]
    if not any(float(mask.mean()) >= COPY_SHARE for mask in near):
        return False
    # Only now, as looking rows up costs a pass over the whole vocabulary.
    own = ~vocabulary.contains(matrix)
    return any(bool(own.any()) and float(mask[own].mean()) >= COPY_SHARE for mask in near)


def _directions(matrix: Array) -> Rows:
    rows = matrix.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Rows = rows / np.maximum(norms, 1e-12)
    return directions
