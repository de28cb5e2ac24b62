"""Drawing a token, whole characters, stop texts: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.llm.base import Piece, Sampling
from neural_condense_core.llm.decoding import Detokenizer, StopTexts, answer_pieces, pick

END = 256


def decode(ids: Sequence[int]) -> str:
    """One token a byte, as a byte tokenizer does."""
    return bytes(i for i in ids if i != END).decode("utf-8", "replace")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_greedy_takes_the_most_likely_and_asks_for_no_chance() -> None:
    logits = np.array([0.0, 3.0, 2.9], np.float32)
    before = generator()
    chance = generator()
    assert pick(logits, Sampling(top_p=0.1, seed=3), chance) == 1
    assert chance.random() == before.random()


@pytest.mark.parametrize(
    ("top_p", "drawn"), [(1.0, {0, 1, 2, 3}), (0.5, {0}), (0.7, {0, 1}), (0.95, {0, 1, 2})]
)
def test_top_p_draws_from_the_fewest_that_hold_it(top_p: float, drawn: set[int]) -> None:
    logits = np.log(np.array([0.6, 0.25, 0.12, 0.03], np.float32))
    sampling, chance = Sampling(temperature=1.0, top_p=top_p), generator()
    assert {pick(logits, sampling, chance) for _ in range(800)} == drawn


def test_temperature_one_draws_what_the_model_says() -> None:
    shares = np.array([0.5, 0.3, 0.2], np.float32)
    chance = generator()
    counts = np.bincount(
        [pick(np.log(shares), Sampling(temperature=1.0), chance) for _ in range(6000)], minlength=3
    )
    np.testing.assert_allclose(counts / 6000, shares, atol=0.03)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.array([-np.inf, 1.0, -np.inf], np.float32)
    assert {pick(logits, Sampling(temperature=2.0), generator(i)) for i in range(50)} == {1}


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"temperature": 2.1}, {"temperature": float("nan")}, {"top_p": 0.0},
     {"top_p": 1.1}, {"stop": ("a", "")}],
)  # fmt: skip
def test_a_sampling_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Sampling(**wrong)  # type: ignore[arg-type]


@given(st.text())
def test_a_detokenizer_gives_whole_characters_and_all_of_them(text: str) -> None:
    letters = Detokenizer(decode)
    parts = [letters.push(byte) for byte in text.encode()]
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)
    assert "".join([*parts, letters.flush()]) == text


def test_bytes_that_never_become_a_character_come_out_in_the_end() -> None:
    letters = Detokenizer(decode)
    assert [letters.push(byte) for byte in "é".encode()] == ["", "é"]
    assert letters.push(0xC3) == ""
    assert letters.flush() == "\ufffd"


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_texts_cut_at_the_first_wherever_the_pieces_end(text: str, stop: list[str]) -> None:
    found = [at for at in map(text.find, stop) if at >= 0]
    gate, shown, stopped = StopTexts(stop), "", False
    for letter in text:
        ready, stopped = gate.push(letter)
        shown += ready
        if stopped:
            break
    # of several stop texts, the one that is complete first ends the answer
    ends = min((text.find(each) + len(each) for each in stop if each in text), default=None)
    assert stopped == bool(found)
    if ends is None:
        assert shown + gate.flush() == text
    else:
        assert text[:ends].startswith(shown)
        assert not any(each in shown for each in stop)


def said(text: str, *, end: bool = False) -> Iterator[int]:
    yield from text.encode()
    if end:
        yield END
    raise AssertionError("asked for a token too many")


def answer(tokens: Iterator[int], n: int, stop: Sequence[str] = ()) -> list[Piece]:
    return list(answer_pieces(tokens, decode, END.__eq__, n, stop))


def test_an_answer_ends_at_the_end_token_and_counts_it() -> None:
    assert answer(said("hé", end=True), 9) == [Piece("h", 1), Piece("é", 2), Piece("", 1, "stop")]


def test_an_answer_ends_when_the_tokens_run_out_without_asking_for_more() -> None:
    assert answer(said("abc"), 3) == [Piece("a", 1), Piece("b", 1), Piece("c", 1, "length")]


def test_a_cut_character_is_shown_as_broken() -> None:
    assert answer(said("é"), 1) == [Piece("\ufffd", 1, "length")]


def test_held_back_text_is_given_when_no_stop_text_comes() -> None:
    assert answer(said("ab", end=True), 9, ["abc"]) == [Piece("ab", 3, "stop")]
    assert answer(said("ab"), 2, ["abc"]) == [Piece("ab", 2, "length")]


def test_a_stop_text_across_tokens_ends_the_answer_and_counts_its_tokens() -> None:
    assert answer(said("xabc"), 9, ["abc"]) == [Piece("x", 1), Piece("", 3, "stop")]
