"""Things made ahead: in order, a few at a time, errors included."""

from __future__ import annotations

import threading

import pytest

from neural_condense_core.training.prefetch import Prefetcher


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_everything_is_made_once_and_in_order(depth: int) -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    prefetcher = Prefetcher(make, 6, depth)
    assert [prefetcher.take(number) for number in range(2, 6)] == [4, 9, 16, 25]
    prefetcher.close()
    assert made == [2, 3, 4, 5]


def test_no_more_than_a_few_are_made_ahead() -> None:
    made: list[int] = []
    enough = threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number == 2:
            enough.set()
        return number

    prefetcher = Prefetcher(make, 100, depth=2)
    prefetcher.take(0)
    assert enough.wait(10)
    prefetcher.close()
    assert made == [0, 1, 2]


def test_errors_arrive_where_the_thing_is_taken() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise ValueError("no text")
        return number

    prefetcher = Prefetcher(make, 9)
    assert prefetcher.take(0) == 0
    with pytest.raises(ValueError, match="no text"):
        prefetcher.take(1)
    prefetcher.close()
    assert prefetcher.take(5) == 5  # without a thread, it is made when it is asked for
