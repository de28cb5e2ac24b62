import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_condense_core.errors import OverloadedError
from neural_condense_core.serving.batching import (
    MAX_PADDING,
    WINDOW,
    Batch,
    Entry,
    TokenQueue,
)


def queue_of(*lengths, max_batch_tokens=1000, **kwargs):
    queue = TokenQueue(100_000, max_batch_tokens)
    for index, length in enumerate(lengths):
        queue.put(Entry(index, length, 100.0, **kwargs))
    return queue


def items(batch):
    return [entry.item for entry in batch]


def test_empty_queue_gives_an_empty_batch():
    assert queue_of().take(0.0) == []


@pytest.mark.parametrize(
    ("lengths", "n_tokens", "budget", "expected"),
    [
        ([10], 10, 20, True),
        ([10], 10, 19, False),
        ([10], 12, 24, True),
        ([10], 12, 23, False),
        # 2 * 100^2 / (100^2 + 20^2) = 1.92
        ([100], 20, 1000, False),
        # 2 * 100^2 / (100^2 + 60^2) = 1.47
        ([100], 60, 1000, True),
    ],
)
def test_who_may_join_a_batch(lengths, n_tokens, budget, expected):
    first, *rest = [Entry(None, length, 1.0) for length in lengths]
    batch = Batch(first, budget)
    assert all(batch.join(entry) for entry in rest)
    assert batch.join(Entry(None, n_tokens, 1.0)) is expected
    assert len(batch.entries) == len(lengths) + expected
    assert batch.n_padded_tokens == len(batch.entries) * max(lengths + [n_tokens] * expected)


def test_batch_is_padded_within_its_budget():
    queue = queue_of(10, 10, 10, 10, max_batch_tokens=30)
    assert items(queue.take(0.0)) == [0, 1, 2]
    assert items(queue.take(0.0)) == [3]
    assert (queue.n_tokens, len(queue)) == (0, 0)


def test_a_context_above_the_batch_budget_goes_by_itself():
    queue = queue_of(5000, 10, max_batch_tokens=100)
    assert items(queue.take(0.0)) == [0]
    assert items(queue.take(0.0)) == [1]


def test_like_lengths_share_a_batch_and_the_oldest_starts_it():
    queue = queue_of(100, 10, 95, 11, 100, max_batch_tokens=300)
    assert items(queue.take(0.0)) == [0, 4, 2]
    assert items(queue.take(0.0)) == [1, 3]


def test_nearest_deadline_first():
    queue = TokenQueue(1000, 10)
    for name, deadline_s in [("late", 9.0), ("soon", 1.0), ("later", 10.0)]:
        queue.put(Entry(name, 10, deadline_s))
    assert [items(queue.take(0.0)) for _ in range(3)] == [["soon"], ["late"], ["later"]]


def test_groups_never_mix():
    queue = TokenQueue(1000, 1000)
    for index, ratio in enumerate((4, 8, 4)):
        queue.put(Entry(index, 10, 1.0, group=ratio))
    assert items(queue.take(0.0)) == [0, 2]
    assert items(queue.take(0.0)) == [1]


def test_expired_and_abandoned_entries_are_never_taken():
    queue = TokenQueue(1000, 10)
    expired, given_up, wanted = Entry("a", 10, 1.0), Entry("b", 10, 5.0), Entry("c", 10, 5.0)
    for entry in (expired, given_up, wanted):
        queue.put(entry)
    queue.discard(given_up)
    assert queue.n_tokens == 20
    assert queue.take(1.0) == [wanted]
    assert expired.abandoned
    assert given_up.abandoned
    assert queue.n_tokens == 0


def test_discarding_an_entry_that_was_taken_changes_no_count():
    queue = queue_of(10, 20)
    (first, second) = queue.take(0.0) + queue.take(0.0)
    queue.discard(first)
    assert first.abandoned
    assert not second.abandoned
    assert queue.n_tokens == 0


def test_bound_is_in_tokens():
    queue = TokenQueue(100, 1000)
    queue.put(Entry("a", 60, 1.0))
    with pytest.raises(OverloadedError) as caught:
        queue.put(Entry("b", 41, 1.0))
    assert caught.value.detail == {
        "reason": "queued_tokens",
        "queued_tokens": 60,
        "max_queued_tokens": 100,
    }
    queue.put(Entry("c", 40, 1.0))
    assert queue.n_tokens == 100


def test_what_is_put_back_goes_alone_and_past_the_bound():
    queue = TokenQueue(20, 1000)
    lost = [Entry(name, 10, 1.0) for name in "ab"]
    given_up = Entry("c", 10, 1.0)
    given_up.abandoned = True
    queue.put(Entry("new", 20, 2.0))
    queue.put_back([*lost, given_up])
    assert queue.n_tokens == 40
    assert [items(queue.take(0.0)) for _ in range(4)] == [["a"], ["b"], ["new"], []]


def test_discarding_says_whether_the_entry_waited():
    queue = TokenQueue(1000, 1000)
    first, second = Entry("a", 10, 1.0), Entry("b", 10, 9.0)
    queue.put(first)
    queue.put(second)
    assert queue.discard(second)
    assert not queue.discard(second)
    assert queue.take(0.0) == [first]
    assert not queue.discard(first)


def test_what_is_ahead_follows_the_deadlines():
    queue = TokenQueue(1000, 1000)
    assert queue.ahead_of(1.0) == (0, 0)
    assert queue.last_deadline_s() is None
    for n_tokens, deadline_s in [(1, 5.0), (10, 3.0), (100, 9.0)]:
        queue.put(Entry(None, n_tokens, deadline_s))
    assert [queue.ahead_of(deadline_s) for deadline_s in (2.0, 3.0, 6.0, 9.0, 99.0)] == [
        (0, 0), (1, 10), (2, 11), (3, 111), (3, 111),
    ]  # fmt: skip
    assert queue.last_deadline_s() == 9.0


def test_clear_empties_the_queue():
    queue = queue_of(1, 2, 3)
    assert items(queue.clear()) == [0, 1, 2]
    assert (len(queue), queue.n_tokens, queue.take(0.0)) == (0, 0, [])


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=120),
    budget=st.integers(1, 4000),
    deadlines=st.randoms(use_true_random=False),
)
def test_every_entry_is_taken_once_within_the_rules(lengths, budget, deadlines):
    queue = TokenQueue(10**9, budget)
    entries = [Entry(i, n, deadlines.uniform(1, 100)) for i, n in enumerate(lengths)]
    for entry in entries:
        queue.put(entry)
    seen = []
    while batch := queue.take(0.0):
        waiting = [entry for entry in entries if entry.item not in seen]
        assert batch[0].deadline_s == min(entry.deadline_s for entry in waiting)
        taken = [entry.n_tokens for entry in batch]
        assert len(batch) == 1 or max(taken) * len(taken) <= budget
        assert len(taken) * max(taken) ** 2 <= MAX_PADDING * sum(n**2 for n in taken)
        assert len(batch) <= WINDOW + 1
        seen += items(batch)
    assert sorted(seen) == list(range(len(lengths)))
    assert queue.n_tokens == 0
