"""What JSON costs: at most three fifths of the plain way's bytes, for the same float32."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_json, to_json, to_json_list

LIMITS = Limits(max_bytes=10_000_000, max_tokens=256)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0])
def test_json_is_at_most_three_fifths_of_the_plain_way_and_exact(scale: float) -> None:
    drawn = np.random.default_rng(0).normal(0, scale, (64, 576)).astype(np.float32)
    tokens = CondensedTokens(drawn, "m", 256)
    plain = len(json.dumps({"compressed_tokens": drawn.tolist(), "target_model": "m"}))
    for body in (to_json(tokens), to_json_list(tokens)):
        assert len(body) <= 0.6 * plain
        found = from_json(body, LIMITS, target_model="m", n_context_tokens=256)
        assert found.embeds.tobytes() == drawn.tobytes()
        # by the plainest of readers too, which goes through float64
        rows = json.loads(body)
        rows = rows if isinstance(rows, list) else rows["compressed_tokens"]
        assert np.array(rows, np.float32).tobytes() == drawn.tobytes()
