"""Self-information: keep the tokens that the target model itself finds most surprising.

What a language model can predict from the text before need not be sent. The surprisal of a token
is -log p(token | tokens before it) under the target model, in nats.

Design decisions

* Long contexts are scored in windows, so their length is limited by nothing and the cost grows
  linearly; behind the first window every token sees at least ``LOOK_BACK`` tokens before it.
* Windows depend on the context alone and run one at a time: the choice cannot depend on a batch.
* The last contexts' surprisals are kept, since an evaluation asks for the same ones at several
  ratios and for ``spans`` too.

References
----------
Selective Context, arXiv:2310.06201. Differs: the unit is the token (phrases: ``spans``), and the
model that reads the tokens is the one that scores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from neural_condense_core.condensers.selection import Indices, SelectionCondenser

if TYPE_CHECKING:
    from neural_condense_core.llm.hf import HFTarget

WINDOW = 1024
LOOK_BACK = 256


def surprisal(target: HFTarget, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return how surprising each token of a context is to a target model.

    Parameters
    ----------
    target : the model that scores
    ids : (n_context,) token ids of plain text, at least one

    Returns
    -------
    (n_context,) float32, nats; read-only. The first token, which nothing precedes, has the highest
    value of its window
    """
    return _surprisal(target, np.asarray(ids, dtype=np.int64).tobytes())


@lru_cache(maxsize=256)
def _surprisal(target: HFTarget, packed_ids: bytes) -> npt.NDArray[np.float32]:
    ids = np.frombuffer(packed_ids, dtype=np.int64).tolist()
    size = min(WINDOW, target.max_positions)
    look_back = min(LOOK_BACK, size // 2)
    scores = np.empty(len(ids), dtype=np.float32)
    done = 0
    while done < len(ids):
        start = max(0, done - look_back)
        window = ids[start : start + size]
        scores[done : start + len(window)] = target.surprisal([window])[0][done - start :]
        done = start + len(window)
    scores.flags.writeable = False
    return scores


def most_surprising(scores: npt.NDArray[np.float32], n: int) -> Indices:
    """Return the indices of the n highest scores, ascending; of equal ones the first."""
    ranked = np.argsort(-scores, kind="stable")
    return np.sort(ranked[:n]).astype(np.int64)


class SelfInformationCondenser(SelectionCondenser):
    """Keep the n most surprising tokens, in their order."""

    name = "self-information"

    def select(self, ids: Sequence[int], n: int, query: str | None) -> Indices:
        """Return the indices of the n most surprising tokens."""
        return most_surprising(surprisal(self.target, ids), n)
