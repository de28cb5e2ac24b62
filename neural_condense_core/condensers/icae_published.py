"""``PublishedIcae``: the ICAE v2 checkpoints as their authors published them.

A published file holds LoRA weights of the query and value projections of all layers and
``memory_token_embed``: 128 memory tokens and three tokens for the prompts of their own decoder
(auto-encoding, continuation, fine-tuning), which make no condensed token and are not used here.

Design decisions

* Computed as there: a context (with its beginning-of-sequence token) is cut into
  ``ceil(T / (128 * 4))`` equal spans, 128 memory tokens stand behind each, at the next positions,
  and their last hidden states *are* the condensed tokens. How many there are does not depend on
  how full a span is: a short text becomes 128 too.
* A tokenizer that puts a beginning-of-sequence token first did so there. Ids without it get it
  here; it then stands in the first span and is counted nowhere, so that the number of condensed
  tokens follows from the number of ids given.
* The base model is the target model itself. The file says nothing about it, nor about the weight
  of the adapters: rank and number of memory tokens follow from shapes, the rest has to be told.
* The adapted layers are new modules around the target's own weights: the target's logits stay as
  they are, and a base of 7B parameters lies in memory once.

References
----------
ICAE, arXiv:2307.06945; getao/icae, ``code/icae_v2``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from neural_condense_core.condensers.base import Condenser, LoadOptions, check_contexts
from neural_condense_core.condensers.checkpoints import WEIGHTS_FILE, read_config
from neural_condense_core.condensers.weights import restore_tensors, tensor_shapes
from neural_condense_core.errors import CheckpointError
from neural_condense_core.llm.hf import MAX_BATCH_TOKENS, HFTarget, load_target
from neural_condense_core.llm.rows import BUCKET
from neural_condense_core.tokens import CondensedTokens

PUBLISHED_VARIANT = "published-v2"
LORA_MODULES = ("q_proj", "v_proj")
N_SPECIAL = 3
MEMORY_NAME = "memory_token_embed.weight"
PREFIX = "icae.base_model.model.model."
_FIRST_A = PREFIX + "layers.0.self_attn.q_proj.lora_A.default.weight"


@dataclass(frozen=True)
class PublishedConfig:
    """What a published file does not say about itself.

    Parameters
    ----------
    lora_alpha : weight of the adapters; theirs is 32
    mean_compression_rate : context tokens a memory token in a full span; theirs is 4
    lora_r, mem_size : rank and number of memory tokens; 0 = as the shapes say
    """

    lora_alpha: int = 32
    mean_compression_rate: int = 4
    lora_r: int = 0
    mem_size: int = 0

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """Read the ``config`` of a checkpoint's ``config.json``.

        Raises
        ------
        CheckpointError
            A key is unknown or a value no whole number from 1 on.
        """
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in settings.items() if name != "variant"}
        for name, value in given.items():
            if name not in known:
                raise CheckpointError(
                    f"a published icae has no setting {name!r}; known: {', '.join(sorted(known))}"
                )
            if type(value) is not int or value < 1:
                raise CheckpointError(f"{name} must be a whole number from 1 on, got {value!r}")
        return cls(**given)

    def fitted(self, weights: Path) -> PublishedConfig:
        """Return the settings completed by the shapes in a weights file.

        Raises
        ------
        CheckpointError
            It holds no published icae, or one of another rank or number of memory tokens.
        """
        shapes = tensor_shapes(weights)
        for name in (_FIRST_A, MEMORY_NAME):
            if len(shapes.get(name, ())) != 2:
                raise CheckpointError(f"{weights} is no published ICAE v2: {name} is missing")
        found = {"lora_r": shapes[_FIRST_A][0], "mem_size": shapes[MEMORY_NAME][0] - N_SPECIAL}
        for name, value in found.items():
            if value < 1 or getattr(self, name) not in {0, value}:
                raise CheckpointError(
                    f"{weights} has {name} {value}, its config says {getattr(self, name)}"
                )
        return PublishedConfig(self.lora_alpha, self.mean_compression_rate, **found)


class PublishedIcae(Condenser):
    """Memory tokens behind equal spans, through all layers.

    Parameters
    ----------
    target : the base model of the checkpoint
    weights : their safetensors file
    config : what the file does not say
    """

    name = "icae"

    def __init__(self, target: HFTarget, weights: Path, config: PublishedConfig) -> None:
        self.target = target
        self.target_model = target.name
        self.hidden_size = target.hidden_size
        self.config = config.fitted(weights)
        self.ratios = (self.config.mean_compression_rate,)
        self.decoder = _adapted(target, self.config)
        self._first_ids = _first_ids(target)
        self.memory = torch.zeros(
            self.config.mem_size + N_SPECIAL, target.hidden_size, dtype=target.dtype
        ).to(target.device)
        restore_tensors(weights, self._published_tensors())

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load a published file, or a folder that holds one and a ``config.json``.

        Raises
        ------
        CheckpointError
            There is none, it is damaged, or it does not fit the target model.
        """
        if options.checkpoint is None:
            raise CheckpointError("icae needs trained weights: give a checkpoint")
        settings: dict[str, Any] = {}
        weights, name = options.checkpoint, options.checkpoint.stem
        if options.checkpoint.is_dir():
            stored = read_config(options.checkpoint)
            settings, name = stored.config, stored.name
            weights = _weights_file(options.checkpoint)
        config = PublishedConfig.parse(settings)
        target = load_target(options.target_model, options.device, options.dtype)
        condenser = cls(target, weights, config)
        condenser.name = name
        return condenser

    def tokenize(self, context: str) -> list[int]:
        """Return token ids with the special tokens that the tokenizer adds, as in training."""
        return list(self.target.tokenizer(context, verbose=False)["input_ids"])

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        """Return all memory tokens of all spans; ``ratio`` only sets how long a span may be."""
        del ratio
        return self._n_spans(n_context_tokens) * self.config.mem_size

    @torch.inference_mode()
    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense a batch, all spans of all contexts side by side."""
        del queries
        check_contexts(contexts)
        self.check_ratio(ratio)
        spans: list[Sequence[int]] = []
        owners: list[int] = []
        for i, ids in enumerate(contexts):
            own = self._spans(ids)
            spans += own
            owners += [i] * len(own)
        pieces: list[list[Tensor]] = [[] for _ in contexts]
        for owner, piece in zip(owners, self._condense_spans(spans), strict=True):
            pieces[owner].append(piece)
        return [
            CondensedTokens(torch.cat(rows).numpy(), self.target_model, len(ids), None, self.name)
            for ids, rows in zip(contexts, pieces, strict=True)
        ]

    def _n_spans(self, n_context: int) -> int:
        return math.ceil(n_context / (self.config.mem_size * self.config.mean_compression_rate))

    def _spans(self, ids: Sequence[int]) -> list[Sequence[int]]:
        """Complete a context in front and cut it into as many equal spans as it has without."""
        n_spans = self._n_spans(len(ids))
        if list(ids[: len(self._first_ids)]) != self._first_ids:
            ids = [*self._first_ids, *ids]
        length = math.ceil(len(ids) / n_spans)
        # rounding up can leave nothing for the last spans of a very long context; their memory
        # tokens are condensed tokens all the same
        return [ids[i * length : (i + 1) * length] for i in range(n_spans)]

    def _condense_spans(self, spans: Sequence[Sequence[int]]) -> list[Tensor]:
        """Condense spans: (mem_size, hidden) float32 on the CPU each."""
        found: dict[int, Tensor] = {}
        for length, chunk in self._chunks([len(span) for span in spans]):
            rows = self._condense_rows([spans[i] for i in chunk], length)
            found.update(zip(chunk, rows.float().cpu(), strict=True))
        return [found[i] for i in range(len(spans))]

    def _chunks(self, lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield padded lengths and the spans that share them, within the token budget."""
        groups: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            padded = -(-(length + self.config.mem_size) // BUCKET) * BUCKET
            groups.setdefault(padded, []).append(i)
        for padded, group in groups.items():
            size = max(1, MAX_BATCH_TOKENS[self.target.device.type] // padded)
            for first in range(0, len(group), size):
                yield padded, group[first : first + size]

    def _condense_rows(self, spans: Sequence[Sequence[int]], length: int) -> Tensor:
        """Run rows of span, memory tokens, padding: (batch, mem_size, hidden)."""
        ids = torch.zeros(len(spans), length, dtype=torch.long)
        for row, span in zip(ids, spans, strict=True):
            row[: len(span)] = torch.tensor(list(span))
        embeds = self.target.embed_ids(ids)
        n_context = torch.tensor([len(span) for span in spans], device=embeds.device)
        offsets = torch.arange(self.config.mem_size, device=embeds.device)
        where = (n_context[:, None] + offsets)[..., None].expand(-1, -1, embeds.shape[-1])
        memory = self.memory[: self.config.mem_size].expand(len(spans), -1, -1)
        states: Tensor = self.decoder(
            inputs_embeds=embeds.scatter(1, where, memory),
            attention_mask=torch.ones(ids.shape, dtype=torch.long, device=embeds.device),
            use_cache=False,
        ).last_hidden_state
        return states.gather(1, where)

    def _published_tensors(self) -> dict[str, Tensor]:
        adapters = {
            PREFIX + name: tensor
            for name, tensor in self.decoder.state_dict().items()
            if ".lora_" in name
        }
        return {**adapters, MEMORY_NAME: self.memory}


def _first_ids(target: HFTarget) -> list[int]:
    """Return the beginning-of-sequence token if the tokenizer puts it first, else nothing."""
    ids = list(target.tokenizer("", verbose=False)["input_ids"])
    return ids[:1] if ids[:1] == [target.tokenizer.bos_token_id] else []


def _weights_file(folder: Path) -> Path:
    if (folder / WEIGHTS_FILE).is_file():
        return folder / WEIGHTS_FILE
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise CheckpointError(
            f"{folder} holds {len(files)} .safetensors files, none of them {WEIGHTS_FILE}"
        )
    return files[0]


def _adapted(target: HFTarget, config: PublishedConfig) -> Any:
    """Return the target's decoder as new modules around the same weights, with LoRA in them.

    Raises
    ------
    CheckpointError
        The target has no such projections.
    """
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in target.decoder.parameters()
    }
    decoder = copy.deepcopy(target.decoder, memo)
    lora = LoraConfig(
        r=config.lora_r, lora_alpha=config.lora_alpha, target_modules=list(LORA_MODULES)
    )
    try:
        adapted = inject_adapter_in_model(lora, decoder)
    except ValueError as error:
        raise CheckpointError(
            f"{target.name} is no base model of a published icae: {error}"
        ) from error
    return adapted.eval().requires_grad_(False)
