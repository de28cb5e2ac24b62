import os

import pytest

from neural_condense_core.errors import NeuralCondenseError, RequestError
from neural_condense_core.serving import shared_bodies
from neural_condense_core.serving.jobs import Answer
from neural_condense_core.serving.shared_bodies import Handover, SharedBlock

FROM = 1000


@pytest.fixture
def block(monkeypatch):
    monkeypatch.setattr(shared_bodies, "SHARED_FROM_BYTES", FROM)
    monkeypatch.setattr(shared_bodies, "KEPT_BYTES", 4 * FROM)
    monkeypatch.setattr(shared_bodies, "MAX_BLOCK_BYTES", 20 * FROM)
    block = SharedBlock()
    yield block
    block.close()


def answer(letter, size):
    return Answer(letter * size, {"X": "y"}, 3, 2)


def bodies(outcomes):
    return [outcome.body for outcome in outcomes]


def test_large_bodies_cross_in_the_block_and_small_ones_as_they_are(block):
    failed = RequestError("no")
    sent = [answer(b"a", FROM - 1), answer(b"b", FROM), failed, answer(b"c", 3 * FROM)]
    handover = block.fill(list(sent))
    assert handover.places == ((1, 0, FROM), (3, FROM, 3 * FROM))
    assert [len(handover.outcomes[i].body) for i in (0, 1, 3)] == [FROM - 1, 0, 0]
    found = block.empty(handover)
    assert found[2] is failed
    assert bodies(found[:2] + found[3:]) == bodies(sent[:2] + sent[3:])
    assert (found[1].headers, found[1].n_context_tokens) == ({"X": "y"}, 3)


def test_a_batch_without_large_bodies_leaves_the_block_alone(block):
    sent = [answer(b"a", 10)]
    assert block.fill(sent) == Handover(sent)
    assert block.n_bytes == 0


def test_the_block_grows_is_used_again_and_shrinks(block):
    for size, held in [(9 * FROM, 9 * FROM), (FROM, 4 * FROM), (2 * FROM, 4 * FROM)]:
        handover = block.fill([answer(b"x", size)])
        assert block.n_bytes == held
        assert bodies(block.empty(handover)) == [b"x" * size]


def test_what_the_block_has_no_room_for_crosses_as_it_is(block):
    handover = block.fill([answer(b"a", 15 * FROM), answer(b"b", 15 * FROM), answer(b"c", FROM)])
    assert [index for index, _, _ in handover.places] == [0, 2]
    assert [body[:1] for body in bodies(block.empty(handover))] == [b"a", b"b", b"c"]


def test_a_block_that_lost_something_is_an_error_not_a_short_body(block):
    handover = block.fill([answer(b"a", 2 * FROM)])
    os.ftruncate(block._descriptor, FROM)
    with pytest.raises(NeuralCondenseError, match="whole"):
        block.empty(handover)


def test_the_memory_has_no_name():
    block = SharedBlock()
    assert os.fstat(block._descriptor).st_nlink == 0
    block.close()
    block.close()


def test_where_memory_files_are_not_known_an_unlinked_file_does(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    block = SharedBlock()
    handover = block.fill([answer(b"x", 2 << 20)])
    assert bodies(block.empty(handover)) == [b"x" * (2 << 20)]
    assert os.fstat(block._descriptor).st_nlink == 0
    block.close()
