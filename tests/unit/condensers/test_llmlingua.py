from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.condensers import llmlingua
from neural_condense_core.condensers.llmlingua import LLMLinguaCondenser
from neural_condense_core.llm.base import Likelihood


class PastTarget:
    """One token a character; a token is surprising until it was seen in the text before."""

    name = "past"
    hidden_size = 4

    def __init__(self, max_positions: int = 4096) -> None:
        self.max_positions = max_positions
        self.asked: list[tuple[int, int]] = []

    def tokenize(self, text):
        return [ord(character) for character in text]

    def decode(self, ids):
        return "".join(chr(token) for token in ids)

    def _scores(self, before, ids):
        seen, found = set(before), []
        for token in ids:
            found.append(0.5 if token in seen else 5.0)
            seen.add(token)
        return np.array(found, np.float32)

    def surprisal(self, batch):
        self.asked += [(0, len(ids)) for ids in batch]
        return [self._scores((), ids) for ids in batch]

    def loglikelihood(self, prompts, targets):
        before = [[token for segment in prompt for token in segment.ids] for prompt in prompts]
        self.asked += [(len(b), len(ids)) for b, ids in zip(before, targets, strict=True)]
        found = [self._scores(b, ids) for b, ids in zip(before, targets, strict=True)]
        return [Likelihood(-values, np.zeros(len(values), bool)) for values in found]


def kept(target, text, n):
    ids = target.tokenize(text)
    indices = LLMLinguaCondenser(target).select(ids, n, None)
    return target.decode([ids[i] for i in indices])


def test_the_sentences_that_say_nothing_new_go_first():
    text = "abcdefgh. aaaaaaaaaaaaaaaaaaaa. klmnopqr."
    assert "a" not in kept(PastTarget(), text, 14)[1:]


def test_a_token_is_judged_behind_what_was_kept_not_behind_the_text(monkeypatch):
    monkeypatch.setattr(llmlingua, "SEGMENT", 4)
    target = PastTarget()
    # "x" is dropped from the first segment, so it is new again in the second
    assert kept(target, "aabxcxcc", 4) in {"abcx", "abxc"}
    assert max(before for before, _ in target.asked) == 2, "two kept tokens stood before"


@pytest.mark.parametrize("max_positions", [16, 64])
def test_no_call_is_longer_than_the_target_s_positions(max_positions):
    target = PastTarget(max_positions)
    text = "The quick brown fox jumps over the lazy dog. " * 20
    assert len(kept(target, text, 200)) == 200
    assert max(sum(pair) for pair in target.asked) <= max_positions


@given(st.text("ab .,x!", min_size=1, max_size=120), st.data())
def test_any_number_of_tokens_can_be_met(text, data):
    target = PastTarget(64)
    ids = target.tokenize(text)
    n = data.draw(st.integers(1, len(ids)))
    indices = LLMLinguaCondenser(target).select(ids, n, None)
    assert len(indices) == n
    assert (np.diff(indices) > 0).all()


def test_everything_is_kept_where_there_is_room():
    assert kept(PastTarget(), "all of it", 9) == "all of it"
