"""What another text's losses may count for a miner."""

import numpy as np
import pytest
from rounds import POISON, Miners, row_of

from neural_condense_core.constants import TIERS
from neural_condense_core.scoring.judge import Losses, Reference, Score
from neural_condense_core.scoring.parts import capped
from neural_condense_core.scoring.ratings import score_reply


def s_of(miner):
    return score_reply(miner.content_recovery, miner.recovery, 0.0, TIERS["research"])


def losses(*nats):
    return Losses(np.array(nats), np.ones(len(nats)), np.zeros(len(nats)))


# Spoiling the answers to other texts was worth as much as holding the own one.
def test_making_other_texts_worse_earns_nothing():
    miners = Miners()
    miners.add("two words", miners.honest(2))
    poison = row_of(POISON)[None]
    miners.add("spoils", [np.concatenate([rows, poison]) for rows in miners.honest(2)])
    found = miners.score()
    # Of 9 nats without context the own tokens leave 2 + 6, the other ones 18, which count as 9.
    assert found["spoils"].recovery == pytest.approx(1 / 6)
    assert found["spoils"].content_recovery == pytest.approx(1 / 6)
    assert found["two words"].content_recovery == pytest.approx(2 / 3)
    assert s_of(found["spoils"]) < s_of(found["two words"])
    for task in found["spoils"].tasks.values():
        assert task.loss_other == task.loss_none


def test_the_cap_is_each_items_own_and_leaves_the_rest_alone():
    ends = Reference(losses(3.0, 3.0, 3.0), losses(1.0, 1.0, 1.0), losses(2.0, 5.0, 3.0))
    score = Score(losses(1.5, 9.0, 1.0), losses(8.0, 8.0, 2.5), ends)
    found = capped(score)
    np.testing.assert_array_equal(found.other.nats, [3.0, 5.0, 2.5])
    np.testing.assert_array_equal(found.own.nats, score.own.nats)
    np.testing.assert_array_equal(score.other.nats, [8.0, 8.0, 2.5])
