"""``SpanModule``: our own In-Context Autoencoder, trainable on a small target model.

Behind each span of context stand memory tokens; the target's first layers, adapted by LoRA, fill
them with what the span says, and a projector turns their states into condensed tokens.

Design decisions

* A memory token takes a position id *within the text it stands for*; with plain ids behind the
  span the same loss takes about ten times the steps. Runs of ``contiguous`` memory tokens stand
  side by side in the middle of their common stretch, since a frozen model reads contiguous tokens
  and makes nothing of scattered ones; 1 is the published layout, each at its own centre.
* ``aligned = false`` is the memory token of ICAE as it was published first: plain position ids
  behind the span. It is there to be compared with.
* Memory tokens stand behind each row's own tokens, and padding behind those: the causal mask alone
  keeps a row independent of its batch, and every memory token sees the whole span.
* Memory token j of ratio r is row ``j * r / min_ratio`` of one table: what stands at one place of
  the span is the same token at every ratio, so ratios teach each other.
* The output starts around the mean of the target's embeddings, and its norm is held between 0.3
  and 3 times theirs: a frozen model has read nothing much shorter or longer.
* LoRA, table and projector are float32 whatever the layers are in.

References
----------
ICAE, arXiv:2307.06945; position ids, arXiv:2409.14364. Differs: first layers only, LoRA on all
linear layers, any ratio at run time, a projector of its own.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from neural_condense_core.condensers.lora import add_lora
from neural_condense_core.condensers.trainable import NORM_RANGE, WindowModule, clamp_norms
from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.llm.rows import BUCKET

OUTPUT_SPREAD = 0.5
"""Spread of the untrained output around the mean embedding, in standard deviations of those."""


@dataclass(frozen=True)
class SpansConfig:
    """Settings of a ``SpanModule``.

    Parameters
    ----------
    n_layers : how many of the target's layers encode, from the first on
    lora_r, lora_alpha : rank and weight of the adapters
    span_tokens : longest span, context tokens; a multiple of every ratio
    min_ratio : context tokens a row of the memory table; divides every ratio
    ratios : compression ratios on offer, ascending
    contiguous : memory tokens whose position ids are neighbours
    aligned : whether memory tokens take position ids within the text they stand for
    """

    n_layers: int = 10
    lora_r: int = 64
    lora_alpha: int = 128
    span_tokens: int = 256
    min_ratio: int = 2
    ratios: tuple[int, ...] = (2, 4, 8, 16)
    contiguous: int = 8
    aligned: bool = True

    def __post_init__(self) -> None:
        """Check the settings against each other.

        Raises
        ------
        ConfigError
            A setting is out of range.
        """
        positive = ("n_layers", "lora_r", "lora_alpha", "span_tokens", "min_ratio", "contiguous")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.ratios or list(self.ratios) != sorted(set(self.ratios)):
            raise ConfigError(f"ratios must be ascending, got {list(self.ratios)}")
        for ratio in self.ratios:
            if ratio < 1 or ratio % self.min_ratio or self.span_tokens % ratio:
                raise ConfigError(
                    f"ratio {ratio} must be a multiple of min_ratio {self.min_ratio} and divide "
                    f"span_tokens {self.span_tokens}"
                )

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """Read settings from a recipe or ``config.json``; missing ones take their defaults.

        Raises
        ------
        ConfigError
            A key is unknown or a value of the wrong type.
        """
        known = {field.name for field in fields(cls)}
        if settings.keys() - known:
            raise ConfigError(
                f"icae has no setting {', '.join(sorted(settings.keys() - known))}; "
                f"known: {', '.join(sorted(known))}"
            )
        ratios = settings.get("ratios", cls.ratios)
        if not isinstance(ratios, list | tuple):
            raise ConfigError(f"ratios must be a list, got {ratios!r}")
        given = {**settings, "ratios": tuple(ratios)}
        for name in known & given.keys():
            for value in given[name] if name == "ratios" else [given[name]]:
                if name == "aligned" and type(value) is not bool:
                    raise ConfigError(f"aligned must be true or false, got {value!r}")
                if name != "aligned" and type(value) is not int:
                    raise ConfigError(f"{name} must hold whole numbers, got {value!r}")
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as ``parse`` reads them, fit for JSON."""
        return {**asdict(self), "ratios": list(self.ratios)}


class SpanModule(WindowModule):
    """Memory tokens amid what they stand for.

    Parameters
    ----------
    target : whose layers are copied and for whom the output is
    config : its settings
    """

    def __init__(self, target: HFTarget, config: SpansConfig) -> None:
        super().__init__()
        self.config = config
        self.target = [target]  # in a list, so that its parameters are not this module's
        hidden = target.hidden_size
        mean, std = embedding_statistics(target)
        self.mean_norm = target.embedding_scale * hidden**0.5
        layers = target.first_layers(config.n_layers)
        self.encoder = add_lora(layers, config.lora_r, config.lora_alpha)
        n_rows = config.span_tokens // config.min_ratio
        self.memory = nn.Parameter(mean + std * torch.randn(n_rows, hidden))
        self.norm = nn.RMSNorm(hidden, eps=1e-6)
        self.output = nn.Linear(hidden, hidden)
        with torch.no_grad():
            rms = float(std.square().mean().sqrt())
            self.output.weight.normal_(0.0, OUTPUT_SPREAD * rms / math.sqrt(hidden))
            self.output.bias.copy_(mean)

    def forward(self, input_ids: Tensor, n_context: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
        """Condense a batch of spans; see ``WindowModule``."""
        batch, n_padded = input_ids.shape
        n_memory = -(-n_padded // ratio)
        length = -(-(n_padded + n_memory) // BUCKET) * BUCKET
        ids = nn.functional.pad(input_ids, (0, length - n_padded))
        n_context = n_context.to(ids.device)[:, None]
        starts = torch.arange(n_memory, device=ids.device) * ratio
        # beyond a row's own memory tokens these go on, unread, behind all that counts
        where = n_context + starts // ratio
        places = _places(n_memory, n_context, ratio, self.config.contiguous)
        plain = torch.arange(length, device=ids.device).expand(batch, -1)
        states = self.encoder(
            inputs_embeds=self._fill(ids, where, starts),
            # without a mask, jumps in the position ids are read as borders of packed sequences
            attention_mask=torch.ones_like(ids),
            position_ids=plain.scatter(1, where, places) if self.config.aligned else plain,
            use_cache=False,
        ).last_hidden_state
        return self._project(states.gather(1, _wide(where, states))), places

    def _fill(self, ids: Tensor, where: Tensor, starts: Tensor) -> Tensor:
        """Embed token ids and put the memory tokens among them."""
        embeds = self.target[0].embed_ids(ids)
        rows = (starts // self.config.min_ratio).clamp(max=len(self.memory) - 1)
        memory = self.memory[rows].to(embeds.dtype).expand(len(ids), -1, -1)
        return embeds.scatter(1, _wide(where, embeds), memory)

    def _project(self, states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            out: Tensor = self.output(self.norm(states.float()))
            return clamp_norms(out, *(factor * self.mean_norm for factor in NORM_RANGE))


def _places(n_memory: int, n_context: Tensor, ratio: int, contiguous: int) -> Tensor:
    """Return the position id of each memory token, (batch, n_memory).

    ``contiguous`` memory tokens share a stretch of ``contiguous * ratio`` context tokens and take
    the positions in its middle; the last stretch of a row may be short.
    """
    memory = torch.arange(n_memory, device=n_context.device)
    first = memory // contiguous * contiguous * ratio
    n_real = (n_context - first).clamp(1, contiguous * ratio)
    n_run = -(-n_real // ratio)
    return torch.minimum(first + (n_real - n_run) // 2 + memory % contiguous, n_context - 1)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, like.shape[-1])


@torch.no_grad()
def embedding_statistics(target: HFTarget) -> tuple[Tensor, Tensor]:
    """Measure what the target's embedding layer returns, over the vocabulary.

    Returns
    -------
    (hidden,) mean and (hidden,) standard deviation, float32 on the CPU
    """
    n_rows = int(target.embedding.num_embeddings)
    total = torch.zeros(2, target.hidden_size, dtype=torch.float64)
    for start in range(0, n_rows, 8192):
        ids = torch.arange(start, min(start + 8192, n_rows))
        rows = target.embed_ids(ids).float().cpu()
        total += torch.stack([part.sum(0, dtype=torch.float64) for part in (rows, rows.square())])
    mean, square = total / n_rows
    return mean.float(), (square - mean.square()).clamp(min=0).sqrt().float()
