"""Contexts as windows: cut, run in padded batches of similar length, put together again.

For condensers whose encoder is a model of its own. Rows are padded on the right; the encoder gets
each row's length and must make nothing of the padding, so that a row is the same in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neural_condense_core.llm.rows import BUCKET

Encode = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""(batch, n_padded) int64 ids and (batch,) int64 lengths -> per row its (n_condensed, hidden)."""


def condense_windows(
    contexts: Sequence[Sequence[int]], window_tokens: int, max_batch_tokens: int, encode: Encode
) -> list[Tensor]:
    """Condense contexts window by window.

    Parameters
    ----------
    contexts : per context its token ids, at least one
    window_tokens : longest window
    max_batch_tokens : padded tokens of a batch, at most, unless one window is longer
    encode : makes the condensed tokens of a batch of windows

    Returns
    -------
    one a context: the condensed tokens of its windows, joined in order
    """
    windows = [
        (i, start) for i, ids in enumerate(contexts) for start in range(0, len(ids), window_tokens)
    ]
    groups: dict[int, list[tuple[int, int]]] = {}
    for i, start in windows:
        length = min(len(contexts[i]) - start, window_tokens)
        groups.setdefault(-(-length // BUCKET) * BUCKET, []).append((i, start))
    found: dict[tuple[int, int], Tensor] = {}
    for padded, group in groups.items():
        size = max(1, max_batch_tokens // padded)
        for first in range(0, len(group), size):
            chunk = group[first : first + size]
            rows = [contexts[i][start : start + window_tokens] for i, start in chunk]
            found.update(zip(chunk, encode(*_padded(rows, padded)), strict=True))
    pieces: list[list[Tensor]] = [[] for _ in contexts]
    for i, start in windows:
        pieces[i].append(found[i, start])
    return [torch.cat(rows) for rows in pieces]


def _padded(rows: Sequence[Sequence[int]], padded: int) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(rows), padded, dtype=torch.long)
    for row, window in zip(ids, rows, strict=True):
        row[: len(window)] = torch.tensor(list(window))
    return ids, torch.tensor([len(row) for row in rows])
