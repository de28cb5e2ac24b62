"""``pooled``: the pooled residual condenser, any ratio in {1, 2, 4, 8, 16} at run time.

Per segment of 8r context tokens, the *base* of its 8 condensed tokens is the segment's most
informative contiguous span of 8 token embeddings. A residual, zero-initialised, adds what the
other tokens said: each dropped token belongs to one of the 8 slots, in order; the hidden states of
a slot's tokens behind layer K of the target are pooled and go through an MLP.

Design decisions

* The base is something a frozen model can read at once. Untrained, the condenser *is* a selection
  baseline; started from window means instead it had no content after 300k tokens (docs/log.md).
* Contiguous spans, since scattered tokens say almost nothing to a frozen model.
* The encoder is causal and pads on the right, so padding is never seen and no mask is needed.
* Informativeness is the unigram self-information of a token, a table stored with the checkpoint:
  it costs no pass of a model.

References
----------
Pooling over a frozen decoder: ARC-Encoder, arXiv:2510.20535 sec. 3, and arXiv:2510.20797.
Self-information as importance: Selective-Context, arXiv:2310.06201. Differs from all of them: the
residual on a contiguous span and the assignment of dropped tokens to slots are this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.lora import add_lora
from neural_condense_core.condensers.trainable import (
    NORM_RANGE,
    TrainableCondenser,
    WindowModule,
    clamp_norms,
)
from neural_condense_core.errors import CheckpointError
from neural_condense_core.llm.hf import HFTarget

RATIOS = (1, 2, 4, 8, 16)
SLOTS = 8
"""Condensed tokens per segment, and so the length of a contiguous span."""

DEFAULTS: dict[str, Any] = {"n_layers": 10, "lora_r": 64, "lora_alpha": 128}


class SegmentPlan:
    """Which tokens each condensed token stands for.

    Parameters
    ----------
    scores : (batch, n_padded) informativeness of each token
    n_context : (batch,) how many tokens of each row are real
    ratio : compression ratio r; a segment holds ``SLOTS * r`` tokens

    Attributes
    ----------
    base : (batch, n_segments * SLOTS) int64, the token whose embedding is the base
    slot : (batch, n_segments, SLOTS * r) int64, the slot a token belongs to, -1 for padding
    """

    def __init__(self, scores: Tensor, n_context: Tensor, ratio: int) -> None:
        length = SLOTS * ratio
        batch, n_padded = scores.shape
        n_segments = -(-n_padded // length)
        scores = nn.functional.pad(scores, (0, n_segments * length - n_padded))
        scores = scores.view(batch, n_segments, length)
        offset = torch.arange(length, device=scores.device)
        first = torch.arange(n_segments, device=scores.device) * length
        # per segment: how many tokens are real, how many condensed tokens they become
        n_real = (n_context[:, None] - first).clamp(0, length)
        n_slots = -(-n_real // ratio)
        start = _best_span(scores, n_real, n_slots)
        self.slot = _assign(offset, start[..., None], n_real[..., None], n_slots[..., None])
        base = first[:, None] + start[..., None] + offset[:SLOTS]
        self.base = base.flatten(1).clamp(max=n_padded - 1)


def _best_span(scores: Tensor, n_real: Tensor, n_slots: Tensor) -> Tensor:
    """Return where the best contiguous span of ``n_slots`` tokens starts, (batch, n_segments)."""
    length = scores.shape[-1]
    sums = nn.functional.pad(scores.double().cumsum(-1), (1, 0))
    starts = torch.arange(length, device=scores.device).expand(scores.shape)
    ends = (starts + n_slots[..., None]).clamp(max=length)
    totals = sums.gather(-1, ends) - sums.gather(-1, starts)
    totals = totals.masked_fill(starts > (n_real - n_slots)[..., None], -torch.inf)
    return totals.argmax(-1)


def _assign(offset: Tensor, start: Tensor, n_real: Tensor, n_slots: Tensor) -> Tensor:
    """Assign each token of a segment to a slot: its own in the span, else evenly in order."""
    dropped_rank = torch.where(offset < start, offset, offset - n_slots)
    n_dropped = (n_real - n_slots).clamp(min=1)
    evenly = dropped_rank * n_slots // n_dropped
    in_span = (offset >= start) & (offset < start + n_slots)
    slot = torch.where(in_span, offset - start, evenly)
    return torch.where(offset < n_real, slot, -1)


class PooledModule(WindowModule):
    """First K layers with LoRA, pooling into slots, MLP residual on the span's embeddings.

    Parameters
    ----------
    target : whose layers are copied and whose embeddings are the base
    n_layers : K
    lora_r, lora_alpha : rank and scale of the adapters on all linear layers
    """

    informativeness: Tensor

    def __init__(self, target: HFTarget, n_layers: int, lora_r: int, lora_alpha: int) -> None:
        super().__init__()
        hidden = target.hidden_size
        self.target = [target]  # in a list, so that its parameters are not this module's
        self.encoder = add_lora(target.first_layers(n_layers), lora_r, lora_alpha)
        self.norm = nn.RMSNorm(hidden)
        self.pool_score = nn.Linear(hidden, 1)
        self.ratio_embedding = nn.Embedding(len(RATIOS), 2 * hidden)
        self.up = nn.Linear(2 * hidden, 2 * hidden)
        self.down = nn.Linear(2 * hidden, hidden)
        for layer in (self.pool_score, self.down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.ratio_embedding.weight)
        self.register_buffer("informativeness", torch.zeros(target.embedding.num_embeddings))
        self.scale = target.embedding_scale
        self.mean_norm = self.scale * hidden**0.5

    def forward(self, input_ids: Tensor, n_context: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
        """Condense a batch of windows; see ``WindowModule``."""
        embeds = self.target[0].embed_ids(input_ids)
        if ratio == 1:  # nothing is dropped, so there is nothing to add
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            return embeds.float(), places.expand(input_ids.shape)
        states = self.encoder(
            inputs_embeds=embeds, attention_mask=torch.ones_like(input_ids), use_cache=False
        ).last_hidden_state
        plan = SegmentPlan(self.informativeness[input_ids], n_context, ratio)
        own = _gather(self.norm(states.float()), plan.base)
        pooled = self._pool(self.norm(states.float()), plan.slot)
        inner = torch.cat([own, pooled], -1) + self.ratio_embedding.weight[RATIOS.index(ratio)]
        residual = self.down(nn.functional.gelu(self.up(inner))).float() * self.scale
        base = _gather(embeds.float(), plan.base)
        n_condensed = -(-input_ids.shape[1] // ratio)
        return self._bound(base, residual)[:, :n_condensed], plan.base[:, :n_condensed]

    def _pool(self, states: Tensor, slot: Tensor) -> Tensor:
        """Pool states into slots by learned weights: (batch, n_segments * SLOTS, hidden)."""
        batch, n_segments, length = slot.shape
        states = nn.functional.pad(states, (0, 0, 0, n_segments * length - states.shape[1]))
        states = states.view(batch, n_segments, length, -1)
        member = slot[..., None, :] == torch.arange(SLOTS, device=slot.device)[:, None]
        scores = self.pool_score(states).float().squeeze(-1)[..., None, :]
        weights = scores.masked_fill(~member, -1e9).softmax(-1)
        pooled: Tensor = weights @ states
        return pooled.flatten(1, 2)

    def _bound(self, base: Tensor, residual: Tensor) -> Tensor:
        """Add the residual and keep each norm within ``NORM_RANGE`` of the mean embedding's.

        A base outside that range keeps its own norm as the bound, so that without a residual the
        result is the base, bit for bit.
        """
        own = base.norm(dim=-1, keepdim=True)
        low, high = (factor * self.mean_norm for factor in NORM_RANGE)
        return clamp_norms(base + residual, own.clamp(max=low), own.clamp(min=high))


def _gather(states: Tensor, index: Tensor) -> Tensor:
    """Pick rows: (batch, n, hidden) at (batch, m) -> (batch, m, hidden)."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


class PooledCondenser(TrainableCondenser):
    """The pooled residual condenser for one target model."""

    method = "pooled"
    ratios = RATIOS
    window_tokens = 256
    module: PooledModule

    def __init__(self, target: HFTarget, config: dict[str, Any]) -> None:
        super().__init__(target, {**DEFAULTS, **config})
        self._check_config(len(target.decoder.layers))
        self.module = PooledModule(target, **self.config)

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load a checkpoint.

        Raises
        ------
        CheckpointError
            It is missing, damaged, made for another model, or offers a ratio that cannot be.
        """
        condenser = super().load(options)
        if not set(condenser.ratios or ()) <= set(RATIOS):
            raise CheckpointError(
                f"{options.checkpoint} offers ratios {list(condenser.ratios or ())}; "
                f"pooled knows {list(RATIOS)}"
            )
        return condenser

    def save(self, folder: Path, name: str, ratios: Sequence[int], **facts: Any) -> None:
        """Write a checkpoint; ratio 1, the plain embeddings, needs no training and is offered."""
        super().save(folder, name, sorted({1, *ratios}), **facts)

    def _check_config(self, available: int) -> None:
        """Refuse settings that no pooled condenser has.

        Raises
        ------
        CheckpointError
            A setting is unknown, no whole number, or out of range.
        """
        unknown = sorted(self.config.keys() - DEFAULTS.keys())
        if unknown:
            raise CheckpointError(f"unknown settings of a pooled condenser: {', '.join(unknown)}")
        for key, value in self.config.items():
            if type(value) is not int or value < 1:
                raise CheckpointError(f"{key} must be a whole number from 1 on, got {value!r}")
        if self.config["n_layers"] > available:
            raise CheckpointError(
                f"n_layers is {self.config['n_layers']}; {self.target_model} has {available}"
            )

    def saved_buffers(self) -> set[str]:
        """Return the name of the table that selects the spans."""
        return {"informativeness"}

    def fit_statistics(self, stretches: Sequence[Sequence[int]]) -> None:
        """Set the informativeness of each token to its unigram self-information, nats."""
        counts = torch.ones_like(self.module.informativeness)
        for ids in stretches:
            index = torch.tensor(list(ids), device=counts.device)
            counts.index_add_(0, index, torch.ones_like(index, dtype=counts.dtype))
        self.module.informativeness.copy_(-(counts / counts.sum()).log())
