"""Keys, chain, tiers and texts of a subnet on this machine."""

from __future__ import annotations

import pytest

from neural_condense_core.constants import TIERS, load_tiers
from neural_condense_core.demo.document import neighbour, shipped
from neural_condense_core.demo.plan import SubnetPlan, parse_miners
from neural_condense_core.demo.world import (
    OWNER,
    STAKE,
    VALIDATOR,
    World,
    pieces,
    write_texts,
)
from neural_condense_core.errors import ConfigError
from neural_condense_core.scoring.texts import open_texts, read_parquet

MINERS = parse_miners(["research=icae", "inference_0=pooled"])
STORIES = [shipped().text, neighbour(shipped()).text]


def test_everybody_is_registered_and_the_validator_may_set_weights(tmp_path):
    world = World(tmp_path / "subnet", SubnetPlan(MINERS))
    hotkeys = world.make(STORIES)
    assert list(hotkeys) == [OWNER, VALIDATOR, "research-icae", "inference_0-pooled"]
    seats = world.show().seats
    assert [seat.hotkey for seat in seats] == list(hotkeys.values())
    assert [(seat.stake, seat.permit) for seat in seats] == [
        (0, False), (STAKE, True), (0, False), (0, False),
    ]  # fmt: skip
    assert world.make(STORIES) == hotkeys, "made again it is the same"
    assert len(world.show().seats) == 4


def test_another_subnet_s_folder_is_refused(tmp_path):
    World(tmp_path, SubnetPlan(MINERS)).make([])
    with pytest.raises(ConfigError, match="53"):
        World(tmp_path, SubnetPlan(MINERS, netuid=53)).make([])


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        World(tmp_path / "file" / "subnet", SubnetPlan(MINERS)).make([])


def test_tiers_ask_for_what_the_rounds_need(tmp_path):
    world = World(tmp_path, SubnetPlan(MINERS, target_model='a "b"', n_rounds=2, n_contexts=4))
    world.make([])
    found = load_tiers(world.tiers_file)
    assert {tier.requests_per_epoch for tier in found.values()} == {16}
    assert {tier.target_model for tier in found.values()} == {'a "b"'}
    assert found["research"].timeout_s == TIERS["research"].timeout_s
    assert world.exports()["CONDENSE_TIERS"] == str(world.tiers_file)


def test_without_a_number_of_rounds_the_tiers_are_the_specification_s(tmp_path):
    world = World(tmp_path, SubnetPlan(MINERS, n_rounds=0))
    world.tiers_file.touch()
    world.make([])
    assert not world.tiers_file.exists()
    assert "CONDENSE_TIERS" not in world.exports()


def test_pieces_hold_the_whole_text_in_order():
    found = pieces(STORIES[0])
    assert " ".join(found) == " ".join(STORIES[0].split())
    assert max(map(len, found)) < 2_000
    assert pieces("") == []


def test_texts_are_enough_documents_to_swap(tmp_path):
    path = tmp_path / "texts.parquet"
    write_texts(path, [*STORIES, STORIES[0]])
    rows = read_parquet(path)
    assert len(rows) >= 6
    assert open_texts(str(path)).source == "texts"
    write_texts(path, [])
    assert not path.exists()
