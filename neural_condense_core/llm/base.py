"""The contract of a target model: score, answer and stream over prompts of mixed parts.

Design decisions

* A prompt is a sequence of segments, token ids or embeddings in any order, so condensed tokens may
  stand anywhere in a chat.
* The prefix of one context is computed once (``prefill``) and shared by many questions.
* No torch in this module: engines that are HTTP servers implement the same contract.
* What an engine cannot do it refuses with an ``UnsupportedError``; docs/engines.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from neural_condense_core.tokens import CondensedTokens, FloatArray


@dataclass(frozen=True)
class TokenIds:
    """A stretch of text, as token ids of the target model."""

    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Embeds:
    """A stretch of input embeddings.

    Parameters
    ----------
    embeds : (n, hidden_size), what ``inputs_embeds`` of the target model takes
    positions : (n,) or None; explicit position of each row, counted from the segment's start
    span : how many positions the segment takes up; n without explicit positions
    """

    embeds: FloatArray
    positions: npt.NDArray[np.int64] | None = None
    span: int | None = None

    def __len__(self) -> int:
        return int(self.embeds.shape[0])

    @property
    def is_gapless(self) -> bool:
        """Whether the rows stand at 0, 1, 2, ... and the text behind them at once."""
        if self.span not in (None, len(self)):
            return False
        return self.positions is None or np.array_equal(self.positions, np.arange(len(self)))


Segment = TokenIds | Embeds
Prompt = tuple[Segment, ...]


def token_ids(segment: Segment) -> tuple[int, ...]:
    """Return the ids of a segment of text.

    Raises
    ------
    TypeError
        The segment holds embeddings.
    """
    if isinstance(segment, TokenIds):
        return segment.ids
    raise TypeError("a segment of embeddings has no token ids")


def as_segment(tokens: CondensedTokens, *, explicit_positions: bool = False) -> Embeds:
    """Return condensed tokens as a prompt segment.

    Parameters
    ----------
    tokens : the condensed tokens
    explicit_positions : place each at its centre in the context, so that the text behind them
        stands where it would behind the full context; needs ``tokens.positions``
    """
    if explicit_positions and tokens.positions is not None:
        return Embeds(tokens.embeds, tokens.positions, tokens.n_context_tokens)
    return Embeds(tokens.embeds)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Teacher-forced likelihood of one target.

    Parameters
    ----------
    logprobs : (n_target,) float32, nats
    top1 : (n_target,) bool, whether the token was the most likely one
    """

    logprobs: npt.NDArray[np.float32]
    top1: npt.NDArray[np.bool_]

    @property
    def loss(self) -> float:
        """Summed negative log-likelihood, nats."""
        return float(-self.logprobs.sum())


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Parameters
    ----------
    temperature : 0 takes the most likely token, whatever the rest says
    top_p : draw from the fewest tokens that hold this much probability, in (0, 1]
    seed : makes draws repeatable on one engine; None draws anew every time
    stop : texts that end the answer; none of them is part of it

    Raises
    ------
    ValueError
        A number is out of range, or a stop text is empty.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ValueError
            A number is out of range, or a stop text is empty.
        """
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(
                f"temperature must be from 0 to {MAX_TEMPERATURE:g}, got {self.temperature}"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not all(self.stop):
            raise ValueError("a stop text must not be empty")


MAX_TEMPERATURE = 2.0
GREEDY = Sampling()


@dataclass(frozen=True)
class Piece:
    """The next piece of an answer.

    Parameters
    ----------
    text : whole characters; may be empty
    n_tokens : how many tokens the model made since the piece before, an end token included
    finish : None while more follows; on the last piece ``"stop"`` (the model ended its turn, or a
        stop text came) or ``"length"`` (the tokens ran out)
    """

    text: str
    n_tokens: int
    finish: str | None = None


class Prefix(Protocol):
    """A prompt whose keys and values are computed; belongs to the model that made it."""

    @property
    def n_tokens(self) -> int:
        """Number of rows in the cache."""


class Streaming(Protocol):
    """What can answer a prompt piece by piece."""

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        *,
        sampling: Sampling = GREEDY,
        prefix: Prefix | None = None,
    ) -> Iterator[Piece]:
        """Answer one prompt piece by piece; closing the iterator ends the work.

        Parameters
        ----------
        prompt : not empty
        max_new_tokens : at least 1
        sampling : how tokens are drawn; greedy gives the text of ``generate``, unstripped
        prefix : what stands before the prompt

        Returns
        -------
        pieces as they are made; the last, and only the last, has a ``finish``
        """


class GeneratesByStreaming:
    """``generate`` of the engines that answer one prompt after the other."""

    def generate(
        self: Streaming,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        prefix: Prefix | None = None,
    ) -> list[str]:
        """Answer each prompt greedily; ends at the model's end-of-turn token."""
        # All of them are looked at before the first is answered: what cannot fit costs nothing.
        streams = [self.stream(prompt, max_new_tokens, prefix=prefix) for prompt in prompts]
        return ["".join(piece.text for piece in stream).strip() for stream in streams]


class TargetLLM(Streaming, Protocol):
    """A frozen LLM that reads text and condensed tokens."""

    name: str
    hidden_size: int
    max_positions: int

    def tokenize(self, text: str) -> list[int]:
        """Return token ids, without special tokens of its own adding."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the chat template's text for messages, up to where the assistant speaks."""

    def prefill(self, prompt: Prompt) -> Prefix:
        """Compute a prompt once, for use by many calls."""

    def loglikelihood(
        self,
        prompts: Sequence[Prompt],
        targets: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> list[Likelihood]:
        """Score target token ids, each behind its prompt (itself behind a shared prefix)."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        prefix: Prefix | None = None,
    ) -> list[str]:
        """Answer each prompt greedily; ends at the model's end-of-turn token."""
