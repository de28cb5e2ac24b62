"""``arc-encoder``: the ARC-Encoder checkpoints as their authors published them.

A Llama of its own without its last two layers, every token seeing every other, makes the states of
a text; before the last layer they are averaged in groups of r, and those averages ask, in that
layer's attention, the states that are not pooled. Two linear maps without anything between them
bring the result to the width of the target model, which is not changed. Behind the text stands one
learned task token, so a text of T tokens becomes ``ceil(T / r) + 1`` condensed tokens.

Design decisions

* Computed as there: groups differ by at most one token, the larger ones first; a pooled query has
  the position of its group, a key that of its token; rotary pairs are neighbours, as in the
  weights that the backbone was published in; no norm behind the last layer.
* The encoder has a tokenizer of its own. It is read from ``tokenizer.json`` beside the weights, or
  is the target model's where the two have the same vocabulary.
* Texts are cut after ``window_tokens``, as the published long-context evaluation does (1,024);
  the task token stands once, behind the last window.
* Of the target model only the width is read, not the weights: a backend needs none of them.
* The file's tensors are checked by name and shape before any memory is taken for them, and copied
  one by one: 12 GB of float32 never lie beside what they become.

References
----------
ARC-Encoder, arXiv:2510.20535; kyutai-labs/ARC-Encoder and kyutai-labs/moshi-rag. Unverified: the
published code needs a GPU library and the weights are 12 GB, so the arithmetic was checked against
an independent computation on random weights only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from neural_condense_core.condensers.arc_encoder_network import ArcModule
from neural_condense_core.condensers.base import Condenser, LoadOptions, check_contexts
from neural_condense_core.condensers.checkpoints import read_config
from neural_condense_core.condensers.installed import NESTED
from neural_condense_core.condensers.published import (
    TOKENIZER_FILE,
    check_ids,
    read_json,
    read_tokenizer,
    required,
    same_tokens,
    target_source,
    target_width,
    whole,
)
from neural_condense_core.condensers.weights import stream_tensors
from neural_condense_core.condensers.windows import condense_windows
from neural_condense_core.errors import CheckpointError
from neural_condense_core.llm.hf import MAX_BATCH_TOKENS, resolve_dtype
from neural_condense_core.tokens import CondensedTokens, n_condensed_for

WEIGHTS_FILE = "model.safetensors"
WINDOW_TOKENS = 1024
_SHAPES = ("dim", "head_dim", "n_heads", "n_kv_heads", "hidden_dim", "vocab_size")


@dataclass(frozen=True)
class ArcConfig:
    """Settings of an ARC-Encoder.

    Parameters
    ----------
    dim, head_dim, n_heads, n_kv_heads, hidden_dim, vocab_size : shape of the encoder
    n_layers : layers that are left of it
    norm_eps, rope_theta : of its norms and rotary positions
    pooling : tokens a condensed token stands for, at most
    bridge_dim, out_dim : widths between and behind the two linear maps
    n_decoders : target models it was trained for; more than one: each has its own maps
    decoder : which of them, from 0
    task_token : whether a learned token stands behind the text
    window_tokens : longest text that is encoded as one
    """

    dim: int
    head_dim: int
    n_heads: int
    n_kv_heads: int
    hidden_dim: int
    vocab_size: int
    n_layers: int
    norm_eps: float
    rope_theta: float
    pooling: int
    bridge_dim: int
    out_dim: int
    n_decoders: int = 1
    decoder: int = 0
    task_token: bool = True
    window_tokens: int = WINDOW_TOKENS

    @classmethod
    def published(cls, path: Path, changes: Mapping[str, Any]) -> Self:
        """Read the authors' ``config.json``; the changes win.

        Raises
        ------
        CheckpointError
            It describes an encoder that cannot be computed here.
        """
        raw = read_json(path)
        model, encoder, bridge = (
            _section(raw, name, path) for name in ("model_args", "embedder_args", "bridge_args")
        )
        pooling = _section(encoder, "pooling_module", path)
        required(pooling, "pool_type", ("mean_pooled_queries", "mean_sa"), path)
        required(pooling, "where", ("before",), path)
        required(encoder, "causal_embedder", (False,), path)
        required({"memory_tokens": 0, **encoder}, "memory_tokens", (0,), path)
        required(bridge, "bridge_type", ("mlp", "multi_module"), path)
        rates = encoder.get("compress_rates")
        if not isinstance(rates, list) or len(rates) != 1 or type(rates[0]) is not int:
            raise CheckpointError(f"{path}: compress_rates must hold one number, got {rates!r}")
        if rates[0] > -2:
            raise CheckpointError(f"{path}: compress_rates must be -2 or lower, got {rates[0]}")
        shapes = {name: whole(model, name, path) for name in _SHAPES}
        settings = {
            **shapes,
            "n_layers": whole(model, "n_layers", path)
            - whole(encoder, "n_truncated_layers", path, 0),
            "norm_eps": _number(model, "norm_eps", path),
            "rope_theta": _number(model, "rope_theta", path),
            "pooling": -rates[0],
            "bridge_dim": whole(bridge, "hidden_dim", path),
            "out_dim": whole(bridge, "out_dim", path),
            "task_token": encoder.get("cont_tok") is True,
        }
        if bridge["bridge_type"] == "multi_module":
            settings["n_decoders"] = whole(raw, "empty_init", path)
        return cls.parse({**settings, **changes})

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """Read the ``config`` of an installed checkpoint.

        Raises
        ------
        CheckpointError
            A setting is unknown, missing, of another type or out of range.
        """
        types = {field.name: field.type for field in fields(cls)}
        for name, value in settings.items():
            if name not in types:
                raise CheckpointError(
                    f"an arc-encoder has no setting {name!r}; known: {', '.join(sorted(types))}"
                )
            if type(value).__name__ != types[name]:
                raise CheckpointError(f"{name} must be of type {types[name]}, got {value!r}")
        try:
            config = cls(**settings)
        except TypeError as error:
            raise CheckpointError(f"settings of an arc-encoder are missing: {error}") from error
        config.check()
        return config

    def check(self) -> None:
        """Refuse settings that no encoder has.

        Raises
        ------
        CheckpointError
            A number is out of range, or does not fit another.
        """
        positive = {**asdict(self), "decoder": 1}
        low = [name for name, value in positive.items() if name != "task_token" and value <= 0]
        if low:
            raise CheckpointError(f"settings of an arc-encoder must be positive: {', '.join(low)}")
        if self.n_heads % self.n_kv_heads or self.head_dim % 2:
            raise CheckpointError("n_heads must be a multiple of n_kv_heads and head_dim be even")
        if not 0 <= self.decoder < self.n_decoders:
            raise CheckpointError(f"decoder is {self.decoder}; there are {self.n_decoders}, from 0")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as ``parse`` reads them."""
        return asdict(self)


def _section(raw: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = raw.get(name)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} has no {name}")
    return found


def _number(model: Mapping[str, Any], name: str, path: Path) -> float:
    """Return a positive number; published files hold some as text.

    Raises
    ------
    CheckpointError
        It is missing, no number, or not positive.
    """
    try:
        value = float(model[name])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {name} must be a number") from error
    if not 0 < value < math.inf:
        raise CheckpointError(f"{path}: {name} must be positive, got {value}")
    return value


class ArcEncoderCondenser(Condenser):
    """An ARC-Encoder for one target model.

    Parameters
    ----------
    module : its weights
    tokenizer : the encoder's own
    target_model : name of the model it condenses for
    """

    name = "arc-encoder"

    def __init__(self, module: ArcModule, tokenizer: Tokenizer, target_model: str) -> None:
        self.module = module.eval().requires_grad_(False)
        self.config = module.config
        self.tokenizer = tokenizer
        self.target_model = target_model
        self.hidden_size = self.config.out_dim
        self.ratios = (self.config.pooling,)

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load an installed checkpoint.

        Raises
        ------
        CheckpointError
            There is none, it is damaged, or it does not fit the target model.
        """
        if options.checkpoint is None or not options.checkpoint.is_dir():
            raise CheckpointError(
                "arc-encoder needs published weights: install some by 'condense models pull'"
            )
        stored = read_config(options.checkpoint)
        config = ArcConfig.parse(stored.config)
        width = target_width(options.target_model)
        if width != config.out_dim:
            raise CheckpointError(
                f"{options.checkpoint} makes condensed tokens of width {config.out_dim}, "
                f"{options.target_model} is {width} wide"
            )
        files = options.checkpoint / NESTED
        tokenizer, shared = _tokenizer(files / TOKENIZER_FILE, options.target_model, config)
        module = _load_module(files / WEIGHTS_FILE, config, options)
        condenser = cls(module, tokenizer, options.target_model)
        condenser.name = stored.name
        condenser.reads_target_tokens = shared
        return condenser

    def tokenize(self, context: str) -> list[int]:
        """Return the encoder's token ids of a context."""
        return list(self.tokenizer.encode(context, add_special_tokens=False).ids)

    def tokenizer_json(self) -> str | None:
        """Return the encoder's tokenizer."""
        return str(self.tokenizer.to_str())

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        """Return the groups of all windows, and one more if there is a task token."""
        full, rest = divmod(n_context_tokens, self.config.window_tokens)
        n_full = n_condensed_for(self.config.window_tokens, ratio)
        return full * n_full + n_condensed_for(rest, ratio) + int(self.config.task_token)

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
        check_ids(contexts, self.config.vocab_size, self.name)
        device = self.module.layer1.device
        budget = MAX_BATCH_TOKENS[device.type]
        rows = condense_windows(contexts, self.config.window_tokens, budget, self._encode)
        task = self.module.bridge(self.module.cont_tok).float().cpu()
        return [
            CondensedTokens(
                torch.cat([row, task]).numpy(), self.target_model, len(ids), None, self.name
            )
            for ids, row in zip(contexts, rows, strict=True)
        ]

    def _encode(self, input_ids: Tensor, n_context: Tensor) -> list[Tensor]:
        device = self.module.layer1.device
        states = self.module(input_ids.to(device), n_context.to(device)).float().cpu()
        counts = -(-n_context // self.config.pooling)
        return [row[:n] for row, n in zip(states, counts.tolist(), strict=True)]


def _load_module(path: Path, config: ArcConfig, options: LoadOptions) -> ArcModule:
    with torch.device("meta"):
        module = ArcModule(config)
    module = module.to(resolve_dtype(options.dtype, options.device))
    others: tuple[str, ...] = ("embedder.rec_tok.", "embedder.cont_tok.")
    if config.n_decoders > 1:
        others = (*others, "bridge_module.")
    stream_tensors(
        path,
        module.published_tensors(),
        allocate=lambda: module.to_empty(device=options.device).published_tensors(),
        ignored=others,
    )
    return module


def _tokenizer(path: Path, target_model: str, config: ArcConfig) -> tuple[Tokenizer, bool]:
    """Return the encoder's tokenizer, and whether the target model's gives the same ids.

    Raises
    ------
    CheckpointError
        There is no file and the target's is another, or the file has more tokens than the encoder.
    """
    targets = _target_tokenizer(target_model)
    if path.is_file():
        tokenizer = read_tokenizer(path)
        if tokenizer.get_vocab_size() > config.vocab_size:
            raise CheckpointError(
                f"{path} has {tokenizer.get_vocab_size()} tokens, the encoder {config.vocab_size}"
            )
        return tokenizer, targets is not None and same_tokens(tokenizer, targets)
    if targets is None or targets.get_vocab_size() != config.vocab_size:
        raise CheckpointError(
            f"there is no {path}, and the tokenizer of {target_model} is not the encoder's, which "
            f"has {config.vocab_size} tokens; pull it again with --tokenizer"
        )
    return targets, True


def _target_tokenizer(target_model: str) -> Tokenizer | None:
    """Return the target model's tokenizer, None if it cannot be had or is of another library."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(target_source(target_model))
    except (OSError, ValueError):
        return None
    return Tokenizer.from_str(found.backend_tokenizer.to_str()) if found.is_fast else None
