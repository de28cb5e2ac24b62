"""Tiers: the specification's numbers, the TOML overlay and the README's table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from neural_condense_core.condensers.checkpoints import DEFAULT_TARGET_MODEL
from neural_condense_core.constants import (
    EMBEDDED_TARGET_MODEL,
    EPOCH_LENGTH_S,
    TARGET_MODEL,
    TIERS,
    TierConfig,
    load_tiers,
    tier_table,
    tiers_for_network,
)
from neural_condense_core.errors import ConfigError

NEW_TIER = """
[tiers.research]
incentive_share = 0.4
[tiers.my-tier]
incentive_share = 0.1
requests_per_epoch = 10
timeout_s = 2
max_condensed_tokens = 32
max_context_chars = 512
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "tiers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_of_the_specification() -> None:
    model = "Condense-AI/Mistral-7B-Instruct-v0.2"
    assert dict(TIERS) == {
        "research": TierConfig("research", 0.5, 100, 24.0, 196, 1536, 0.0, 3.0, model),
        "inference_0": TierConfig("inference_0", 0.25, 1024, 4.0, 256, 1536, 0.4, 3.0, model),
        "inference_1": TierConfig("inference_1", 0.25, 1024, 4.0, 768, 4096, 0.6, 3.0, model),
    }
    assert EPOCH_LENGTH_S == 600
    assert sum(tier.incentive_share for tier in TIERS.values()) == 1


def test_tiers_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TIERS["research"].timeout_s = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        TIERS["research"] = TIERS["inference_0"]  # type: ignore[index]


def test_dev_network_reads_the_embedded_model() -> None:
    dev = tiers_for_network("dev")
    assert {tier.target_model for tier in dev.values()} == {EMBEDDED_TARGET_MODEL}
    assert dataclasses.replace(dev["research"], target_model=TARGET_MODEL) == TIERS["research"]
    assert EMBEDDED_TARGET_MODEL == DEFAULT_TARGET_MODEL


@pytest.mark.parametrize("network", ["finney", "test", "local", "ws://127.0.0.1:9944"])
def test_other_networks_keep_the_tiers(network: str) -> None:
    assert tiers_for_network(network) is TIERS


def test_overlay_changes_one_number_and_adds_a_tier(tmp_path: Path) -> None:
    tiers = load_tiers(written(tmp_path, NEW_TIER))
    assert list(tiers) == ["research", "inference_0", "inference_1", "my-tier"]
    assert tiers["research"] == dataclasses.replace(TIERS["research"], incentive_share=0.4)
    assert tiers["my-tier"] == TierConfig("my-tier", 0.1, 10, 2.0, 32, 512)
    assert TIERS["research"].incentive_share == 0.5


def test_empty_overlay_is_the_default(tmp_path: Path) -> None:
    assert dict(load_tiers(written(tmp_path, ""))) == dict(TIERS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tiers.research]\ntimeout = 3\n", "did you mean 'timeout_s'"),
        ("[tier.research]\ntimeout_s = 3\n", "did you mean 'tiers'"),
        ("[tiers.research]\nname = 'x'\n", "unknown key 'name'"),
        ("[tiers.research]\ntimeout_s = '3'\n", "timeout_s must be a number"),
        ("[tiers.research]\ntimeout_s = true\n", "timeout_s must be a number"),
        ("[tiers.research]\ntimeout_s = nan\n", "timeout_s must be a number"),
        ("[tiers.research]\ntimeout_s = 0\n", "timeout_s must be from"),
        ("[tiers.research]\nmax_condensed_tokens = 1.5\n", "must be a whole number"),
        ("[tiers.research]\nmax_condensed_tokens = 0\n", "max_condensed_tokens must be from 1"),
        ("[tiers.research]\nlatency_weight = 1.5\n", "latency_weight must be from 0 to 1"),
        ("[tiers.research]\ntarget_model = ''\n", "target_model"),
        ("[tiers.my-tier]\ntimeout_s = 3\n", "lacks incentive_share, requests_per_epoch"),
        (NEW_TIER.replace("0.4", "0.5"), "sum to 1.1"),
        ("tiers = 3\n", "must be a table"),
        ("[tiers]\nresearch = 3\n", "must be a table"),
        ("[tiers.research\n", "no valid TOML"),
    ],
)
def test_wrong_overlays_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tiers(written(tmp_path, text))
    assert says in caught.value.message
    assert caught.value.exit_code == 2


def test_missing_overlay_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_tiers(tmp_path / "none.toml")


def test_table_has_one_row_a_tier_with_every_number() -> None:
    lines = tier_table().splitlines()
    assert len(lines) == 2 + len(TIERS)
    assert lines[3] == (
        "| inference_0 | 0.25 | 1,024 | 4 | 256 | 1,536 | 0.4 | 3 "
        "| Condense-AI/Mistral-7B-Instruct-v0.2 |"
    )
    assert len({line.count("|") for line in lines}) == 1
