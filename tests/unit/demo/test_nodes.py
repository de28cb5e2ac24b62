"""The command lines of a subnet's processes are ones that the programs take."""

from __future__ import annotations

import shutil
import sys

import pytest

from neural_condense_core.config import MinerSettings, ValidatorSettings
from neural_condense_core.demo import nodes
from neural_condense_core.demo.flow import ROOT
from neural_condense_core.demo.plan import SubnetPlan, parse_miners
from neural_condense_core.demo.world import World
from neural_condense_core.flags import load_settings

PLAN = SubnetPlan(parse_miners(["research=pooled"]))


def test_a_miner_s_line():
    wanted = nodes.miner(PLAN, PLAN.miners[0], 8081)
    assert nodes.as_typed(wanted.argv, 8090) == (
        "python -m neurons.miner --netuid 52 --subtensor.network dev --wallet.name research-pooled "
        "--wallet.key default --miner.tier research --miner.backend_host 127.0.0.1 "
        "--miner.backend_port 8081 --axon.port 8090"
    )
    words = nodes.as_typed(wanted.argv, 8090).split()[3:]
    found = load_settings(MinerSettings, words, {}, prog="miner", description="")
    assert (found.tier, found.backend_port, found.axon_port) == ("research", 8081, 8090)


@pytest.mark.parametrize("has_texts", [False, True])
def test_the_validator_s_line(tmp_path, has_texts):
    world = World(tmp_path, PLAN)
    if has_texts:
        world.texts_file.touch()
    wanted = nodes.validator(world, 8089)
    words = nodes.as_typed(wanted.argv, 9000).split()[3:]
    found = load_settings(ValidatorSettings, words, {}, prog="validator", description="")
    assert (found.score_url, found.gate_port) == ("http://127.0.0.1:8089", 9000)
    assert (found.contexts_per_round, found.ask_interval_s, found.ask_gap_s) == (4, 0, 0)
    assert found.texts == (str(world.texts_file) if has_texts else None)


def test_backends_and_the_scoring_service(tmp_path):
    assert nodes.as_typed(nodes.backend(PLAN, "pooled").argv, 8080) == (
        "python -m neural_condense_core.cli serve --condenser pooled --port 8080 --devices 1"
    )
    launcher = nodes.scoring(PLAN, ROOT, 2)
    assert nodes.as_typed(launcher.argv, 8089) == (
        "python services/validator_backend/scoring/app.py --port 8089 --threads 2 --baselines none"
    )
    assert nodes.scoring(PLAN, tmp_path, 2).argv[:2] == (sys.executable, "-c")
    for_another = SubnetPlan(PLAN.miners, target_model="m")
    assert nodes.backend(for_another, "pooled").argv[-2:] == ("--target_model", "m")
    assert nodes.scoring(for_another, ROOT, 2).argv[-2:] == ("--target_model", "m")


def test_command_lines_of_one_s_own():
    plan = SubnetPlan(PLAN.miners, backends={"pooled": ("b", "{port}")}, judge=("j", "{port}"))
    assert nodes.backend(plan, "pooled").argv == ("b", "{port}")
    assert nodes.scoring(plan, ROOT, 1).argv == ("j", "{port}")
    assert shutil.which(nodes.backend(PLAN, "pooled").argv[0])
