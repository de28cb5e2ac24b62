"""``HFTarget``: any causal LM of transformers as a frozen target model.

Design decisions

* Everything enters as embeddings: token ids go through the model's own embedding layer, condensed
  tokens are spliced in beside them. What a condensed token has to look like is what that layer
  *returns* (families that scale embeddings, such as Gemma, do so inside it).
* Position ids are always explicit, so condensed tokens may have positions of their own.
* An attention mask is always passed: without one transformers reads gaps in the position ids as
  borders of packed sequences.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax, pad

from neural_condense_core.errors import RequestError, TargetModelError
from neural_condense_core.llm.base import (
    GREEDY,
    Likelihood,
    Piece,
    Prefix,
    Prompt,
    Sampling,
    TokenIds,
)
from neural_condense_core.llm.decoding import answer_pieces
from neural_condense_core.llm.hf_steps import end_token_ids, next_tokens
from neural_condense_core.llm.prefix import HFPrefix, expand_cache, own_prefix
from neural_condense_core.llm.rows import Row, batches, bucketed, stack_rows
from neural_condense_core.llm.text import HFText

MAX_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


class HFTarget(HFText):
    """A frozen causal LM with its tokenizer.

    Parameters
    ----------
    model : a transformers ``...ForCausalLM``; put into eval mode, its gradients switched off
    tokenizer : its tokenizer
    name : how users call the model
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        super().__init__(tokenizer)
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.hidden_size = int(model.config.hidden_size)
        self.max_positions = int(model.config.max_position_embeddings)
        self.device = model.device
        self.dtype = model.dtype

    @property
    def decoder(self) -> Any:
        """The transformer without its head; returns the last hidden state after the final norm."""
        return self.model.get_decoder()

    @property
    def embedding(self) -> Any:
        """The input embedding layer."""
        return self.model.get_input_embeddings()

    @property
    def embedding_scale(self) -> float:
        """Mean RMS of a row of what the embedding layer returns."""
        return _embedding_scale(self)

    def first_layers(self, n_layers: int) -> Any:
        """Return a decoder of copies of the first layers, to be adapted freely.

        Called like the decoder, with ``inputs_embeds``; returns the hidden state behind layer
        ``n_layers`` as it is, without the final norm. Embeddings and rotary tables are shared.

        Raises
        ------
        RequestError
            The model has fewer layers.
        """
        layers = self.decoder.layers
        if not 1 <= n_layers <= len(layers):
            raise RequestError(f"{self.name} has {len(layers)} layers, {n_layers} were asked for")
        clone = copy.copy(self.decoder)
        clone._modules = dict(self.decoder._modules)  # a shallow copy shares the dict itself
        clone.layers = torch.nn.ModuleList(copy.deepcopy(layer) for layer in layers[:n_layers])
        clone.norm = torch.nn.Identity()
        return clone

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Look token ids of any shape up: (..., hidden), the model's dtype."""
        found: Tensor = self.embedding(ids.to(self.device))
        return found

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return (n, hidden_size) float32 input embeddings of token ids."""
        return self.embed_ids(torch.tensor(list(ids))).float().cpu().numpy()

    @torch.no_grad()  # not inference mode: training reads the result under autograd
    def prefill(self, prompt: Prompt) -> HFPrefix:
        """Compute a prompt once; the result may be shared by any number of calls."""
        row = self._row(prompt, 0)
        out = self.decoder(
            inputs_embeds=row.embeds[None],
            attention_mask=torch.ones(1, len(row), dtype=torch.long, device=self.device),
            position_ids=row.positions[None],
            use_cache=True,
        )
        return HFPrefix(out.past_key_values, len(row), row.next_position)

    @torch.inference_mode()
    def loglikelihood(
        self,
        prompts: Sequence[Prompt],
        targets: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> list[Likelihood]:
        """Score target token ids, each behind its prompt (itself behind a shared prefix).

        Parameters
        ----------
        prompts : one a target, not empty
        targets : token ids, at least one each
        prefix : what stands before every prompt

        Returns
        -------
        one a target, nats per token
        """
        own = own_prefix(prefix)
        start = own.next_position if own else 0
        rows = [
            self._row((*prompt, TokenIds(tuple(target[:-1]))), start)
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        found: list[Likelihood | None] = [None] * len(rows)
        for indices in self._batches([len(row) for row in rows]):
            hidden = self._hidden_states([rows[i] for i in indices], own)
            for i, states in zip(indices, hidden, strict=True):
                n = len(rows[i])
                found[i] = self._likelihood(states[n - len(targets[i]) : n], targets[i])
        return [likelihood for likelihood in found if likelihood is not None]

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        prefix: Prefix | None = None,
    ) -> list[str]:
        """Answer each prompt greedily; ends at the model's end-of-turn token."""
        own = own_prefix(prefix)
        start = own.next_position if own else 0
        rows = [self._row(prompt, start, max_new_tokens) for prompt in prompts]
        found = [""] * len(rows)
        for indices in self._batches([len(row) + max_new_tokens for row in rows]):
            batch = [rows[i] for i in indices]
            for i, text in zip(indices, self._generate(batch, max_new_tokens, own), strict=True):
                found[i] = text
        return found

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        *,
        sampling: Sampling = GREEDY,
        prefix: Prefix | None = None,
    ) -> Iterator[Piece]:
        """Answer one prompt piece by piece; closing the iterator ends the work."""
        own = own_prefix(prefix)
        row = self._row(prompt, own.next_position if own else 0, max_new_tokens)
        return answer_pieces(
            next_tokens(self.model, row, own, sampling),
            self.decode,
            end_token_ids(self.model).__contains__,
            max_new_tokens,
            sampling.stop,
        )

    @torch.inference_mode()
    def surprisal(self, batch: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """Return the self-information of each token of plain texts, nats.

        The first token has no past to be surprising in; it takes its text's highest value.
        """
        prompts = [(TokenIds((ids[0],)),) for ids in batch]
        tails = [ids[1:] for ids in batch]
        scored = iter(
            self.loglikelihood(
                [prompt for prompt, tail in zip(prompts, tails, strict=True) if len(tail)],
                [tail for tail in tails if len(tail)],
            )
        )
        found = []
        for tail in tails:
            values = -next(scored).logprobs if len(tail) else np.zeros(0, np.float32)
            found.append(np.concatenate([values.max(initial=0.0, keepdims=True), values]))
        return found

    def _row(self, prompt: Prompt, start: int, room: int = 0) -> Row:
        """Lay a prompt out as embeddings and positions, the first position being ``start``.

        Raises
        ------
        RequestError
            The prompt takes more positions than the model has.
        """
        embeds: list[Tensor] = []
        positions: list[Tensor] = []
        for segment in prompt:
            n = len(segment)
            offsets = torch.arange(n)
            if isinstance(segment, TokenIds):
                embeds.append(self.embed_ids(torch.tensor(segment.ids, dtype=torch.long)))
                span = n
            else:
                embeds.append(torch.from_numpy(segment.embeds).to(self.device, self.dtype))
                span = n if segment.span is None else segment.span
                if segment.positions is not None:
                    offsets = torch.from_numpy(segment.positions)
            positions.append(start + offsets)
            start += span
        if start + room > self.max_positions:
            raise RequestError(
                f"the prompt and {room} new tokens take {start + room} positions and {self.name} "
                f"has {self.max_positions}",
                {"positions": start + room, "max_positions": self.max_positions},
            )
        return Row(torch.cat(embeds), torch.cat(positions).to(self.device), start)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        return batches(lengths, MAX_BATCH_TOKENS.get(self.device.type, MAX_BATCH_TOKENS["cpu"]))

    def _hidden_states(self, rows: Sequence[Row], prefix: HFPrefix | None) -> Tensor:
        """Run right-padded rows: (batch, bucketed length, hidden)."""
        length = bucketed(max(len(row) for row in rows))
        embeds, positions = stack_rows(rows, length, left=False)
        n_past = prefix.n_tokens if prefix else 0
        mask = torch.ones(len(rows), n_past + length, dtype=torch.long, device=self.device)
        out = self.decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=expand_cache(prefix, len(rows)),
            use_cache=prefix is not None,
        )
        states: Tensor = out.last_hidden_state
        return states

    def _likelihood(self, states: Tensor, target: Sequence[int]) -> Likelihood:
        logits = self.logits(states)
        ids = torch.tensor(list(target), device=self.device)
        logprobs = log_softmax(logits, dim=-1).gather(1, ids[:, None])[:, 0]
        return Likelihood(logprobs.cpu().numpy(), (logits.argmax(-1) == ids).cpu().numpy())

    def logits(self, states: Tensor) -> Tensor:
        """Project last hidden states on the vocabulary: (..., vocab) float32.

        The product is float32 whatever the model is in: a logit of 20 is rounded to 0.06 nats in
        bfloat16, and a two-token answer is judged by such differences.
        """
        logits = linear(states.float(), self._head, self._head_bias)
        config = self.model.config
        logits = logits * getattr(config, "logit_scale", 1.0)  # Cohere
        logits = logits / getattr(config, "logits_scaling", 1.0)  # Granite
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @cached_property
    def _head(self) -> Tensor:
        weight: Tensor = self.model.get_output_embeddings().weight
        with torch.inference_mode(False):  # it is kept, and gradients pass through it too
            return weight.detach().float()

    @cached_property
    def _head_bias(self) -> Tensor | None:
        bias: Tensor | None = self.model.get_output_embeddings().bias
        with torch.inference_mode(False):
            return None if bias is None else bias.detach().float()

    def _generate(
        self, rows: Sequence[Row], max_new_tokens: int, prefix: HFPrefix | None
    ) -> list[str]:
        length = max(len(row) for row in rows)
        n_past = prefix.n_tokens if prefix else 0
        embeds, positions = stack_rows(rows, length, left=True)
        mask = torch.ones(len(rows), n_past + length, dtype=torch.long, device=self.device)
        for i, row in enumerate(rows):
            mask[i, n_past : n_past + length - len(row)] = 0
        out = self.model.generate(
            # generate wants the whole sequence and cuts the cached part off again, unread
            inputs_embeds=pad(embeds, (0, 0, n_past, 0)),
            attention_mask=mask,
            position_ids=pad(positions, (n_past, 0)),
            past_key_values=expand_cache(prefix, len(rows)),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self._pad_token_id(),
        )
        return [self.decode(ids).strip() for ids in out.tolist()]

    def _pad_token_id(self) -> int:
        for name in ("pad_token_id", "eos_token_id"):
            found = getattr(self.tokenizer, name)
            if found is not None:
                return int(found)
        return 0


@lru_cache(maxsize=8)
def _embedding_scale(target: HFTarget) -> float:
    with torch.inference_mode():
        ids = torch.arange(target.embedding.num_embeddings)
        squares = [
            target.embed_ids(chunk).float().pow(2).mean(-1).sqrt().cpu()
            for chunk in torch.split(ids, 8192)
        ]
    return float(torch.cat(squares).mean())


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the torch dtype that ``"auto"``, ``"float32"`` or ``"bfloat16"`` means on a device.

    ``auto`` is bfloat16 on a GPU and on a CPU with native bfloat16 products (about twice the
    speed of float32 through oneDNN), else float32.

    Raises
    ------
    TargetModelError
        No such dtype.
    """
    if dtype == "auto":
        native = device != "cpu" or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise TargetModelError(f"unknown dtype {dtype!r}; known: auto, {', '.join(known)}")
    return known[dtype]


def load_target(name: str, device: str = "cpu", dtype: str = "auto") -> HFTarget:
    """Load a target model; the same arguments give the same object.

    Parameters
    ----------
    name : ``"smollm2-135m-instruct"`` (embedded), a folder, or a Hugging Face name
    device : torch device
    dtype : ``"auto"``, ``"float32"`` or ``"bfloat16"``

    A model that cannot be found, fetched or read is a ``TargetModelError``.
    """
    return _load_target(name, device, dtype)


@lru_cache(maxsize=2)  # by position, so that every spelling of a call finds the same object
def _load_target(name: str, device: str, dtype: str) -> HFTarget:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # seconds to import
    from transformers.utils import logging

    from neural_condense_core.llm import embedded

    logging.disable_progress_bar()  # our own commands say what they wait for
    source = str(embedded.model_path()) if name == embedded.NAME else name
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=resolve_dtype(dtype, device), use_safetensors=True
        )
        model = model.to(device)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:
        raise TargetModelError(
            f"cannot load target model {name!r} on {device}: {type(error).__name__}: {error}; "
            f"give the embedded model {embedded.NAME!r}, a folder with safetensors weights, or a "
            "Hugging Face name that this machine can reach"
        ) from error
    return HFTarget(model, tokenizer, name)
