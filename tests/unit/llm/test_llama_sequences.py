"""Who owns which sequence of the cache."""

from __future__ import annotations

import pytest

from neural_condense_core.errors import OverloadedError
from neural_condense_core.llm.llama_sequences import Sequences


@pytest.fixture
def forgotten() -> list[int]:
    return []


def keep(sequences: Sequences, key: int, n_rows: int) -> int:
    sequence = sequences.take(n_rows)
    sequences.keep(key, sequence)
    return sequence


def test_the_least_recently_used_prefix_gives_way(forgotten: list[int]) -> None:
    sequences = Sequences(3, 100, forgotten.append)
    first, second = keep(sequences, 1, 40), keep(sequences, 2, 40)
    assert sequences.find(1) == first
    sequences.take(40)
    assert forgotten == [second]
    assert (sequences.find(1), sequences.find(2)) == (first, None)


def test_places_run_out_as_rows_do(forgotten: list[int]) -> None:
    sequences = Sequences(2, 100, forgotten.append)
    first = keep(sequences, 1, 1)
    keep(sequences, 2, 1)
    assert sequences.take(1) == first
    assert forgotten == [first]


def test_what_is_read_never_gives_way(forgotten: list[int]) -> None:
    sequences = Sequences(3, 100, forgotten.append)
    keep(sequences, 1, 60)
    with (
        sequences.reading(1),
        sequences.reading(1),
        pytest.raises(OverloadedError, match="ask again"),
    ):
        sequences.take(60)
    assert forgotten == []
    sequences.take(60)
    assert len(forgotten) == 1


def test_a_dropped_prefix_gives_its_place_back_at_the_next_call(forgotten: list[int]) -> None:
    sequences = Sequences(1, 10, forgotten.append)
    first = keep(sequences, 1, 10)
    sequences.drop(1)
    sequences.drop(99)  # one that lost its place before
    assert forgotten == []
    assert sequences.take(10) == first
    sequences.release(first)
    assert sequences.take(10) == first
