"""The specification's page in code: the tiers and their numbers.

Design decisions

* Pure data: numbers and names. The formula that turns them into a score lives in
  ``scoring/judge.py``, so tiers can be printed, compared and served.
* Frozen: another set of numbers is another mapping, never a changed one.
* A TOML file overrides single numbers or adds tiers (``load_tiers``); a key that no tier knows is
  an error, since a misspelt limit that is silently ignored costs a miner its income.
* Nothing heavier than the standard library is imported here: nodes read this module.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neural_condense_core.errors import ConfigError

EPOCH_LENGTH_S = 600
"""Seconds in which a miner answers a tier's ``requests_per_epoch``."""

SHARPNESS = 3.0
"""Default power that a score is raised to before weights within a tier are shared out."""

MIN_RATING = 0.02
"""Rating below which a miner has earned nothing: tokens without any content score up to about as
much by chance, and the best of a tier is paid its whole share however low its rating is."""

TARGET_MODEL = "Condense-AI/Mistral-7B-Instruct-v0.2"
"""Model whose input embeddings the tiers ask for."""

EMBEDDED_TARGET_MODEL = "smollm2-135m-instruct"
"""Model of every tier on the ``dev`` network; it needs no download beyond one package."""

HIDDEN_SIZES: Mapping[str, int] = MappingProxyType({TARGET_MODEL: 4096, EMBEDDED_TARGET_MODEL: 576})
"""Width of the target models that the tiers name, so that nodes know it without loading them."""

DEV_NETWORK = "dev"

MAX_TIMEOUT_S = 3600.0
SHARE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class TierConfig:
    """Limits and incentive of one tier.

    Parameters
    ----------
    name : as in ``--miner.tier``
    incentive_share : share of the subnet's incentive, in [0, 1]
    requests_per_epoch : requests a miner answers in ``EPOCH_LENGTH_S`` seconds
    timeout_s : seconds until a reply counts as none
    max_condensed_tokens : most rows of a reply; exactly this many is fine
    max_context_chars : most characters of a context
    latency_weight : lambda in ``1 - lambda * time / timeout``, in [0, 1]
    sharpness : power of the score that weights within the tier follow
    target_model : model whose ``inputs_embeds`` the reply must be
    """

    name: str
    incentive_share: float
    requests_per_epoch: int
    timeout_s: float
    max_condensed_tokens: int
    max_context_chars: int
    latency_weight: float = 0.0
    sharpness: float = SHARPNESS
    target_model: str = TARGET_MODEL

    def __post_init__(self) -> None:
        """Check every number.

        Raises
        ------
        ConfigError
            A number is out of its range, or a name is empty.
        """
        for key, (low, high) in _RANGES.items():
            value = getattr(self, key)
            if not low <= value <= high:
                raise ConfigError(
                    f"tier {self.name!r}: {key} must be from {low:g} to {high:g}, got {value:g}"
                )
        if not self.name or not self.target_model:
            raise ConfigError("a tier needs a name and a target_model that are not empty")


_RANGES: dict[str, tuple[float, float]] = {
    "incentive_share": (0.0, 1.0),
    "requests_per_epoch": (1, 1_000_000),
    "timeout_s": (0.001, MAX_TIMEOUT_S),
    "max_condensed_tokens": (1, 65_536),
    "max_context_chars": (1, 4_000_000),
    "latency_weight": (0.0, 1.0),
    "sharpness": (0.0, 100.0),
}

TIERS: Mapping[str, TierConfig] = MappingProxyType({
    tier.name: tier
    for tier in (
        TierConfig("research", 0.5, 100, 24.0, 196, 1_536, latency_weight=0.0),
        TierConfig("inference_0", 0.25, 1_024, 4.0, 256, 1_536, latency_weight=0.4),
        TierConfig("inference_1", 0.25, 1_024, 4.0, 768, 4_096, latency_weight=0.6),
    )
})
"""The tiers of the specification, by name."""


def tiers_for_network(
    network: str, tiers: Mapping[str, TierConfig] = TIERS
) -> Mapping[str, TierConfig]:
    """Return the tiers as a network plays them.

    Parameters
    ----------
    network : ``"finney"``, ``"test"``, ``"local"``, a ``ws://`` address or ``"dev"``
    tiers : the tiers to start from

    Returns
    -------
    the same tiers; on ``dev`` each has the embedded model as its target
    """
    if network != DEV_NETWORK:
        return tiers
    return MappingProxyType({
        name: replace(tier, target_model=EMBEDDED_TARGET_MODEL) for name, tier in tiers.items()
    })


def load_tiers(path: Path, tiers: Mapping[str, TierConfig] = TIERS) -> Mapping[str, TierConfig]:
    """Lay a TOML file over the tiers.

    Parameters
    ----------
    path : file with one table a tier, for example ``[tiers.research]`` and ``timeout_s = 30``;
        a tier that is not known yet must give every number that has no default
    tiers : the tiers to start from

    Returns
    -------
    all tiers, those of the file changed or added

    Raises
    ------
    ConfigError
        The file cannot be read, holds an unknown key or a value of the wrong type or range, or
        the incentive shares sum to more than 1.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the tier file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from error
    _refuse_unknown(f"{path}", raw, ["tiers"])
    tables = _table(f"{path}: tiers", raw.get("tiers", {}))
    merged = dict(tiers)
    for name, value in tables.items():
        where = f"{path}: tier {name!r}"
        merged[name] = _overlaid(where, name, merged.get(name), _table(where, value))
    total = sum(tier.incentive_share for tier in merged.values())
    if total > 1 + SHARE_TOLERANCE:
        raise ConfigError(
            f"{path}: the incentive shares of all tiers sum to {total:g}, more than 1; "
            "lower incentive_share of some ([tiers.research] and so on; 0 is allowed)"
        )
    return MappingProxyType(merged)


def tier_table(tiers: Mapping[str, TierConfig] = TIERS) -> str:
    """Return the tiers as a markdown table, one row each; the README's table is this."""
    head = (
        "| tier | incentive share | requests per epoch | timeout (s) | max condensed tokens "
        "| max context (characters) | latency weight | sharpness | target model |"
    )
    rule = "|---|---|---|---|---|---|---|---|---|"
    rows = [
        f"| {tier.name} | {tier.incentive_share:g} | {tier.requests_per_epoch:,} "
        f"| {tier.timeout_s:g} | {tier.max_condensed_tokens:,} | {tier.max_context_chars:,} "
        f"| {tier.latency_weight:g} | {tier.sharpness:g} | {tier.target_model} |"
        for tier in tiers.values()
    ]
    return "\n".join([head, rule, *rows])


_TYPES: dict[str, type] = {
    field.name: {"float": float, "int": int, "str": str}[str(field.type)]
    for field in fields(TierConfig)
    if field.name != "name"
}
_REQUIRED = [
    field.name for field in fields(TierConfig) if field.default is MISSING and field.name != "name"
]


def _overlaid(
    where: str, name: str, tier: TierConfig | None, table: Mapping[str, Any]
) -> TierConfig:
    _refuse_unknown(where, table, _TYPES)
    values = {key: _typed(f"{where}: {key}", _TYPES[key], value) for key, value in table.items()}
    if tier is not None:
        return replace(tier, **values)
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        raise ConfigError(f"{where} is new and lacks {', '.join(missing)}")
    return TierConfig(name=name, **values)


def _typed(where: str, kind: type, value: object) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        wanted = {float: "a number", int: "a whole number", str: "a string"}[kind]
        raise ConfigError(f"{where} must be {wanted}")
    return value


def _table(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table")
    return value


def _refuse_unknown(where: str, table: Mapping[str, object], known: Iterable[str]) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{where}: unknown key {key!r}; {hint}known: {', '.join(names)}")
