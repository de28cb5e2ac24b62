from __future__ import annotations

import numpy as np

from neural_condense_core.condensers.mean_embedding import MeanEmbeddingCondenser, norm_matched


def test_groups_are_averaged_and_brought_to_the_tables_norm(fake_target):
    ids = list(range(1, 8))
    (tokens,) = MeanEmbeddingCondenser(fake_target).condense_to([ids], [2])
    means = [fake_target.embed(ids[:3]).mean(0), fake_target.embed(ids[3:]).mean(0)]
    for row, mean in zip(tokens.embeds, means, strict=True):
        assert np.isclose(np.sqrt(np.mean(row**2)), 0.5)
        assert np.isclose(row @ mean, np.linalg.norm(row) * np.linalg.norm(mean))
    assert tokens.positions.tolist() == [1, 4]
    assert tokens.embeds.dtype == np.float32


def test_a_token_by_itself_stays_as_it_is(fake_target):
    ids = [1, 2, 3]
    (tokens,) = MeanEmbeddingCondenser(fake_target).condense_to([ids], [2])
    np.testing.assert_array_equal(tokens.embeds[0], fake_target.embed([1])[0])
    (tokens,) = MeanEmbeddingCondenser(fake_target).condense_to([ids], [3])
    np.testing.assert_array_equal(tokens.embeds, fake_target.embed(ids))


def test_a_mean_of_zero_stays_finite():
    np.testing.assert_array_equal(norm_matched(np.zeros((2, 4), np.float32), 0.5), np.zeros((2, 4)))
