"""``pooled``: the pooled residual condenser, any ratio in {1, 2, 4, 8, 16} at run time.

Of each window the runs of tokens that are most worth keeping, and its end (``salience.py``,
``span_plan.py``), are the *base*: their embeddings, as many as there are condensed tokens. A
residual, zero-initialised, adds what the other tokens said: each dropped token belongs to one of
the kept ones, in order; the hidden states of such a slot's tokens behind layer K of the target are
pooled and go through an MLP.

Design decisions

* The base is something a frozen model can read at once. Untrained, the condenser *is* a selection
  baseline; started from window means instead it had no content after 300k tokens (docs/log.md).
* The encoder is causal and pads on the right, so padding is never seen and no mask is needed.
* Layers below the one that salience reads have no adapters: the plan of a text is fixed before
  training and stays what it was, and one pass serves both.
* Unigram self-information, a part of the score, is a table stored with the checkpoint. Digits stand
  higher in it: without that numbers were dropped almost always (docs/log.md).

References
----------
Pooling over a frozen decoder: ARC-Encoder, arXiv:2510.20535 sec. 3, and arXiv:2510.20797.
Self-information as importance: Selective-Context, arXiv:2310.06201. Differs from all of them: the
residual on runs of kept tokens and the assignment of dropped tokens to them are this project's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.lora import add_lora
from neural_condense_core.condensers.packed_encoder import PackedEncoder, packed_or_none
from neural_condense_core.condensers.salience import LAYER, Salience
from neural_condense_core.condensers.span_plan import SpanPlan
from neural_condense_core.condensers.trainable import (
    NORM_RANGE,
    TrainableCondenser,
    WindowModule,
    clamp_norms,
)
from neural_condense_core.errors import CheckpointError
from neural_condense_core.llm.hf import HFTarget

RATIOS = (1, 2, 4, 8, 16)

PROBE_TEXT = """
The harbour master, Mr. Okafor, opened the ledger at 6:45. "Three boats left before dawn," he said,
"and only two have called in." Outside, rain ran down the windows; a gull cried. On 14 March 1987
the same thing had happened: the trawler Ida, with a crew of 9, was found 12 km off the cape. In its
report (section 4.2) the commission recommended new radios, better charts & a second lighthouse, at
a cost of $1.3 million. However, most of it was never built. Why? Nobody in the village could give a
simple answer. According to the council's engineer, Dr. Anna Lindqvist, the river carries about 5%
more water each decade, so plans that were good in 1950 fail today.
"""
"""Ordinary text on which a packed encoder sees how large its numbers become."""

DIGIT_NATS = 5.0
"""What a digit tells beyond its own rarity: digits are common, the number that they spell is not,
and nothing around it lets a reader guess it."""

MAX_PACKED_TOKENS = 2048
"""Tokens that a packed encoder takes at once; their states fill the caches of a core by then."""

DEFAULTS: dict[str, Any] = {"n_layers": 10, "lora_r": 64, "lora_alpha": 128, "tail_eighths": 2}
LEAST = {"tail_eighths": 0}
"""Least value of a setting, where that is not 1."""


class PooledModule(WindowModule):
    """First K layers with LoRA, pooling into slots, MLP residual on the kept tokens' embeddings.

    Parameters
    ----------
    target : whose layers are copied and whose embeddings are the base
    n_layers : K
    lora_r, lora_alpha : rank and scale of the adapters on all linear layers from ``LAYER`` on
    tail_eighths : eighths of the kept tokens that are the last ones of a window
    """

    informativeness: Tensor

    def __init__(
        self, target: HFTarget, n_layers: int, lora_r: int, lora_alpha: int, tail_eighths: int
    ) -> None:
        super().__init__()
        self.tail_eighths = tail_eighths
        hidden = target.hidden_size
        self.target = [target]  # in a list, so that its parameters are not this module's
        self.salience_layer = min(LAYER, n_layers - 1)
        self.encoder = add_lora(
            target.first_layers(n_layers), lora_r, lora_alpha, first_layer=self.salience_layer
        )
        self.packed: PackedEncoder | None = None
        self.salience = Salience(hidden).requires_grad_(False)
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
        states, early = self._encode(embeds, n_context)
        scores = self.salience(early, n_context, self.informativeness[input_ids])
        plan = SpanPlan(scores, n_context, ratio, self.tail_eighths)
        normed = self.norm(states.float())
        inner = torch.cat([_gather(normed, plan.kept), self._pool(normed, plan)], -1)
        inner = inner + self.ratio_embedding.weight[RATIOS.index(ratio)]
        residual = self.down(nn.functional.gelu(self.up(inner))).float() * self.scale
        return self._bound(_gather(embeds.float(), plan.kept), residual), plan.kept

    def early_layers(self) -> Any:
        """Return a decoder of the layers whose states salience reads; None if it has none."""
        below = self.salience_layer
        return self.target[0].first_layers(below) if below else None

    def pack(self, window_tokens: int, probe: Sequence[int]) -> None:
        """Encode by ``PackedEncoder`` from now on, where it helps; trained weights are merged.

        Parameters
        ----------
        window_tokens : longest window
        probe : token ids of some text
        """
        embeds = self.target[0].embed_ids(torch.tensor(list(probe)[:window_tokens]))
        self.packed = packed_or_none(self.encoder, self.salience_layer, window_tokens, embeds)

    def _encode(self, embeds: Tensor, n_context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states behind layer K and behind salience's layer, (batch, n, hidden)."""
        if self.packed is not None:
            is_real = torch.arange(embeds.shape[1]) < n_context[:, None]
            found = self.packed(embeds[is_real], n_context.tolist())
            padded = embeds.new_zeros(2, *embeds.shape, dtype=torch.float32)
            padded[0, is_real], padded[1, is_real] = found
            return padded[0], padded[1]
        encoded = self.encoder(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
            use_cache=False,
            output_hidden_states=True,
        )
        return encoded.last_hidden_state, encoded.hidden_states[self.salience_layer]

    def _pool(self, states: Tensor, plan: SpanPlan) -> Tensor:
        """Pool states into slots by learned weights: (batch, n_slots, hidden)."""
        slots = torch.arange(plan.kept.shape[1], device=states.device)
        member = plan.slot[:, None, :] == slots[:, None]
        scores = self.pool_score(states).float().squeeze(-1)[:, None, :]
        weights = scores.masked_fill(~member, -1e9).softmax(-1)
        pooled: Tensor = weights @ states
        return pooled

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
        if options.dtype == "auto":
            condenser.module.pack(cls.window_tokens, condenser.tokenize(PROBE_TEXT))
        return condenser

    def save(self, folder: Path, name: str, ratios: Sequence[int], **facts: Any) -> None:
        """Write a checkpoint; ratio 1, the plain embeddings, needs no training and is offered."""
        super().save(folder, name, sorted({1, *ratios}), **facts)

    def _chunks(
        self, contexts: Sequence[Sequence[int]], windows: list[tuple[int, int]]
    ) -> Iterator[list[tuple[int, int]]]:
        """Group windows; a packed encoder takes any lengths together, the rest is cheap."""
        if self.module.packed is None:
            yield from super()._chunks(contexts, windows)
            return
        size = MAX_PACKED_TOKENS // self.window_tokens
        by_length = sorted(windows, key=lambda window: len(contexts[window[0]]) - window[1])
        for first in range(0, len(by_length), size):
            yield by_length[first : first + size]

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
            least = LEAST.get(key, 1)
            if type(value) is not int or value < least:
                raise CheckpointError(
                    f"{key} must be a whole number from {least} on, got {value!r}"
                )
        if self.config["tail_eighths"] > 8:
            raise CheckpointError(
                f"tail_eighths is {self.config['tail_eighths']}; 8 is all of them"
            )
        if self.config["n_layers"] > available:
            raise CheckpointError(
                f"n_layers is {self.config['n_layers']}; {self.target_model} has {available}"
            )

    def saved_buffers(self) -> set[str]:
        """Return the names of all that decides which tokens are kept."""
        head = self.module.salience.state_dict()
        return {"informativeness", *(f"salience.{name}" for name in head)}

    def fit_statistics(self, stretches: Sequence[Sequence[int]]) -> None:
        """Set the informativeness of each token to its unigram self-information, nats.

        Digits get ``DIGIT_NATS`` more.
        """
        counts = torch.ones_like(self.module.informativeness)
        for ids in stretches:
            index = torch.tensor(list(ids), device=counts.device)
            counts.index_add_(0, index, torch.ones_like(index, dtype=counts.dtype))
        n_texts = min(len(counts), len(self.target.tokenizer))
        texts = self.target.tokenizer.batch_decode([[i] for i in range(n_texts)])
        digits = [DIGIT_NATS * any(map(str.isdigit, text)) for text in texts]
        self.module.informativeness.copy_(-(counts / counts.sum()).log())
        self.module.informativeness[:n_texts] += torch.tensor(digits, device=counts.device)
