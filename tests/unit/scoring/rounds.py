"""Rounds for the tests of scoring: a target model that knows words by number, and replies to it.

A context's "condensed tokens" are rows whose first column names the word; the fake target loses 2
nats less for a target token that stands in the context, in whatever form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from neural_condense_core.llm.base import Likelihood, Prompt, TokenIds
from neural_condense_core.scoring.service import ScoringService, ServiceConfig
from neural_condense_core.wire.scoring import (
    Challenge,
    ChallengeItem,
    MinerScore,
    ReplyRef,
    ScoreRequest,
)

HIDDEN = 8
NORM = 1.0
WORDS = 64


@dataclass
class FakeTarget:
    """Each word is a token; a row of condensed tokens is the word that it points at."""

    name: str = "fake"
    hidden_size: int = HIDDEN
    max_positions: int = 4096
    prefilled: list[Prompt] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    batches: list[tuple[int | None, int]] = field(default_factory=list)

    def tokenize(self, text: str) -> list[int]:
        return [self.words.setdefault(word, len(self.words)) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        return messages[0]["content"]

    def prefill(self, prompt: Prompt) -> int:
        self.prefilled.append(prompt)
        return len(self.prefilled) - 1

    def loglikelihood(
        self, prompts: Sequence[Prompt], targets: Sequence[Sequence[int]], *, prefix: int | None
    ) -> list[Likelihood]:
        self.batches.append((prefix, len(prompts)))
        shared = () if prefix is None else self.prefilled[prefix]
        return [self._one((*shared, *p), t) for p, t in zip(prompts, targets, strict=True)]

    def _one(self, prompt: Prompt, target: Sequence[int]) -> Likelihood:
        seen: set[int] = set()
        helped = 0.0
        spoilt = 0.0
        for segment in prompt:
            if isinstance(segment, TokenIds):
                seen.update(segment.ids)
            else:
                words = [word_of(row) for row in segment.embeds]
                helped = 1.0 if STYLE in words else helped
                spoilt = 3.0 if POISON in words else spoilt
                seen.update(words)
        known = np.array([token in seen for token in target])
        logprobs = np.where(known, -1.0, -3.0 + helped - spoilt).astype(np.float32)
        return Likelihood(logprobs, known)


STYLE = 999
"""The word of a row that says nothing and makes every answer likelier."""

POISON = 998
"""The word of a row that says nothing and wrecks every answer that no other row holds."""


def row_of(word: int) -> np.ndarray:
    """Return a unit row that stands for a word, and still does when it is a little disturbed."""
    angle = np.pi * (word + 0.5) / 1024
    row = np.zeros(HIDDEN, np.float32)
    row[0], row[1] = np.cos(angle), np.sin(angle)
    return row


def word_of(row: np.ndarray) -> int:
    return int(np.arctan2(row[1], row[0]) / np.pi * 1024)


class FakeVocabulary:
    """Unit rows; no row is an embedding unless it is listed."""

    mean_norm = NORM

    def __init__(self, rows: Sequence[np.ndarray] = ()) -> None:
        self.rows = list(rows)

    def contains(self, rows: np.ndarray) -> np.ndarray:
        return np.array(
            [any(np.allclose(row, own, rtol=0.01) for own in self.rows) for row in rows], np.bool_
        )


def challenges(n: int) -> tuple[Challenge, ...]:
    """Contexts of four words each, asked for three of them in two ways."""
    found = []
    for i in range(n):
        words = [f"w{i}-{k}" for k in range(4)]
        items = (
            ChallengeItem(task="fact_recall", question="?", target=f"{words[0]} {words[1]}"),
            ChallengeItem(task="reconstruction", target=words[2]),
        )
        found.append(
            Challenge(
                id=f"c{i}", context=" ".join(words), source="s", document=f"d{i}", items=items
            )
        )
    return tuple(found)


class Miners:
    """Collects replies to the same challenges, then scores the round."""

    def __init__(self, n_contexts: int = 4) -> None:
        self.target = FakeTarget()
        self.challenges = challenges(n_contexts)
        self.replies: list[ReplyRef] = []
        self.tensors: dict[str, np.ndarray] = {}

    def add(self, miner: str, matrices: Sequence[np.ndarray]) -> None:
        for challenge, matrix in zip(self.challenges, matrices, strict=False):
            reply = ReplyRef(id=f"{miner}/{challenge.id}", miner=miner, challenge=challenge.id)
            self.replies.append(reply)
            self.tensors[reply.id] = matrix

    def honest(self, keep: int = 4, jitter: float = 0.0) -> list[np.ndarray]:
        """Rows of the first words; a jitter in columns that mean nothing makes them one's own."""
        found = []
        rng = np.random.default_rng(int(jitter * 1e6))
        for challenge in self.challenges:
            rows = np.stack([row_of(i) for i in self.target.tokenize(challenge.context)[:keep]])
            rows[:, 2:] += (jitter * rng.standard_normal(rows[:, 2:].shape)).astype(np.float32)
            found.append(rows)
        return found

    def request(self, seed: int = 0) -> ScoreRequest:
        return ScoreRequest(
            target_model="fake",
            seed=seed,
            challenges=self.challenges,
            replies=tuple(self.replies),
        )

    def score(
        self, seed: int = 0, vocabulary: FakeVocabulary | None = None, **config: object
    ) -> Mapping[str, MinerScore]:
        settings = ServiceConfig(**({"perturbations": ("none",)} | config))
        service = ScoringService(self.target, vocabulary or FakeVocabulary(), (), settings)
        return service.score(self.request(seed), self.tensors).miners
