"""Sequences of one batch: embeddings and positions, padded to one length.

Likelihood pads on the right, where a causal model cannot see the padding; generation pads on the
left, where ``generate`` wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

BUCKET = 64
"""Lengths are rounded up to a multiple of it: on CPU every new shape costs oneDNN a kernel."""


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence for a model.

    Parameters
    ----------
    embeds : (n, hidden)
    positions : (n,) int64
    next_position : the position of what would follow
    """

    embeds: Tensor
    positions: Tensor
    next_position: int

    def __len__(self) -> int:
        return len(self.positions)


def bucketed(length: int) -> int:
    """Round a length up to a multiple of ``BUCKET``."""
    return -(-length // BUCKET) * BUCKET


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices in batches of similar, bucketed length.

    Parameters
    ----------
    lengths : of each row
    budget : tokens of a batch, padding included; a single longer row is a batch of its own
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = bucketed(lengths[batch[0]] if batch else lengths[i])
        if batch and (longest * (len(batch) + 1) > budget or bucketed(lengths[i]) < longest // 2):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def stack_rows(rows: Sequence[Row], length: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Pad rows to one length.

    Returns
    -------
    (batch, length, hidden) embeddings and (batch, length) positions, zero where padded
    """

    def padding(row: Row) -> tuple[int, int]:
        return (length - len(row), 0) if left else (0, length - len(row))

    embeds = torch.stack([pad(row.embeds, (0, 0, *padding(row))) for row in rows])
    return embeds, torch.stack([pad(row.positions, padding(row)) for row in rows])
