"""Fakes for evaluation tests: a tokenizer, a target model that can be seen through, condensers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from neural_condense_core.condensers.base import BudgetedCondenser, Condenser, LoadOptions
from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.llm.base import Likelihood, Prompt, TokenIds
from neural_condense_core.tokens import CondensedTokens

HIDDEN = 4


class Letters:
    """A tokenizer of one token a letter, enough of a target model for building items."""

    name = "letters"
    max_positions = 1 << 20

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class FakeTarget:
    """Knows a target token if it stands in the prompt, as an id or in an embedding."""

    name = "fake"
    hidden_size = HIDDEN
    max_positions = 4096

    def __init__(self) -> None:
        self.scored = 0

    def tokenize(self, text: str) -> list[int]:
        return [1000 + ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids)

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        return f"<{messages[0]['content']}>"

    def prefill(self, prompt: Prompt) -> Prompt:
        return prompt

    def loglikelihood(
        self, prompts: Sequence[Prompt], targets: Sequence[Sequence[int]], *, prefix: Prompt | None
    ) -> list[Likelihood]:
        self.scored += len(prompts)
        found = []
        for prompt, target in zip(prompts, targets, strict=True):
            seen: set[int] = set()
            for part in (*(prefix or ()), *prompt):
                ids = part.ids if isinstance(part, TokenIds) else part.embeds[:, 0].round()
                seen.update(int(i) for i in ids)
            known = np.array([token in seen for token in target])
            found.append(Likelihood(np.where(known, -1.0, -3.0).astype(np.float32), known))
        return found

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        return ["x"] * len(prompts)


class Head(BudgetedCondenser):
    """Keeps the first n tokens, as rows that begin with their id."""

    def __init__(self, name: str = "truncate-head") -> None:
        self.name = name
        self.target_model = "fake"
        self.hidden_size = HIDDEN
        self.calls: list[tuple[tuple[int, ...], int, str | None]] = []

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        return cls()

    def tokenize(self, context: str) -> list[int]:
        return [ord(letter) for letter in context]

    def condense_to(
        self,
        contexts: Sequence[Sequence[int]],
        n_condensed: Sequence[int],
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        asked = queries or [None] * len(contexts)
        self.calls += [
            (tuple(ids), n, query)
            for ids, n, query in zip(contexts, n_condensed, asked, strict=True)
        ]
        return [self.rows(ids, n) for ids, n in zip(contexts, n_condensed, strict=True)]

    def rows(self, ids: Sequence[int], n: int) -> CondensedTokens:
        embeds = np.zeros((n, HIDDEN), np.float32)
        embeds[:, 0] = ids[:n]
        return CondensedTokens(embeds, "fake", len(ids))


class Retrieval(Head):
    query_aware: ClassVar[bool] = True


class Trained(Condenser):
    """Keeps the last tokens, ``extra`` more of them than the ratio says."""

    ratios = (2, 4)

    def __init__(self, name: str = "trained", extra: int = 0, lies: bool = False) -> None:
        self.name = name
        self.target_model = "fake"
        self.hidden_size = HIDDEN
        self.extra = extra
        self.lies = lies

    load = Head.load
    tokenize = Head.tokenize

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        return super().n_condensed_tokens(n_context_tokens, ratio) + self.extra

    def condense(
        self, contexts: Sequence[Sequence[int]], ratio: float, *, queries: Any = None
    ) -> list[CondensedTokens]:
        found = []
        for ids in contexts:
            n = self.n_condensed_tokens(len(ids), ratio) + self.lies
            embeds = np.zeros((n, HIDDEN), np.float32)
            embeds[:, 0] = [*ids, *ids][-n:]
            positions = np.arange(n, dtype=np.int64)
            found.append(CondensedTokens(embeds, "fake", len(ids), positions))
        return found


def items_of(task: Any, n: int = 6) -> list[Probe]:
    """Contexts of 8 to 13 tokens of their own; the targets are their first and their last."""
    found = []
    for k in range(n):
        ids = tuple(range(100 * (k + 1), 100 * (k + 1) + 8 + k))
        target = ids if task == "reconstruction" else (ids[0], ids[-1])
        extra: dict[str, Any] = {}
        if task == "answer":
            extra = {"question": f"q{k}", "golds": (f"gold {k}",)}
        if task == "continuation":
            extra = {"bridge_ids": (ord("b"), ord("0") + k)}
        found.append(Probe(task, f"d{k}", f"s{k % 2}", ids, target, **extra))
    return found
