"""Arrivals and contexts come from a seed, keep the tier's limits and never repeat."""

from dataclasses import replace

import numpy as np
import pytest

from neural_condense_core.constants import TIERS
from neural_condense_core.loadtest.arrivals import POOL, Contexts, poisson_arrivals, tier_rate
from neural_condense_core.scoring.texts import Generated


def test_the_rate_is_the_tier_s_for_each_validator():
    assert tier_rate(TIERS["inference_0"], 1) == pytest.approx(1024 / 600)
    assert tier_rate(TIERS["inference_0"], 4) == pytest.approx(4 * 1024 / 600)
    assert tier_rate(replace(TIERS["research"], requests_per_epoch=600), 2) == 2.0


def test_there_are_as_many_arrivals_as_the_rate_says():
    times = poisson_arrivals(np.random.default_rng(0), 50.0, 60.0)
    assert len(times) == 3000
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] < times[-1] < 60
    assert len(poisson_arrivals(np.random.default_rng(0), 0.001, 1.0)) == 1


def test_gaps_are_exponential():
    gaps = np.diff(poisson_arrivals(np.random.default_rng(1), 100.0, 1000.0))
    assert gaps.mean() == pytest.approx(0.01, rel=0.01)
    assert gaps.std() == pytest.approx(0.01, rel=0.02)
    assert (gaps > 0.03).mean() == pytest.approx(np.exp(-3), rel=0.1)


def test_contexts_are_within_the_limit_all_different_and_seeded():
    contexts = Contexts(7, 400, Generated())
    drawn = [contexts.draw() for _ in range(2 * POOL)]
    assert max(map(len, drawn)) <= 400
    assert len({len(text) for text in drawn}) > 20
    assert len({text[:18] for text in drawn}) == len(drawn)
    assert all(text.strip() for text in drawn)
    again = Contexts(7, 400, Generated())
    assert [again.draw() for _ in range(5)] == drawn[:5]
    assert Contexts(8, 400, Generated()).draw() != drawn[0]


def test_contexts_can_fill_the_limit():
    contexts = Contexts(7, 700, Generated(), is_full_length=True)
    assert {len(contexts.draw()) for _ in range(POOL + 3)} == {700}
