"""Yuma: agreement with the measured runtime, and what must hold for any stakes and weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neural_condense_core.chain.yuma import yuma

EPOCHS = json.loads((Path(__file__).parents[2] / "golden" / "yuma_golden.json").read_text())
TOLERANCE = 2e-5


def matrix(rows: dict[str, dict[str, float]], size: int) -> np.ndarray:
    found = np.zeros((size, size))
    for uid, row in rows.items():
        for target, value in row.items():
            found[int(uid), int(target)] = value
    return found


def run(epoch: dict):
    size = len(epoch["stake_rao"])
    weights = matrix(epoch["weights_u16"], size)
    np.fill_diagonal(weights, 0.0)
    return yuma(
        np.array(epoch["stake_rao"], dtype=float),
        weights,
        matrix(epoch["bonds_before"], size),
        kappa=epoch["kappa_u16"] / 65535,
        bonds_alpha=epoch["bonds_alpha"],
    )


@pytest.mark.parametrize("epoch", EPOCHS, ids=lambda epoch: f"{epoch['mode']}-{epoch['block']}")
def test_incentive_and_consensus_are_the_runtime_s(epoch):
    shares = run(epoch)
    np.testing.assert_allclose(shares.incentive, epoch["incentive"], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(shares.consensus, epoch["consensus"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "epoch",
    [epoch for epoch in EPOCHS if epoch["mode"] == "classic"],
    ids=lambda epoch: str(epoch["block"]),
)
def test_classic_dividends_and_bonds_are_the_runtime_s(epoch):
    shares = run(epoch)
    after = matrix(epoch["bonds_after"], len(epoch["stake_rao"]))
    np.testing.assert_allclose(shares.dividends, epoch["dividends"], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(shares.bonds, after, atol=TOLERANCE, rtol=0)


def test_the_vectors_hold_both_modes():
    assert [epoch["mode"] for epoch in EPOCHS] == ["classic"] * 3 + ["yuma3"] * 3


def test_a_lone_validator_below_kappa_earns_nobody_anything():
    weights = np.array([[0.0, 0, 1], [0, 0, 0], [0, 0, 0]])
    shares = yuma(np.array([49.0, 51, 0]), weights, np.zeros((3, 3)))
    assert not shares.incentive.any()
    assert not shares.dividends.any()


def test_a_lone_validator_above_kappa_pays_as_it_weighs():
    weights = np.array([[0.0, 3, 1], [0, 0, 0], [0, 0, 0]])
    shares = yuma(np.array([51.0, 49, 0]), weights, np.zeros((3, 3)))
    np.testing.assert_allclose(shares.incentive, [0, 0.75, 0.25])
    np.testing.assert_allclose(shares.dividends, [1, 0, 0])


def test_a_minority_s_excess_weight_is_cut_to_consensus():
    honest, liar = [0.0, 0, 0.5, 0.5], [0.0, 0, 1.0, 0]
    weights = np.array([honest, liar, [0] * 4, [0] * 4], dtype=float)
    shares = yuma(np.array([60.0, 40, 0, 0]), weights, np.zeros((4, 4)))
    np.testing.assert_allclose(shares.consensus[2:], 0.5)
    assert shares.incentive[2] == pytest.approx(0.5 / (0.5 + 0.6 * 0.5))  # uncut: 0.7
    np.testing.assert_allclose(shares.trust[:2], [1.0, 0.5])


def test_nobody_with_stake_is_an_epoch_without_pay():
    shares = yuma(np.zeros(3), np.ones((3, 3)), np.ones((3, 3)))
    assert not shares.incentive.any()
    assert np.isfinite(shares.bonds).all()


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 8))
def test_shares_are_shares(data, size):
    numbers = st.floats(0, 1e9, allow_subnormal=False)
    stake = data.draw(hnp.arrays(float, size, elements=numbers))
    weights = data.draw(hnp.arrays(float, (size, size), elements=numbers))
    bonds = data.draw(hnp.arrays(float, (size, size), elements=st.floats(0, 1)))
    shares = yuma(stake, weights, bonds)
    for vector in (shares.incentive, shares.dividends):
        assert vector.min() >= 0
        assert vector.sum() == pytest.approx(1) or not vector.any()
    assert shares.bonds.min() >= 0
    assert shares.bonds.max() <= 1
    assert shares.trust.max() <= 1 + 1e-9


@given(st.integers(0, 2**32 - 1))
def test_names_do_not_matter(seed):
    generator = np.random.default_rng(seed)
    size = 6
    stake, weights, bonds = (
        generator.random(size),
        generator.random((size, size)),
        generator.random((size, size)),
    )
    order = generator.permutation(size)
    shares = yuma(stake, weights, bonds)
    moved = yuma(stake[order], weights[np.ix_(order, order)], bonds[np.ix_(order, order)])
    np.testing.assert_allclose(moved.incentive, shares.incentive[order])
    np.testing.assert_allclose(moved.dividends, shares.dividends[order])
