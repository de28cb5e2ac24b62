"""A training recipe: one TOML file under ``runs/``, parsed once, frozen."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neural_condense_core.constants import EMBEDDED_TARGET_MODEL
from neural_condense_core.errors import ConfigError
from neural_condense_core.registry import suggest

OBJECTIVES = ("continuation", "reconstruction", "answer")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out, apart from the data files.

    Parameters
    ----------
    name : of the checkpoint
    method : a trainable condenser, ``"pooled"`` or ``"icae"``
    target_model : the frozen model that reads the condensed tokens
    licence : of the trained weights
    condenser : the method's own settings
    seed : of initialisation and of all sampling
    steps : optimiser steps
    batch : contexts a step
    context_lengths : tokens of a context -> how often, relative; few, since each is a shape
    ratios : compression ratio -> how often, relative
    objectives : objective -> how often, relative
    imitation_steps : steps at the beginning in which each condensed token is only to become the
        embedding of the context token at its own position; for methods that start from nothing
    kl_weight : weight of KL(teacher with the full text || student) on continuation and answers
    ce_weight : weight of cross-entropy on the same
    swap_weight : weight of the term that makes another document's condensed tokens the worse ones
    swap_margins : objective -> by how many nats per token they are to be worse; about what the
        full text of another document costs there
    lr_adapter, lr_head : peak learning rates of the LoRA adapters and of everything else
    warmup : steps of linear warm-up
    final_lr : share of the peak that the cosine schedule ends at
    weight_decay, clip : of AdamW; gradient norm
    statistics_stretches : how many stretches of prose to count tokens in before the first step
    source_weights : part of a prose ``source`` -> how much likelier its text is drawn
    """

    name: str
    method: str
    target_model: str = EMBEDDED_TARGET_MODEL
    licence: str = "Apache-2.0"
    condenser: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    steps: int = 500
    batch: int = 8
    context_lengths: dict[int, float] = field(default_factory=lambda: {256: 1.0})
    ratios: dict[int, float] = field(default_factory=lambda: {4: 1.0})
    objectives: dict[str, float] = field(
        default_factory=lambda: {"continuation": 0.5, "reconstruction": 0.5}
    )
    imitation_steps: int = 0
    kl_weight: float = 1.0
    ce_weight: float = 0.2
    swap_weight: float = 0.0
    swap_margins: dict[str, float] = field(default_factory=dict)
    lr_adapter: float = 5e-4
    lr_head: float = 1e-3
    warmup: int = 20
    final_lr: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    statistics_stretches: int = 2000
    source_weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises
        ------
        ConfigError
            An objective is unknown, or a number is out of range.
        """
        for name in (*self.objectives, *self.swap_margins):
            if name not in OBJECTIVES:
                raise ConfigError(f"unknown objective {name!r}.{suggest(name, OBJECTIVES)}")
        if self.steps < 1 or self.batch < 1:
            raise ConfigError("steps and batch must be at least 1")
        choices: dict[str, dict[Any, float]] = {
            "context_lengths": self.context_lengths,
            "ratios": self.ratios,
            "objectives": self.objectives,
        }
        for what, weights in choices.items():
            if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
                raise ConfigError(f"{what} needs weights of at least 0 that do not all vanish")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    ConfigError
        The file is missing, no TOML, or holds an unknown or missing setting.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    known = [f.name for f in dataclasses.fields(Recipe)]
    for key in raw:
        if key not in known:
            raise ConfigError(f"{path}: unknown setting {key!r}.{suggest(key, known)}")
    try:
        for key in ("ratios", "context_lengths"):
            if key in raw:
                raw[key] = {int(number): float(weight) for number, weight in raw[key].items()}
        return Recipe(**raw)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from error
