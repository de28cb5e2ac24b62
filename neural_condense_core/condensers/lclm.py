"""``lclm``: the Latent Context Language Models as their authors published them.

An encoder reads a text in windows of 1,024 tokens, causally; the states of every r tokens are
averaged, and an adapter (norm, linear, GELU, linear) brings them to the width of the decoder. The
decoder was trained together with them: **condenser and target model come as a pair**, and no other
model understands these condensed tokens. Pulling one installs both, and its target model is the
decoder in its own folder.

Design decisions

* Computed as there: groups of r within a window, the last one short; windows share nothing. Only
  what the published checkpoints use can be loaded: mean pooling, causal, no overlap, MLP adapter.
* The decoder expects the condensed tokens between two marker tokens of its vocabulary. Their
  embeddings are part of what is made here, so that a prompt needs to know nothing of them: a text
  becomes two condensed tokens more than it has groups.
* Of the decoder only its width and the two embeddings are read. Who asks loads it as any target.
* Rows are padded on the right instead of the left; the encoder being causal, nothing sees it.

References
----------
LCLM, arXiv:2606.09659; LeonLixyz/LCLM, ``latent_context``. Unverified: the weights are 9 GB and
were not run here; the arithmetic was checked against an independent computation on random weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from neural_condense_core.condensers.base import Condenser, LoadOptions, check_contexts
from neural_condense_core.condensers.checkpoints import read_config
from neural_condense_core.condensers.installed import NESTED
from neural_condense_core.condensers.published import (
    TOKENIZER_FILE,
    WEIGHTS_SUFFIX,
    check_ids,
    read_json,
    read_tokenizer,
    required,
    same_tokens,
    target_width,
    whole,
)
from neural_condense_core.condensers.weights import restore_tensors, tensor_shapes
from neural_condense_core.condensers.windows import condense_windows
from neural_condense_core.errors import CheckpointError
from neural_condense_core.llm.hf import MAX_BATCH_TOKENS, resolve_dtype
from neural_condense_core.tokens import CondensedTokens, n_condensed_for

SETTINGS_FILE = "model_config.json"
ADAPTER_FILE = "adapter/adapter.safetensors"
MARKERS = ("<|memory_start|>", "<|memory_end|>")
NORM_EPS = 1e-6
_EMBEDDINGS = "model.embed_tokens.weight"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class LclmConfig:
    """Settings of an LCLM.

    Parameters
    ----------
    ratio : tokens a condensed token stands for
    window_tokens : tokens that the encoder reads at once; a multiple of ``ratio``
    encoder_dim, out_dim : widths of the encoder and of the decoder
    """

    ratio: int
    window_tokens: int
    encoder_dim: int
    out_dim: int

    @classmethod
    def published(cls, folder: Path, changes: Mapping[str, Any]) -> Self:
        """Read the authors' files; the changes win.

        Raises
        ------
        CheckpointError
            A part is missing, or it is of a kind that cannot be computed here.
        """
        path = folder / SETTINGS_FILE
        raw = read_json(path)
        required(raw, "pooling", ("mean",), path)
        required(raw, "encoder_mask_type", ("causal",), path)
        required(raw, "boundary_overlap", (0,), path)
        required(raw, "adapter_type", ("mlp",), path)
        for part in ("encoder", "decoder"):
            if not (folder / part / "config.json").is_file():
                raise CheckpointError(f"{folder} has no {part}/config.json: an LCLM is a pair")
        shapes = tensor_shapes(folder / ADAPTER_FILE)
        if len(shapes.get("fc1.weight", ())) != 2:
            raise CheckpointError(f"{folder / ADAPTER_FILE} is no adapter: fc1.weight is missing")
        out_dim, encoder_dim = shapes["fc1.weight"]
        return cls.parse({
            "ratio": whole(raw, "compression_ratio", path),
            "window_tokens": whole(raw, "encoder_window_size", path),
            "encoder_dim": encoder_dim,
            "out_dim": out_dim,
            **changes,
        })

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """Read the ``config`` of an installed checkpoint.

        Raises
        ------
        CheckpointError
            A setting is unknown, missing, no whole number from 1 on, or does not fit another.
        """
        names = {field.name for field in fields(cls)}
        if settings.keys() != names:
            wrong = ", ".join(sorted(settings.keys() ^ names))
            raise CheckpointError(f"settings of an lclm are unknown or missing: {wrong}")
        for name, value in settings.items():
            if type(value) is not int or value < 1:
                raise CheckpointError(f"{name} must be a whole number from 1 on, got {value!r}")
        config = cls(**settings)
        if config.window_tokens % config.ratio:
            raise CheckpointError(
                f"window_tokens {config.window_tokens} is no multiple of ratio {config.ratio}"
            )
        return config

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as ``parse`` reads them."""
        return asdict(self)


class LclmAdapter(nn.Module):
    """Brings pooled states to the decoder's width.

    Parameters
    ----------
    config : the settings of both
    """

    def __init__(self, config: LclmConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.encoder_dim, eps=NORM_EPS)
        self.fc1 = nn.Linear(config.encoder_dim, config.out_dim)
        self.fc2 = nn.Linear(config.out_dim, config.out_dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return (..., out_dim) of (..., encoder_dim)."""
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.norm(pooled))))
        return out


class LclmCondenser(Condenser):
    """The encoder of an LCLM; its target model is the decoder it was published with.

    Parameters
    ----------
    encoder : a transformers model
    adapter : its adapter
    tokenizer : the encoder's
    markers : (2, out_dim), the decoder's embeddings of what stands around the condensed tokens
    config : settings
    target_model : folder of the decoder
    """

    name = "lclm"

    def __init__(
        self,
        encoder: Any,
        adapter: LclmAdapter,
        tokenizer: Tokenizer,
        markers: Tensor,
        config: LclmConfig,
        target_model: str,
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.adapter = adapter.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.markers = markers.float().cpu()
        self.config = config
        self.target_model = target_model
        self.hidden_size = config.out_dim
        self.ratios = (config.ratio,)

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load an installed checkpoint.

        Raises
        ------
        CheckpointError
            There is none, it is damaged, or its decoder is not the target model.
        """
        if options.checkpoint is None or not options.checkpoint.is_dir():
            raise CheckpointError(
                "lclm needs published weights: install some by 'condense models pull'"
            )
        stored = read_config(options.checkpoint)
        config = LclmConfig.parse(stored.config)
        files = options.checkpoint / NESTED
        if target_width(options.target_model) != config.out_dim:
            raise CheckpointError(
                f"{options.checkpoint} condenses for the decoder it comes with, {files / 'decoder'}"
            )
        markers = _embeddings(files / "decoder", MARKERS)
        dtype = resolve_dtype(options.dtype, options.device)
        adapter = LclmAdapter(config).to(dtype)
        restore_tensors(files / ADAPTER_FILE, dict(adapter.named_parameters()))
        encoder = _encoder(files / "encoder", dtype, config)
        condenser = cls(
            encoder.to(options.device),
            adapter.to(options.device),
            read_tokenizer(files / "encoder" / TOKENIZER_FILE),
            markers,
            config,
            options.target_model,
        )
        condenser.name = stored.name
        decoders = read_tokenizer(files / "decoder" / TOKENIZER_FILE)
        condenser.reads_target_tokens = same_tokens(condenser.tokenizer, decoders)
        return condenser

    def tokenize(self, context: str) -> list[int]:
        """Return the encoder's token ids of a context."""
        return list(self.tokenizer.encode(context, add_special_tokens=False).ids)

    def tokenizer_json(self) -> str | None:
        """Return the encoder's tokenizer."""
        return str(self.tokenizer.to_str())

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        """Return the groups, windows being whole groups, and the two markers."""
        return n_condensed_for(n_context_tokens, ratio) + len(MARKERS)

    @torch.inference_mode()
    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense a batch, all windows of all contexts side by side."""
        del queries
        check_contexts(contexts)
        self.check_ratio(ratio)
        check_ids(contexts, self.encoder.config.vocab_size, self.name)
        budget = MAX_BATCH_TOKENS[self.adapter.fc1.weight.device.type]
        rows = condense_windows(contexts, self.config.window_tokens, budget, self._encode)
        start, end = self.markers[:1], self.markers[1:]
        return [
            CondensedTokens(
                torch.cat([start, row, end]).numpy(), self.target_model, len(ids), None, self.name
            )
            for ids, row in zip(contexts, rows, strict=True)
        ]

    def _encode(self, input_ids: Tensor, n_context: Tensor) -> list[Tensor]:
        device = self.adapter.fc1.weight.device
        ids = input_ids.to(device)
        states = self.encoder(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
        ).last_hidden_state
        found = []
        for row, n in zip(states, n_context.tolist(), strict=True):
            groups = torch.split(row[:n], self.config.ratio)
            found.append(self.adapter(torch.stack([group.mean(0) for group in groups])))
        return [row.float().cpu() for row in found]


def _encoder(folder: Path, dtype: torch.dtype, config: LclmConfig) -> Any:
    """Load the encoder.

    Raises
    ------
    CheckpointError
        It cannot be read, or is not as wide as the adapter.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # our own commands say what they wait for
    try:
        encoder = AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"cannot load the encoder in {folder}: {error}") from error
    if encoder.config.hidden_size != config.encoder_dim:
        raise CheckpointError(
            f"the encoder in {folder} is {encoder.config.hidden_size} wide, its adapter takes "
            f"{config.encoder_dim}"
        )
    return encoder


def _embeddings(folder: Path, tokens: Sequence[str]) -> Tensor:
    """Return the input embeddings of tokens, (n, hidden), without loading the model.

    Raises
    ------
    CheckpointError
        A token is not in its vocabulary, or the table of embeddings cannot be read.
    """
    tokenizer = read_tokenizer(folder / TOKENIZER_FILE)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    missing = [token for token in tokens if token not in vocabulary]
    if missing:
        raise CheckpointError(f"the vocabulary in {folder} has no {', '.join(missing)}")
    path = folder / _weights_file(folder)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder / _INDEX} leads out of its folder")
    try:
        with safe_open(path, framework="pt") as file:
            table = file.get_slice(_EMBEDDINGS)
            return torch.cat([
                table[row : row + 1] for row in (vocabulary[token] for token in tokens)
            ])
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"cannot read {_EMBEDDINGS} of {path}: {error}") from error


def _weights_file(folder: Path) -> str:
    """Return which file holds the embeddings: the only one, or as the index says.

    Raises
    ------
    CheckpointError
        The index names none.
    """
    if not (folder / _INDEX).is_file():
        return f"model{WEIGHTS_SUFFIX}"
    try:
        return str(read_json(folder / _INDEX)["weight_map"][_EMBEDDINGS])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / _INDEX} names no file of {_EMBEDDINGS}") from error
