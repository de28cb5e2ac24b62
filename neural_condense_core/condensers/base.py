"""The contract of a condenser: token ids of contexts in, ``CondensedTokens`` out.

Where it sits: after tokenising, before the wire. The backend, the evaluation, the demo and the
tests know condensers only by this class.

Design decisions

* Batched and stateless: ``condense`` takes several contexts at once, and row i of a batch equals
  row i alone.
* Token ids, not text: the caller tokenises once (``tokenize``) and so knows the cost of a context
  before any model runs.
* The number of condensed tokens is promised beforehand (``n_condensed_tokens``) and kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from neural_condense_core.errors import RequestError
from neural_condense_core.tokens import CondensedTokens, n_condensed_for


@dataclass(frozen=True)
class LoadOptions:
    """What a condenser needs to load itself.

    Parameters
    ----------
    target_model : name or path of the model that will read the condensed tokens
    checkpoint : folder with trained weights (``condenser.safetensors``, ``config.json``), or None
    device : torch device, ``"cpu"`` or ``"cuda:0"``
    dtype : ``"float32"``, ``"bfloat16"`` or ``"auto"`` (the fastest on the device)
    """

    target_model: str
    checkpoint: Path | None = None
    device: str = "cpu"
    dtype: str = "auto"


def check_contexts(contexts: Sequence[Sequence[int]]) -> None:
    """Refuse a batch that no condenser can condense; every ``condense`` begins with it.

    Raises
    ------
    RequestError
        There is no context, or one of them holds no token.
    """
    if not len(contexts):
        raise RequestError("there is no context to condense")
    for row, ids in enumerate(contexts):
        if not len(ids):
            raise RequestError("the context holds no token; give some text", {"row": row})


class Condenser(ABC):
    """One algorithm, loaded for one target model.

    Attributes
    ----------
    name : registry or checkpoint name, as users type it
    target_model : name of the model whose ``inputs_embeds`` it makes
    hidden_size : width of a condensed token
    ratios : compression ratios it offers, ascending; None = any ratio from 1 on
    query_aware : whether ``condense`` uses ``queries``
    reads_target_tokens : whether the target model's own token ids of a text may be condensed; else
        only those of ``tokenize``
    """

    name: str
    target_model: str
    hidden_size: int
    ratios: tuple[int, ...] | None = None
    query_aware: ClassVar[bool] = False
    reads_target_tokens: bool = True

    @classmethod
    @abstractmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load the condenser.

        Raises
        ------
        CheckpointError
            The checkpoint is missing, damaged or made for another model.
        TargetModelError
            The target model cannot be loaded.
        """

    @abstractmethod
    def tokenize(self, context: str) -> list[int]:
        """Return the token ids of a context; no chat template, no padding."""

    def tokenizer_json(self) -> str | None:
        """Return the tokenizer as JSON of the ``tokenizers`` library, or None.

        A process without the model can then tokenize as ``tokenize`` does: that JSON's tokenizer,
        with no special tokens added, gives the same ids.
        """
        return None

    @abstractmethod
    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense a batch.

        Parameters
        ----------
        contexts : per context its token ids, (n_context,), at least one
        ratio : compression ratio, one of ``ratios`` unless that is None
        queries : one a context for query-aware methods, otherwise ignored

        Returns
        -------
        one a context, ``n_condensed_tokens(len(context), ratio)`` rows each; row i of the batch
        depends on context i alone
        """

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        """Return how many condensed tokens a context of that many tokens becomes."""
        return n_condensed_for(n_context_tokens, ratio)

    def check_ratio(self, ratio: float) -> None:
        """Refuse a ratio that is not offered.

        Raises
        ------
        RequestError
            ``ratio`` is none of ``ratios``; without such a list, it is below 1 or not finite.
        """
        if self.ratios is None:
            if not 1 <= ratio < math.inf:
                raise RequestError(f"ratio must be at least 1, got {ratio:g}")
        elif ratio not in self.ratios:
            raise RequestError(
                f"ratio {ratio:g} is not offered by {self.name}", {"ratios": list(self.ratios)}
            )

    def fit_ratio(
        self, n_context_tokens: int, ratio: float, max_condensed_tokens: int | None
    ) -> float:
        """Return the lowest offered ratio from ``ratio`` on that keeps within a token limit.

        Raises
        ------
        RequestError
            No offered ratio is high enough, or ``ratio`` is not offered.
        """
        self.check_ratio(ratio)
        if self.ratios is None:
            offered = [ratio]
            if max_condensed_tokens:
                offered.append(max(ratio, _ratio_within(n_context_tokens, max_condensed_tokens)))
        else:
            offered = [float(offer) for offer in self.ratios if offer >= ratio]
        if max_condensed_tokens is None:
            return offered[0]
        for offer in offered:
            if self.n_condensed_tokens(n_context_tokens, offer) <= max_condensed_tokens:
                return offer
        raise RequestError(
            f"{n_context_tokens} context tokens do not fit {max_condensed_tokens} condensed tokens"
            f" at {self.name}'s highest ratio; shorten the context",
            {"n_context_tokens": n_context_tokens, "max_condensed_tokens": max_condensed_tokens},
        )


def _ratio_within(n_context_tokens: int, max_condensed_tokens: int) -> float:
    ratio = n_context_tokens / max_condensed_tokens
    # 15 / (15 / 13) is a little more than 13, and the ceiling of that is 14
    while n_condensed_for(n_context_tokens, ratio) > max_condensed_tokens:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


class BudgetedCondenser(Condenser):
    """A condenser that can meet any exact number of condensed tokens; all baselines are.

    Evaluations compare such a baseline with another condenser at exactly that one's length.
    """

    @abstractmethod
    def condense_to(
        self,
        contexts: Sequence[Sequence[int]],
        n_condensed: Sequence[int],
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense context i to exactly ``n_condensed[i]`` tokens, 1 <= n <= len(context)."""

    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense each context to ``n_condensed_tokens(len(context), ratio)``."""
        self.check_ratio(ratio)
        budgets = [self.n_condensed_tokens(len(ids), ratio) for ids in contexts]
        return self.condense_to(contexts, budgets, queries=queries)
