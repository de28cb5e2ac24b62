"""Reading: choices behind a context, the other document, the ends of the scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from evaluation_fakes import FakeTarget, items_of

from neural_condense_core.evaluation.reading import read, read_ends
from neural_condense_core.llm.base import TokenIds


def test_a_choice_is_the_likeliest_behind_the_own_context() -> None:
    target: Any = FakeTarget()
    first, second, third = items_of("answer", 3)
    items = [
        replace(first, distractors=((1, 2), (3, 4))),
        # a wrong choice of the text itself is as likely as the right one: no hit
        replace(second, distractors=((second.context_ids[1], second.context_ids[2]),)),
        third,
    ]
    own = [TokenIds(item.context_ids) for item in items]
    reading = read(target, items, own, [own[1], own[2], own[0]])
    np.testing.assert_array_equal(reading.hits, [1.0, 0.0, np.nan])
    assert reading.losses.nats.tolist() == [2.0, 2.0, 2.0]
    assert reading.other.nats.tolist() == [6.0, 6.0, 6.0]
    assert target.scored == 3 + 3 + 3


def test_the_ends_of_the_scale() -> None:
    target: Any = FakeTarget()
    items = items_of("answer", 3)
    ends = read_ends(target, items, [items[1].context_ids] * 3)
    ref = ends.reference
    assert ref.none.nats.tolist() == [6.0, 6.0, 6.0]
    assert ref.full.nats.tolist() == [2.0, 2.0, 2.0]
    assert ref.full_other.nats.tolist() == [6.0, 2.0, 6.0]
    assert ends.none.other is ends.none.losses
    assert target.scored == 3 + 6
    assert np.isnan(ends.full.hits).all()
