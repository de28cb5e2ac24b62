"""A training recipe: one TOML file under ``runs/``, parsed once, frozen.

Design decisions

* Shares are of the steps or of the batches and lie in [0, 1]; weights are relative and need not
  add up. What is 0 or empty is off.
* A recipe says nothing of the machine: device, number of processes and data files are arguments
  of the run, and the numbers that come out do not depend on them beyond rounding.
* The parameters below are the one list of settings; ``docs/training.md`` is written from it.
"""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neural_condense_core.constants import EMBEDDED_TARGET_MODEL
from neural_condense_core.errors import ConfigError
from neural_condense_core.registry import suggest

OBJECTIVES = ("continuation", "reconstruction", "answer")
GENERATED_KINDS = ("cloze", "facts", "key_value", "counterfactual")
SHARES = (
    "curriculum_share",
    "gap_share",
    "robust_share",
    "position_share",
    "generated_share",
    "final_lr",
    "residual_scale",
)
NOT_NEGATIVE = (
    "imitation_steps",
    "micro_batch",
    "kl_weight",
    "kl_top_k",
    "ce_weight",
    "swap_weight",
    "noise",
    "generated_pool",
    "lr_adapter",
    "lr_head",
    "warmup",
    "head_warmup",
    "weight_decay",
    "statistics_stretches",
    "salience_contexts",
    "salience_epochs",
)
_NUMBERED = ("ratios", "context_lengths")


@dataclass(frozen=True)
class Stage:
    """A stretch of the steps with objectives of its own.

    Parameters
    ----------
    until : share of all steps at which it ends
    objectives : objective -> how often, relative
    """

    until: float
    objectives: dict[str, float]

    def __post_init__(self) -> None:
        """Check ranges.

        Raises
        ------
        ConfigError
            ``until`` is no share.
        """
        if not 0 < self.until <= 1:
            raise ConfigError(f"until of a stage is a share of the steps, got {self.until}")
        _check_objectives(self.objectives)
        _check_weights("objectives of a stage", self.objectives)


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
    batch : contexts a step, over all processes
    micro_batch : contexts a process computes at once, gradients being added up; 0 = all of its own
    context_lengths : tokens of a context -> how often, relative; few, since each is a shape
    ratios : compression ratio -> how often, relative
    curriculum : ratios that come first, one after the other, before all of ``ratios`` are drawn
    curriculum_share : share of the steps that the curriculum takes
    objectives : objective -> how often, relative
    stages : stretches of the steps with objectives of their own; behind the last, ``objectives``
    imitation_steps : steps at the beginning in which each condensed token is only to become the
        embedding of the context token at its own position; for methods that start from nothing
    kl_weight : weight of KL(teacher with the full text || student) on continuation and answers
    kl_top_k : how many of the teacher's likeliest tokens the KL tells apart, the rest being one
        more; 0 = the whole vocabulary
    ce_weight : weight of cross-entropy on continuation and answers
    gap_share : share of the weight of continuation and answer tokens that follows
        max(0, log p_full - log p_none); the rest is spread evenly
    swap_weight : weight of the term that makes another document's condensed tokens the worse ones
    swap_margins : objective -> by how many nats per token they are to be worse; about what the
        full text of another document costs there
    robust_share : share of the batches whose condensed tokens get noise and rounding to 8 bits
    noise : standard deviation of that noise, in units of the matrix's root mean square
    position_share : share of the batches whose condensed tokens stand at explicit positions
    generated_share : share of the answers that are to generated questions
    generated : kind of generated question -> how often, relative
    generated_pool : how many are generated before the first step; a packed folder brings its own
    lr_adapter : peak learning rate of the LoRA adapters
    lr_head : peak learning rate of everything else
    warmup : steps of linear warm-up
    head_warmup : steps at the beginning in which the adapters rest and only the rest learns
    final_lr : share of the peak that the cosine schedule ends at
    weight_decay : of AdamW
    clip : longest gradient of the adapters, and of everything else
    residual_scale : factor on the residual in the checkpoint that is written, ``pooled`` alone;
        between nothing and all that was learned may lie better than either (arXiv:2109.01903)
    statistics_stretches : how many stretches of prose to count tokens in before the first step
    salience_contexts : how many contexts to fit the choice of kept tokens on before the first step,
        ``pooled`` alone; 0 = do not, and rare tokens are kept
    salience_epochs : how often each of them is seen
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
    micro_batch: int = 0
    context_lengths: dict[int, float] = field(default_factory=lambda: {256: 1.0})
    ratios: dict[int, float] = field(default_factory=lambda: {4: 1.0})
    curriculum: tuple[int, ...] = ()
    curriculum_share: float = 0.15
    objectives: dict[str, float] = field(
        default_factory=lambda: {"continuation": 0.5, "reconstruction": 0.5}
    )
    stages: tuple[Stage, ...] = ()
    imitation_steps: int = 0
    kl_weight: float = 1.0
    kl_top_k: int = 0
    ce_weight: float = 0.2
    gap_share: float = 0.0
    swap_weight: float = 0.0
    swap_margins: dict[str, float] = field(default_factory=dict)
    robust_share: float = 0.0
    noise: float = 0.02
    position_share: float = 0.0
    generated_share: float = 0.0
    generated: dict[str, float] = field(default_factory=lambda: dict.fromkeys(GENERATED_KINDS, 1.0))
    generated_pool: int = 2000
    lr_adapter: float = 5e-4
    lr_head: float = 1e-3
    warmup: int = 20
    head_warmup: int = 0
    final_lr: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    residual_scale: float = 1.0
    statistics_stretches: int = 2000
    salience_contexts: int = 0
    salience_epochs: int = 3
    source_weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises
        ------
        ConfigError
            An objective is unknown, or a number is out of range.
        """
        _check_objectives({**self.objectives, **self.swap_margins})
        for kind in self.generated:
            if kind not in GENERATED_KINDS:
                raise ConfigError(
                    f"unknown generated question {kind!r}.{suggest(kind, GENERATED_KINDS)}"
                )
        if self.steps < 1 or self.batch < 1 or self.clip <= 0:
            raise ConfigError("steps and batch must be at least 1, clip more than 0")
        if self.residual_scale != 1 and self.method != "pooled":
            raise ConfigError(f"{self.method} has no residual: leave residual_scale at 1")
        self._check_ranges()
        for what in ("context_lengths", "ratios", "objectives", "generated"):
            _check_weights(what, getattr(self, what))
        if min((*self.ratios, *self.context_lengths, *self.curriculum)) < 1:
            raise ConfigError("ratios, curriculum and context_lengths hold numbers from 1 on")
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)):
            raise ConfigError("each stage must end after the one before")

    def _check_ranges(self) -> None:
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")

    @property
    def all_objectives(self) -> frozenset[str]:
        """Every objective that some step may draw."""
        drawn = [self.objectives, *(stage.objectives for stage in self.stages)]
        return frozenset(name for one in drawn for name, weight in one.items() if weight > 0)

    @property
    def all_ratios(self) -> frozenset[int]:
        """Every ratio that some step may draw."""
        kept = {ratio for ratio, weight in self.ratios.items() if weight > 0}
        return frozenset({*kept, *self.curriculum})


def read_recipe(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path : TOML file
    changes : further lines of TOML, ``"swap_weight=0.5"``; what they name replaces the file's

    Raises
    ------
    ConfigError
        The file is missing, no TOML, or holds an unknown or missing setting.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for change in changes:
        try:
            raw |= tomllib.loads(change)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"--set {change!r} is not TOML: {error}") from error
    return parse_recipe(raw, str(path))


def parse_recipe(raw: dict[str, Any], origin: str) -> Recipe:
    """Return the recipe of a parsed TOML document.

    Raises
    ------
    ConfigError
        A setting is unknown, missing, of the wrong type or out of range.
    """
    known = [f.name for f in dataclasses.fields(Recipe)]
    for key in raw:
        if key not in known:
            raise ConfigError(f"{origin}: unknown setting {key!r}.{suggest(key, known)}")
    settings = dict(raw)
    try:
        for key in _NUMBERED:
            if key in settings:
                settings[key] = {int(n): float(w) for n, w in settings[key].items()}
        if "curriculum" in settings:
            settings["curriculum"] = tuple(int(ratio) for ratio in settings["curriculum"])
        if "stages" in settings:
            settings["stages"] = tuple(Stage(**stage) for stage in settings["stages"])
        return Recipe(**settings)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{origin}: {error}") from error


def _check_objectives(weights: dict[str, float]) -> None:
    for name in weights:
        if name not in OBJECTIVES:
            raise ConfigError(f"unknown objective {name!r}.{suggest(name, OBJECTIVES)}")


def _check_weights(what: str, weights: dict[Any, float]) -> None:
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ConfigError(f"{what} needs weights of at least 0 that do not all vanish")


def settings_table() -> str:
    """Return every setting with its default as a Markdown table, for ``docs/training.md``."""
    described: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(Recipe.__doc__ or "").splitlines():
        head, colon, text = line.partition(" : ")
        if colon and not line.startswith(" "):
            names = head.split(", ")
            described |= dict.fromkeys(names, text)
        elif line.startswith(" ") and names:
            described |= {name: f"{described[name]} {line.strip()}" for name in names}
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for entry in dataclasses.fields(Recipe):
        made = entry.default_factory
        default = entry.default if made is dataclasses.MISSING else made()
        is_given = entry.default is dataclasses.MISSING and made is dataclasses.MISSING
        shown = "must be given" if is_given else f"`{_as_toml(default)}`"
        meaning = described[entry.name].replace("|", r"\|")
        rows.append(f"| `{entry.name}` | {shown} | {meaning} |")
    return "\n".join(rows)


def _as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_as_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
