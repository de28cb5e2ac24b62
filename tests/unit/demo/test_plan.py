"""Who takes part in a subnet, as flags say it."""

from __future__ import annotations

import pytest

from neural_condense_core.constants import TIERS
from neural_condense_core.demo.plan import (
    MinerPlan,
    SubnetPlan,
    parse_commands,
    parse_miners,
)
from neural_condense_core.errors import ConfigError


def test_without_flags_every_kind_of_miner_takes_part():
    found = SubnetPlan(parse_miners([]))
    assert {(each.tier, each.condenser) for each in found.miners} == {
        ("research", "icae"), ("research", "pooled"), ("research", "truncate-head"),
        ("research", "noise"), ("inference_0", "pooled"), ("inference_0", "truncate-head"),
    }  # fmt: skip
    assert found.condensers == ("icae", "pooled", "truncate-head", "noise")
    assert {each.tier for each in found.miners} <= set(TIERS)


def test_names_are_names_of_files_and_differ():
    found = parse_miners(["research=my.module:Mine", "research=my.module:Mine", "research=a/b"])
    assert found == (
        MinerPlan("research", "my.module:Mine", "research-my-module-Mine"),
        MinerPlan("research", "my.module:Mine", "research-my-module-Mine-2"),
        MinerPlan("research", "a/b", "research-a-b"),
    )


@pytest.mark.parametrize("spec", ["research", "=icae", "research=", "nowhere=icae"])
def test_bad_miners_are_refused(spec):
    with pytest.raises(ConfigError, match="--miner"):
        parse_miners([spec])


def test_commands_by_name():
    assert parse_commands("--x", ["a=run 'two words' {port}"]) == {
        "a": ("run", "two words", "{port}")
    }
    for specs in (["a=run"], ["run {port}"], ["a=x {port}", "a=y {port}"]):
        with pytest.raises(ConfigError, match="--x"):
            parse_commands("--x", specs)
