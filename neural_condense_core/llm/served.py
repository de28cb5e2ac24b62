"""What target models behind HTTP have in common: local text, a local embedding table, prefixes.

``vllm.py`` and ``sglang.py`` add what they send and how they read the answers.

Design decisions

* A prompt of ids alone is sent as ids; any other is embedded here, text and condensed tokens
  together, and sent as one matrix. Both are exactly what the contract's prompt says: the server's
  tokenizer and chat template have no part in it.
* A prefix is its prompt. The server's own cache is what makes it cheap; ``prefill`` fills it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neural_condense_core.errors import BackendError
from neural_condense_core.llm.base import (
    GREEDY,
    GeneratesByStreaming,
    Likelihood,
    Piece,
    Prefix,
    Prompt,
    Sampling,
    TokenIds,
)
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_http import EngineHTTP
from neural_condense_core.llm.fitting import require_fitting
from neural_condense_core.llm.text import HFText


@dataclass(frozen=True, eq=False)
class ServedPrefix:
    """A prompt that a server has read before."""

    prompt: Prompt
    owner: ServedTarget
    n_tokens: int


class ServedTarget(HFText, GeneratesByStreaming, ABC):
    """A target model behind an engine's server.

    Parameters
    ----------
    http : the server
    name : how users call the model
    tokenizer : of the same model, a tokenizer of transformers
    table : its input embeddings
    max_positions : rows of one prompt and its answer at most
    """

    def __init__(
        self, http: EngineHTTP, name: str, tokenizer: Any, table: EmbeddingTable, max_positions: int
    ) -> None:
        super().__init__(tokenizer)
        self.engine = http.engine
        self.name = name
        self.hidden_size = table.hidden_size
        self.max_positions = max_positions
        self._http = http
        self._table = table

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def embed(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return (n, hidden_size) float32 input embeddings of token ids."""
        return self._table.rows(ids)

    def prefill(self, prompt: Prompt) -> ServedPrefix:
        """Let the server read a prompt, so that its cache has it."""
        for _ in self.stream(prompt, 1):
            pass
        return ServedPrefix(prompt, self, sum(map(len, prompt)))

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        *,
        sampling: Sampling = GREEDY,
        prefix: Prefix | None = None,
    ) -> Iterator[Piece]:
        """Answer one prompt piece by piece; closing the iterator ends the work."""
        whole = self.joined(prompt, prefix)
        require_fitting(self, whole, 0, max_new_tokens, engine=self.engine)
        return self._pieces(whole, max_new_tokens, sampling)

    def loglikelihood(
        self,
        prompts: Sequence[Prompt],
        targets: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> list[Likelihood]:
        """Score target token ids, each behind its prompt (itself behind a shared prefix)."""
        found = []
        for prompt, target in zip(prompts, targets, strict=True):
            whole = self.joined(prompt, prefix)
            require_fitting(self, whole, 0, len(target), engine=self.engine)
            found.append(self._likelihood(whole, target))
        return found

    @abstractmethod
    def _likelihood(self, prompt: Prompt, target: Sequence[int]) -> Likelihood:
        """Ask the server how likely token ids are; the prompt fits the model."""

    @abstractmethod
    def _pieces(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling) -> Iterator[Piece]:
        """Ask the server; the prompt fits the model."""

    def joined(self, prompt: Prompt, prefix: Prefix | None) -> Prompt:
        """Return a prompt with what stands before it.

        Raises
        ------
        TypeError
            Another target model made the prefix.
        """
        if prefix is None:
            return prompt
        if isinstance(prefix, ServedPrefix) and prefix.owner is self:
            return (*prefix.prompt, *prompt)
        raise TypeError(f"a prefix of another model: {type(prefix).__name__}")

    def matrix(self, prompt: Prompt) -> npt.NDArray[np.float32]:
        """Return (n, hidden_size) float32: text embedded, embeddings as they are."""
        parts = [
            self.embed(segment.ids)
            if isinstance(segment, TokenIds)
            else segment.embeds.astype(np.float32)
            for segment in prompt
        ]
        return np.concatenate(parts)

    def refuse_error(self, event: Any) -> None:
        """Raise what a server says amid an answer.

        Raises
        ------
        BackendError
            It says that something went wrong.
        """
        if isinstance(event, dict) and "error" in event:
            raise BackendError(f"{self.engine} gave up amid an answer")

    def cut_short(self) -> BackendError:
        """Return the error for an answer that ended without saying how."""
        return BackendError(f"{self.engine} ended an answer before it was whole")

    def wrong_answer(self, error: Exception) -> BackendError:
        """Return the error for an answer that is not of the engine's form."""
        return wrong_answer(self.engine, error)


def wrong_answer(engine: str, error: Exception) -> BackendError:
    """Return the error for an answer that is not of an engine's form."""
    return BackendError(
        f"{engine} sent an answer of another form than expected ({type(error).__name__}); "
        "docs/engines.md names the versions that were tried"
    )


def only_ids(prompt: Prompt) -> list[int] | None:
    """Return a prompt as token ids, None if it holds embeddings."""
    found: list[int] = []
    for segment in prompt:
        if not isinstance(segment, TokenIds):
            return None
        found += segment.ids
    return found
