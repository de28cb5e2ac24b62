"""``ArcModule``: the network of an ARC-Encoder, see ``arc_encoder.py``.

A module of our own instead of the library's Llama: the last layer asks with pooled queries, no
layer is causal, and the weights are published for rotary pairs that are neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

if TYPE_CHECKING:
    from neural_condense_core.condensers.arc_encoder import ArcConfig


class ArcLayer(nn.Module):
    """One layer; ``kv`` holds what is attended to, unpooled.

    Parameters
    ----------
    config : the encoder's
    """

    def __init__(self, config: ArcConfig) -> None:
        super().__init__()
        self.config = config
        queries, keys = (n * config.head_dim for n in (config.n_heads, config.n_kv_heads))
        self.attention = nn.ModuleDict({
            "wq": nn.Linear(config.dim, queries, bias=False),
            "wk": nn.Linear(config.dim, keys, bias=False),
            "wv": nn.Linear(config.dim, keys, bias=False),
            "wo": nn.Linear(queries, config.dim, bias=False),
        })
        self.feed_forward = nn.ModuleDict({
            "w1": nn.Linear(config.dim, config.hidden_dim, bias=False),
            "w2": nn.Linear(config.hidden_dim, config.dim, bias=False),
            "w3": nn.Linear(config.dim, config.hidden_dim, bias=False),
        })
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)

    def forward(self, x: Tensor, kv: Tensor, seen: Tensor) -> Tensor:
        """Return (batch, n_query, dim).

        Parameters
        ----------
        x : (batch, n_query, dim)
        kv : (batch, n_key, dim)
        seen : (batch, 1, 1, n_key) bool, False on padding
        """
        source = self.attention_norm(kv)
        query = self._heads(self.attention["wq"](self.attention_norm(x)))
        key = self._heads(self.attention["wk"](source))
        value = self._heads(self.attention["wv"](source))
        theta = self.config.rope_theta
        read = scaled_dot_product_attention(
            rotate(query, theta), rotate(key, theta), value, attn_mask=seen, enable_gqa=True
        )
        x = x + self.attention["wo"](read.transpose(1, 2).flatten(2))
        inner = self.ffn_norm(x)
        gated = silu(self.feed_forward["w1"](inner)) * self.feed_forward["w3"](inner)
        out: Tensor = x + self.feed_forward["w2"](gated)
        return out

    def _heads(self, states: Tensor) -> Tensor:
        batch, n, _ = states.shape
        return states.view(batch, n, -1, self.config.head_dim).transpose(1, 2)


def rotate(states: Tensor, theta: float) -> Tensor:
    """Turn neighbouring pairs by rotary positions 0, 1, 2, ...

    Parameters
    ----------
    states : (batch, n_heads, n, head_dim)
    theta : base of the frequencies
    """
    n, width = states.shape[-2:]
    powers = torch.arange(0, width, 2, dtype=torch.float32, device=states.device) / width
    angles = torch.outer(torch.arange(n, device=states.device).float(), theta**-powers)
    pairs = states.float().reshape(*states.shape[:-1], width // 2, 2)
    turned = torch.view_as_complex(pairs) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(states.dtype)


def pooling_weights(n_context: Tensor, n_padded: int, pooling: int) -> Tensor:
    """Return the weights that average each group's tokens.

    Parameters
    ----------
    n_context : (batch,) how many tokens of each row are real, at least 1
    n_padded : length of the rows
    pooling : tokens of a group, at most

    Returns
    -------
    (batch, ceil(n_padded / pooling), n_padded) float32; row i's groups are its first
    ``ceil(n_context[i] / pooling)``, the larger ones first
    """
    groups = torch.arange(-(-n_padded // pooling), device=n_context.device)
    n_groups = -(-n_context // pooling)[:, None]
    small, n_large = n_context[:, None] // n_groups, n_context[:, None] % n_groups
    starts = groups * small + torch.minimum(groups, n_large)
    sizes = torch.where(groups < n_groups, small + (groups < n_large), 0)
    offset = torch.arange(n_padded, device=n_context.device) - starts[..., None]
    member = (offset >= 0) & (offset < sizes[..., None])
    return member / sizes[..., None].clamp(min=1)


class ArcModule(nn.Module):
    """The encoder, its pooling and the maps to the target's width.

    Parameters
    ----------
    config : its settings
    """

    def __init__(self, config: ArcConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Parameter(torch.empty(config.vocab_size, config.dim))
        self.layers = nn.ModuleList(ArcLayer(config) for _ in range(config.n_layers))
        self.layer1 = nn.Parameter(torch.empty(config.bridge_dim, config.dim))
        self.layer2 = nn.Parameter(torch.empty(config.out_dim, config.bridge_dim))
        self.cont_tok = nn.Parameter(torch.empty(1 if config.task_token else 0, config.dim))

    def forward(self, input_ids: Tensor, n_context: Tensor) -> Tensor:
        """Encode windows: (batch, ceil(n_padded / pooling), out_dim).

        Parameters
        ----------
        input_ids : (batch, n_padded) int64, padded on the right with any id
        n_context : (batch,) int64, how many of them are real
        """
        states = embedding(input_ids, self.tok_embeddings)
        n_padded = input_ids.shape[1]
        offset = torch.arange(n_padded, device=input_ids.device)
        seen = (offset < n_context[:, None])[:, None, None]
        *first, last = self.layers
        for layer in first:
            states = layer(states, states, seen)
        weights = pooling_weights(n_context, n_padded, self.config.pooling)
        return self.bridge(last(weights.to(states.dtype) @ states, states, seen))

    def bridge(self, states: Tensor) -> Tensor:
        """Bring states to the width of the target: (..., dim) -> (..., out_dim)."""
        return linear(linear(states, self.layer1), self.layer2)

    def published_tensors(self) -> dict[str, Tensor]:
        """Return the module's tensors by the names of the published file."""
        decoder, several = self.config.decoder, self.config.n_decoders > 1
        bridge = f"bridge_module.{decoder}." if several else "bridge_module."
        renamed = {
            "tok_embeddings": "embedder.tok_embeddings.weight",
            "layer1": f"{bridge}layer1.weight",
            "layer2": f"{bridge}layer2.weight",
            "cont_tok": f"embedder.cont_tok.{decoder}.weight",
        }
        found: dict[str, Tensor] = {
            renamed.get(name, f"embedder.{name}"): tensor
            for name, tensor in self.named_parameters()
        }
        if not self.config.task_token:
            del found[renamed["cont_tok"]]
        return found
