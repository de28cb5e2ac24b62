"""The estimate of content recovery: a sample, and a map that only rises."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.gateway.estimating import (
    LEAD_TOKENS,
    N_STRETCHES,
    STRETCH_TOKENS,
    Calibration,
    load_calibration,
    sample_gain,
    stretches,
)
from neural_condense_core.llm.hf import load_target
from neural_condense_core.tokens import CondensedTokens


def test_stretches_are_spread_over_the_text():
    found = stretches(list(range(1000)))
    assert len(found) == N_STRETCHES
    assert found[0].lead[0] == 0
    assert found[-1].target[-1] == 999
    assert {(len(each.lead), len(each.target)) for each in found} == {(LEAD_TOKENS, STRETCH_TOKENS)}
    for each in found:
        whole = (*each.lead, *each.target)
        assert whole == tuple(range(whole[0], whole[0] + len(whole)))


@pytest.mark.parametrize("n", [1, 2, 9, 32, 33, 65, 130])
def test_short_texts_give_fewer_or_shorter_ones(n):
    found = stretches(list(range(n)))
    assert 1 <= len(found) <= N_STRETCHES
    assert all(each.target for each in found)
    assert max(each.target[-1] for each in found) < n


def test_nothing_gives_nothing():
    assert stretches([]) == []


def test_the_map_is_straight_between_knots_and_flat_outside():
    found = Calibration("toy", (0.0, 0.5, 1.0), (0.1, 0.2, 0.8))
    given = [-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0]
    assert [round(found.recovery(gain), 6) for gain in given] == [
        0.1, 0.1, 0.15, 0.2, 0.5, 0.8, 0.8,
    ]  # fmt: skip


def test_the_shipped_map_rises():
    found = load_calibration()
    values = [found.recovery(gain) for gain in np.linspace(-1, 1, 41)]
    assert values == sorted(values)
    assert found.target_model == "smollm2-135m-instruct"


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "{}",
        json.dumps({"target_model": "m", "knots": []}),
        json.dumps({"target_model": "m", "knots": [[0, 0.5], [1, 0.4]]}),
        json.dumps({"target_model": "m", "knots": [[1, 0.1], [0, 0.4]]}),
        json.dumps({"target_model": "m", "knots": [[0, 0.1], [1, 1.4]]}),
    ],
)
def test_what_is_no_map_is_refused(body, tmp_path):
    path = tmp_path / "map.json"
    path.write_text(body)
    with pytest.raises(ConfigError, match="calibration"):
        load_calibration(path)


def test_a_gain_is_the_same_again_and_at_most_one(tiny_llama):
    target = load_target(tiny_llama, dtype="float32")
    text = "The harbour was quiet when they came. " * 8
    embeds = target.embed(target.tokenize(text))
    tokens = CondensedTokens(embeds, target.name, len(embeds))
    gain = sample_gain(target, tokens, text)
    assert gain == sample_gain(target, tokens, text)
    assert gain < 1
    assert sample_gain(target, tokens, "") is None
