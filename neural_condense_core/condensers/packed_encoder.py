"""``PackedEncoder``: the layers of a condenser's encoder, rewritten for use on a CPU.

Where it sits: ``pooled.py`` runs it in place of its own encoder once trained weights are loaded.
It is for use alone: it has no gradients, and a module that trains never has one.

Design decisions

* Tokens of all windows lie in one matrix, without padding; only attention goes window by window.
  So a batch costs what its tokens cost, and several short contexts share the fixed cost of a layer.
* Products are of 8-bit integers (``int8.py``): about twice the rate of bfloat16 and four times that
  of float32 on CPUs with VNNI. Sums between layers, norms and activations stay float32. Scores and
  mixtures of attention are bfloat16 products where the CPU has them.
* A layer is written for its memory traffic: query, key and value are one product, gate and up are
  another; a row's scale, its norm's and its rounding are one multiplication; rotary positions are a
  multiplication of complex numbers, for which the rows of the query and key weights are reordered.
* Not compiled: torch.compile gained a tenth of a pass at half a minute of start, and needs a
  compiler on the machine (docs/log.md).
* It is checked against what it replaces when it is made (``packed_or_none``), and not used where
  the two differ: a layer of an architecture that only looks like Llama's is found out.

References
----------
Rows without padding: effective transformers as in ByteTransformer, arXiv:2210.03052 sec. 3.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from neural_condense_core.condensers.int8 import Int8Linear, Rows, is_fast, quantize_rows

log = logging.getLogger(__name__)

LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
"""Decoder layers whose arithmetic this is: RMS norm, rotary attention, norm, gated SiLU."""

LEAST_COSINE = 0.985
"""How near the states of the replaced encoder have to be, for the median of a probe's tokens: one
whose embedding is zero, as some models' padding is, has nothing but noise in its first states."""

TOWARDS_WEIGHTS = 0.65
"""How much of a channel's size goes into the weights; 0.5 and 0.8 are less exact (docs/log.md)."""

_LEAST = 1e-5
ROWS = 16
"""Token counts are rounded up to a multiple of it: every new one costs oneDNN a kernel."""


class Balance:
    """How to share a product's range between its two sides, channel by channel.

    Some channels of the states are hundreds of times as large as others, and whole rows are rounded
    by their largest number. A channel that is divided by a factor before and multiplied by it in
    the weights says the same; the factors cost nothing, as they go into what stands before: a
    norm's weight, or the rows of another product.

    Parameters
    ----------
    decoder : the layers
    probe : (n, hidden) embeddings of some text; how large the channels are is seen on it

    References
    ----------
    SmoothQuant, arXiv:2211.10438 sec. 4.
    """

    def __init__(self, decoder: Any, probe: Tensor) -> None:
        self._largest: dict[int, Tensor] = {}
        hooks = [
            part.register_forward_pre_hook(self._see)
            for layer in decoder.layers
            for part in (
                layer.self_attn.q_proj, layer.self_attn.o_proj,
                layer.mlp.gate_proj, layer.mlp.down_proj,
            )
        ]  # fmt: skip
        _run(decoder, probe)
        for hook in hooks:
            hook.remove()

    def _see(self, part: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._largest[id(part)] = given[0].float().abs().flatten(0, -2).amax(0)

    def of(
        self, part: nn.Module, weight: Tensor, heads: tuple[int, int, int] | None = None
    ) -> Tensor:
        """Return the factor of each channel that goes into a layer.

        Parameters
        ----------
        part : one of the layers that were seen
        weight : (n_out, n_in), all weights that multiply the same channels
        heads : the channels are those of heads, so many groups times heads times channels; the
            heads of a group read the same values and have to share factors
        """
        seen = self._largest[id(part)].clamp(min=_LEAST)
        held = weight.detach().float().abs().amax(0).clamp(min=_LEAST)
        factors = seen**TOWARDS_WEIGHTS / held ** (1 - TOWARDS_WEIGHTS)
        if heads is not None:
            grouped = factors.view(heads)
            factors = grouped.amax(1, keepdim=True).expand_as(grouped).reshape(-1)
        return factors / factors.median()


class _Layer(NamedTuple):
    norm: Tensor
    qkv: Int8Linear
    qkv_bias: Tensor | None
    out: Int8Linear
    mlp_norm: Tensor
    gate_up: Int8Linear
    down: Int8Linear


class PackedEncoder:
    """The first layers of a decoder, adapters merged in.

    Parameters
    ----------
    decoder : as ``HFTarget.first_layers`` returns it, of a supported kind
    early : number of layers whose states are returned beside the last ones
    max_tokens : longest window
    probe : (n, hidden) embeddings of some text
    """

    def __init__(self, decoder: Any, early: int, max_tokens: int, probe: Tensor) -> None:
        config = decoder.config
        self.early = early
        self.n_heads = int(config.num_attention_heads)
        self.n_groups = int(config.num_key_value_heads)
        self.head_dim = int(decoder.layers[0].self_attn.head_dim)
        self.eps = float(config.rms_norm_eps)
        self.attention_dtype = (
            torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
        )
        self.turns = _turns(decoder, max_tokens)
        self.ahead = torch.full((max_tokens, max_tokens), -torch.inf).triu(1)
        self.ahead = self.ahead.to(self.attention_dtype)
        balance = Balance(decoder, probe)
        self.layers = [self._layer(layer, balance) for layer in decoder.layers]

    def __call__(self, embeds: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Run windows that lie one behind the other.

        Parameters
        ----------
        embeds : (sum of lengths, hidden)
        lengths : of the windows, tokens

        Returns
        -------
        (sum of lengths, hidden) float32 states behind the last layer and behind layer ``early``
        """
        n = len(embeds)
        states = embeds.new_zeros(-(-n // ROWS) * ROWS, embeds.shape[1], dtype=torch.float32)
        states[:n] = embeds
        turns = torch.ones(len(states), 1, self.head_dim // 2, dtype=torch.complex64)
        torch.cat([self.turns[:length] for length in lengths], out=turns[:n])
        early = states
        with torch.autocast("cpu", enabled=False):
            for i, layer in enumerate(self.layers):
                if i == self.early:
                    early = states.clone()
                self._attend(states, layer, turns, lengths)
                self._transform(states, layer)
        return states[:n], early[:n]

    def _attend(self, states: Tensor, layer: _Layer, turns: Tensor, lengths: Sequence[int]) -> None:
        """Add a layer's attention to the states."""
        rows = self._normed(states, layer.norm)
        mixed = layer.qkv(rows).mul_(rows.scale)
        if layer.qkv_bias is not None:
            mixed += layer.qkv_bias
        heads = mixed.view(len(states), -1, self.head_dim)
        n_turned = self.n_heads + self.n_groups
        pairs = heads[:, :n_turned].view(len(states), n_turned, self.head_dim // 2, 2)
        torch.view_as_complex(pairs).mul_(turns)
        heads = heads.to(self.attention_dtype)
        read = torch.zeros(len(states), self.n_heads, self.head_dim)
        start = 0
        for length in lengths:
            window = heads[start : start + length]
            read[start : start + length] = self._read(window)
            start += length
        rows = quantize_rows(read.flatten(1))
        states += layer.out(rows).mul_(rows.scale)

    def _read(self, window: Tensor) -> Tensor:
        """Attend within one window: (n, heads and groups twice, d) -> (n, heads, d).

        Query heads of one group become rows of one product with the group's keys.
        """
        n, shared = len(window), self.n_heads // self.n_groups
        heads = window.transpose(0, 1)
        query, value = heads[: self.n_heads], heads[-self.n_groups :]
        key = heads[self.n_heads : -self.n_groups]
        if self.attention_dtype == torch.float32:  # faster than the products below, in float32
            return scaled_dot_product_attention(
                query[None], key[None], value[None], is_causal=True, enable_gqa=True, scale=1.0
            )[0].transpose(0, 1)
        stacked = query.reshape(self.n_groups, shared * n, self.head_dim)
        scores = torch.bmm(stacked, key.transpose(1, 2)).view(self.n_heads, n, n)
        weights = scores.add_(self.ahead[:n, :n]).softmax(-1)
        read = torch.bmm(weights.view(self.n_groups, shared * n, n), value)
        return read.view(self.n_heads, n, self.head_dim).transpose(0, 1)

    def _transform(self, states: Tensor, layer: _Layer) -> None:
        """Add a layer's gated transformation to the states."""
        rows = self._normed(states, layer.mlp_norm)
        gate, up = layer.gate_up(rows).chunk(2, 1)
        # up's own scale is the row's: it would be divided out by the next rounding
        inner = quantize_rows(silu(gate.mul_(rows.scale), inplace=True) * up)
        states += layer.down(inner).mul_(inner.scale * rows.scale)

    def _normed(self, states: Tensor, weight: Tensor) -> Rows:
        """RMS-norm and round; the norm's factor goes into the scale."""
        factor = torch.rsqrt(states.square().mean(1, keepdim=True) + self.eps)
        rows = quantize_rows(states * weight)
        return Rows(rows.numbers, rows.scale * factor)

    def _layer(self, layer: Any, balance: Balance) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        query, key, value, gate, up = (
            _plain(part).weight.detach().float()
            for part in (
                attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj,
            )
        )  # fmt: skip
        into = balance.of(attention.q_proj, torch.cat([query, key, value]))
        heads = (self.n_groups, self.n_heads // self.n_groups, self.head_dim)
        read = balance.of(attention.o_proj, _plain(attention.o_proj).weight, heads)
        mlp_into = balance.of(mlp.gate_proj, torch.cat([gate, up]))
        inner = balance.of(mlp.down_proj, _plain(mlp.down_proj).weight)
        # heads of one group read the same values
        value_read = read.view(heads)[:, 0].reshape(-1, 1)
        turned = [
            self._reordered(query * attention.scaling, self.n_heads),
            self._reordered(key, self.n_groups),
        ]
        return _Layer(
            layer.input_layernorm.weight.detach().float() / into,
            Int8Linear(torch.cat([*turned, value / value_read]) * into),
            self._qkv_bias(attention, value_read.flatten()),
            Int8Linear(_plain(attention.o_proj).weight * read),
            layer.post_attention_layernorm.weight.detach().float() / mlp_into,
            Int8Linear(torch.cat([gate, up / inner[:, None]]) * mlp_into),
            Int8Linear(_plain(mlp.down_proj).weight * inner),
        )

    def _qkv_bias(self, attention: Any, read: Tensor) -> Tensor | None:
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        if _plain(parts[0]).bias is None:
            return None
        query, key, value = (_plain(part).bias.detach().float() for part in parts)
        return torch.cat([
            self._reordered(query * attention.scaling, self.n_heads),
            self._reordered(key, self.n_groups),
            value / read,
        ])

    def _reordered(self, rows: Tensor, n_heads: int) -> Tensor:
        """Put the two halves of each head's rows side by side in pairs: complex numbers."""
        halves = rows.reshape(n_heads, 2, self.head_dim // 2, *rows.shape[1:])
        return halves.transpose(1, 2).reshape(rows.shape)


def packed_or_none(
    decoder: Any, early: int, max_tokens: int, probe: Tensor
) -> PackedEncoder | None:
    """Rewrite an encoder for this CPU if that is faster and says the same.

    Parameters
    ----------
    decoder : on the CPU, adapters merged
    early, max_tokens, probe : as for ``PackedEncoder``; the probe no longer than ``max_tokens``

    Returns
    -------
    None on another device, on a CPU without fast integer products, for an unknown architecture,
    or when the states are not near enough
    """
    if probe.device.type != "cpu" or not is_fast() or not _is_known(decoder):
        return None
    with torch.inference_mode():
        packed = PackedEncoder(decoder, early, max_tokens, probe)
        states, _ = packed(probe, [len(probe)])
        expected = _run(decoder, probe)
        cosine = float(torch.cosine_similarity(states, expected.float()).median())
    if not cosine >= LEAST_COSINE:  # NaN counts as far
        log.warning("8-bit products are off: their states have cosine %.3f to the layers'", cosine)
        return None
    return packed


def _run(decoder: Any, embeds: Tensor) -> Tensor:
    """Return the last states of one window."""
    found: Tensor = decoder(
        inputs_embeds=embeds[None],
        attention_mask=torch.ones(1, len(embeds), dtype=torch.long),
        use_cache=False,
    ).last_hidden_state[0]
    return found


def _is_known(decoder: Any) -> bool:
    config = decoder.config
    layer = decoder.layers[0]
    windows = {getattr(each.self_attn, "sliding_window", None) for each in decoder.layers}
    return (
        type(layer).__name__ in LAYERS
        and config.hidden_act == "silu"
        and windows == {None}
        and not any(
            _plain(part).bias is not None
            for part in (layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.down_proj)
        )
    )


def _plain(layer: Any) -> nn.Linear:
    """Return a linear layer without its (merged) adapter."""
    plain: nn.Linear = getattr(layer, "base_layer", layer)
    return plain


def _turns(decoder: Any, n: int) -> Tensor:
    """Return the rotary factors of the first positions: (n, 1, head_dim / 2) complex."""
    places = torch.arange(n)[None]
    like = torch.zeros(1, n, 1)
    cos, sin = decoder.rotary_emb(like, places)
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, None, :half].float(), sin[0, :, None, :half].float())
