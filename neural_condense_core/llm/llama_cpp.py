"""``LlamaCppTarget``: a GGUF model of llama.cpp as a frozen target model.

Design decisions

* Everything comes from the GGUF file: weights, tokenizer, chat template. No torch is loaded.
* Token ids and embeddings are decoded in turns into one sequence; what a condensed token has to
  look like is what the embedding layer returns, and where llama.cpp scales rows that are
  embeddings already (Gemma 1 and 2) the scale is taken out before.
* A prefix is a sequence of its own; a question works on a copy, which shares the prefix's rows. A
  prefix that lost its rows to others is computed again when it is asked for: the least recently
  used goes first, and what a running answer reads is never taken.
* llama.cpp wants positions without gaps, so explicit positions other than 0, 1, 2, ... are refused.
* Calls from several threads take turns by the decode step, so streams may run side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

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
from neural_condense_core.llm.chat_template import render_template
from neural_condense_core.llm.decoding import answer_pieces, pick
from neural_condense_core.llm.fitting import require_fitting
from neural_condense_core.llm.gguf_files import embedding_rows
from neural_condense_core.llm.llama_native import N_BATCH, LlamaNative
from neural_condense_core.llm.llama_sequences import Sequences

DEFAULT_N_CTX = 8192
MAX_SEQUENCES = 16
"""Prefixes that are kept and answers that run, together."""

_keys = count()
_SCALED_TWICE = ("gemma", "gemma2")
"""Architectures for which llama.cpp scales all rows, embeddings too, by sqrt(hidden)."""

T = TypeVar("T")
Rows = Sequence[int] | npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LlamaPrefix:
    """A prompt that llama.cpp has computed, or will compute again.

    Parameters
    ----------
    prompt : what it holds
    owner : the target model that made it
    n_tokens : rows of the cache it takes
    key : what no other prefix has
    """

    prompt: Prompt
    owner: LlamaCppTarget
    n_tokens: int
    key: int = field(default_factory=lambda: next(_keys))

    def __del__(self) -> None:
        """Give its sequence back."""
        self.owner.sequences.drop(self.key)


class LlamaCppTarget(GeneratesByStreaming):
    """A frozen GGUF model with its tokenizer.

    Parameters
    ----------
    path : GGUF file
    name : how users call the model
    n_ctx : positions of one prompt and its answer at most; the model's own limit bounds it
    n_threads : None = ``OMP_NUM_THREADS``, else the CPUs at hand
    float32_cache : keys and values in float32 instead of float16
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        n_ctx: int = DEFAULT_N_CTX,
        n_threads: int | None = None,
        float32_cache: bool = False,
    ) -> None:
        self.native = LlamaNative(
            path,
            n_ctx=n_ctx,
            n_spare=n_ctx,
            n_sequences=MAX_SEQUENCES,
            n_threads=n_threads,
            float32_cache=float32_cache,
        )
        self.path = path
        self.name = name
        self.hidden_size = self.native.hidden_size
        self.max_positions = self.native.max_positions
        architecture = self.native.metadata("general.architecture")
        self._divisor = self.hidden_size**0.5 if architecture in _SCALED_TWICE else 1.0
        self._template = self.native.metadata("tokenizer.chat_template")
        self._lock = threading.RLock()
        self.sequences = Sequences(MAX_SEQUENCES, self.native.n_cells, self.native.forget)

    def close(self) -> None:
        """Free the model and its cache."""
        with self._lock:
            self.native.close()

    def tokenize(self, text: str) -> list[int]:
        """Return token ids, without special tokens of its own adding."""
        return self.native.tokenize(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        return self.native.decode_ids(ids).decode("utf-8", "replace")

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the chat template's text for messages, up to where the assistant speaks."""
        return render_template(
            self._template,
            messages,
            bos_token=self.native.special_text("bos"),
            eos_token=self.native.special_text("eos"),
        )

    def embed(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return (n, hidden_size) float32 input embeddings of token ids."""
        return embedding_rows(self.path, ids) * np.float32(self._divisor)

    def prefill(self, prompt: Prompt) -> LlamaPrefix:
        """Compute a prompt once; the result may be shared by any number of calls."""
        n = self._check(prompt, 0, 0)
        prefix = LlamaPrefix(prompt, self, n)
        with self._lock:
            self._sequence_of(prefix)
        return prefix

    def loglikelihood(
        self,
        prompts: Sequence[Prompt],
        targets: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> list[Likelihood]:
        """Score target token ids, each behind its prompt (itself behind a shared prefix)."""
        return [
            self._likelihood(prompt, target, prefix)
            for prompt, target in zip(prompts, targets, strict=True)
        ]

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        *,
        sampling: Sampling = GREEDY,
        prefix: Prefix | None = None,
    ) -> Iterator[Piece]:
        """Answer one prompt piece by piece; closing the iterator ends the work."""
        own = self._own(prefix)
        self._check(prompt, own.n_tokens if own else 0, max_new_tokens)
        return answer_pieces(
            self._next_tokens(prompt, max_new_tokens, own, sampling),
            self.decode,
            self.native.is_end,
            max_new_tokens,
            sampling.stop,
        )

    def _likelihood(
        self, prompt: Prompt, target: Sequence[int], prefix: Prefix | None
    ) -> Likelihood:
        own = self._own(prefix)
        start = own.n_tokens if own else 0
        whole = (*prompt, TokenIds(tuple(target[:-1])))
        n = self._check(whole, start, 0)
        wanted = iter(target)
        with self._lock, self._working(own, n) as sequence:
            found = self._run(
                whole, start, sequence, len(target), lambda row: _score(row, next(wanted))
            )
        return Likelihood(
            np.array([logprob for logprob, _ in found], np.float32),
            np.array([is_top for _, is_top in found], np.bool_),
        )

    def _next_tokens(
        self, prompt: Prompt, room: int, prefix: LlamaPrefix | None, sampling: Sampling
    ) -> Iterator[int]:
        generator = np.random.default_rng(sampling.seed)
        start = prefix.n_tokens if prefix else 0
        n = sum(map(len, prompt))

        def draw(row: npt.NDArray[np.float32]) -> int:
            return pick(row, sampling, generator)

        with self._working(prefix, n + room) as sequence:
            position = start + n
            with self._lock:
                (token,) = self._run(prompt, start, sequence, 1, draw)
            while True:
                yield token
                with self._lock:
                    said = (TokenIds((token,)),)
                    (token,) = self._run(said, position, sequence, 1, draw)
                position += 1

    @contextmanager
    def _working(self, prefix: LlamaPrefix | None, n_rows: int) -> Iterator[int]:
        """Give a sequence that begins with the prefix and has room for rows."""
        key = None if prefix is None else prefix.key
        with self._lock:
            source = None if prefix is None else self._sequence_of(prefix)
            with self.sequences.reading(key):
                sequence = self.sequences.take(n_rows)
            if source is not None:
                self.native.copy(source, sequence)
        try:
            with self.sequences.reading(key):
                yield sequence
        finally:
            with self._lock:
                self.sequences.release(sequence)

    def _sequence_of(self, prefix: LlamaPrefix) -> int:
        sequence = self.sequences.find(prefix.key)
        if sequence is None:
            sequence = self.sequences.take(prefix.n_tokens)
            try:
                self._run(prefix.prompt, 0, sequence, 0, _nothing)
            except BaseException:
                self.sequences.release(sequence)
                raise
            self.sequences.keep(prefix.key, sequence)
        return sequence

    def _run(
        self,
        prompt: Prompt,
        position: int,
        sequence: int,
        n_wanted: int,
        take: Callable[[npt.NDArray[np.float32]], T],
    ) -> list[T]:
        """Compute a prompt; return what ``take`` makes of the logits of its last rows."""
        found: list[T] = []
        left = sum(map(len, prompt))
        for rows in self._batches(prompt):
            n = len(rows)
            wanted = range(max(0, n - max(0, n_wanted - (left - n))), n)
            if left - n >= n_wanted:
                wanted = range(0)
            self.native.decode(rows, position, sequence, wanted)
            found += [take(self.native.logits(i)) for i in wanted]
            position += n
            left -= n
        return found

    def _batches(self, prompt: Prompt) -> Iterator[Rows]:
        for segment in prompt:
            rows: Rows
            if isinstance(segment, TokenIds):
                rows = segment.ids
            else:
                rows = segment.embeds.astype(np.float32) / np.float32(self._divisor)
            for at in range(0, len(rows), N_BATCH):
                yield rows[at : at + N_BATCH]

    def _check(self, prompt: Prompt, start: int, room: int) -> int:
        return require_fitting(self, prompt, start, room, engine="llama.cpp")

    def _own(self, prefix: Prefix | None) -> LlamaPrefix | None:
        if prefix is None or (isinstance(prefix, LlamaPrefix) and prefix.owner is self):
            return prefix
        raise TypeError(f"a prefix of another model: {type(prefix).__name__}")


def _nothing(_: npt.NDArray[np.float32]) -> None:
    return None


def _score(row: npt.NDArray[np.float32], token: int) -> tuple[float, bool]:
    best = row.max()
    total = np.log(np.exp((row - best).astype(np.float64)).sum())
    return float(row[token] - best - total), bool(row.argmax() == token)
