from __future__ import annotations

import numpy as np

from neural_condense_core.condensers.noise import NoiseCondenser


def test_rows_have_the_embeddings_norm_and_nothing_of_the_text(fake_target):
    condenser = NoiseCondenser(fake_target)
    first, again, other = (
        condenser.condense_to([condenser.tokenize(text)], [3])[0]
        for text in ("a context", "a context", "b context")
    )
    np.testing.assert_array_equal(first.embeds, again.embeds)
    assert not np.isclose(first.embeds, other.embeds).any()
    rms = np.sqrt(np.square(first.embeds).mean(axis=1))
    np.testing.assert_allclose(rms, fake_target.embedding_scale, rtol=1e-5)
    assert first.positions.tolist() == [1, 4, 7]
