"""Echo: a condenser without a model, whose condensed tokens say which bytes they stand for.

For tests of nodes, servers and clients: it loads at once, needs no torch, and what it sends can be
read back (``read_echo``), so a test sees whether the right answer reached the right asker. Not a
baseline: no target model understands it.

Design decisions

* One token is one byte of UTF-8.
* A condensed token holds its group's bytes in order, each divided by 256, behind the group's size
  divided by 256: exact in float16 and bfloat16 too. Bytes that do not fit the width are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE

from neural_condense_core.condensers.base import Condenser, LoadOptions, check_contexts
from neural_condense_core.condensers.selection import even_bounds, group_centres
from neural_condense_core.tokens import CondensedTokens

HIDDEN_SIZE = 64
_UNIT = 256.0
"""Divisor of a byte: its quotients are exact in all float types of the wire."""


class EchoCondenser(Condenser):
    """Repeat the context's bytes.

    Parameters
    ----------
    target_model : the name its condensed tokens carry
    hidden_size : width of a condensed token; one less is how many bytes it can repeat
    """

    name = "echo"

    def __init__(self, target_model: str = "echo", hidden_size: int = HIDDEN_SIZE) -> None:
        self.target_model = target_model
        self.hidden_size = hidden_size

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Take the target model's name as asked; nothing is loaded."""
        return cls(options.target_model)

    def tokenize(self, context: str) -> list[int]:
        """Return the bytes of a context."""
        return list(context.encode("utf-8", errors="replace"))

    def tokenizer_json(self) -> str:
        """Return a tokenizer without merges: every character falls back to its bytes."""
        vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
        return Tokenizer(BPE(vocab=vocab, merges=[], byte_fallback=True)).to_str()

    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Write each context's bytes into ``n_condensed_tokens(len(context), ratio)`` rows."""
        check_contexts(contexts)
        self.check_ratio(ratio)
        return [self._echo(ids, self.n_condensed_tokens(len(ids), ratio)) for ids in contexts]

    def _echo(self, ids: Sequence[int], n: int) -> CondensedTokens:
        bounds = even_bounds(len(ids), n)
        embeds = np.zeros((n, self.hidden_size), dtype=np.float32)
        for row, start, end in zip(embeds, bounds[:-1], bounds[1:], strict=True):
            kept = ids[start:end][: self.hidden_size - 1]
            row[0] = len(kept) / _UNIT
            row[1 : len(kept) + 1] = np.asarray(kept, dtype=np.float32) / _UNIT
        return CondensedTokens(
            embeds, self.target_model, len(ids), group_centres(bounds), checkpoint=self.name
        )


def read_echo(tokens: CondensedTokens) -> bytes:
    """Return the bytes that echo's condensed tokens hold."""
    rows = np.rint(np.asarray(tokens.embeds, dtype=np.float32) * _UNIT).astype(np.uint8)
    return b"".join(row[1 : 1 + row[0]].tobytes() for row in rows)
