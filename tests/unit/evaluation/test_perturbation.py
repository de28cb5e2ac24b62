"""Disturbances: small, seeded, and none where none is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neural_condense_core.evaluation.perturbation import perturb
from neural_condense_core.tokens import CondensedTokens


def tokens(seed: int = 0) -> CondensedTokens:
    embeds = np.random.default_rng(seed).normal(size=(6, 32)).astype(np.float32)
    return CondensedTokens(embeds, "t", 24, np.arange(6, dtype=np.int64))


@pytest.mark.parametrize("kind", ["none", "dtype"])
def test_what_leaves_the_tokens_alone(kind: str) -> None:
    given = tokens()
    assert perturb(given, kind, 0) is given


def test_noise_is_small_seeded_and_different_for_each_matrix() -> None:
    given = tokens()
    noise = perturb(given, "noise", 0).embeds - given.embeds
    assert 0.015 < noise.std() / given.embeds.std() < 0.025
    np.testing.assert_array_equal(noise, perturb(given, "noise", 0).embeds - given.embeds)
    assert not np.array_equal(noise, perturb(given, "noise", 1).embeds - given.embeds)
    other = tokens(1)
    assert not np.allclose(noise, perturb(other, "noise", 0).embeds - other.embeds, atol=1e-4)


def test_int8_has_at_most_255_values_a_row() -> None:
    given = tokens()
    found = perturb(given, "int8", 0)
    step = np.abs(given.embeds).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(found.embeds - given.embeds) <= step / 2 + 1e-6)
    assert not np.array_equal(found.embeds, given.embeds)
    assert found.positions is given.positions
    zeros = replace(given, embeds=np.zeros((6, 32), np.float32))
    np.testing.assert_array_equal(perturb(zeros, "int8", 0).embeds, zeros.embeds)
