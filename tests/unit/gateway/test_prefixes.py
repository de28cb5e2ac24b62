"""Beginnings of prompts that are kept: the same answers, found again, bounded, nobody else's."""

from __future__ import annotations

import numpy as np
import pytest

from neural_condense_core.errors import UnsupportedError
from neural_condense_core.gateway.prefixes import MIN_ROWS, Prefixes
from neural_condense_core.llm.base import Embeds, TokenIds
from neural_condense_core.llm.hf import load_target

HEAD = TokenIds((5, 6, 7))


def rows(seed, n=MIN_ROWS):
    return Embeds(np.random.default_rng(seed).normal(0, 0.02, (n, 64)).astype(np.float32))


def asked(*parts, question=9):
    return (HEAD, *parts, TokenIds((question, 11, 12)))


class Counting:
    """Counts what is read."""

    max_positions = 2048

    def __init__(self):
        self.read = []

    def prefill(self, prompt):
        self.read.append(sum(map(len, prompt)))
        return Read(self.read[-1], prompt)


class Read:
    def __init__(self, n_tokens, prompt):
        self.n_tokens = n_tokens
        self.prompt = prompt


@pytest.fixture
def target():
    return Counting()


def test_answers_stay_what_they_are_and_the_second_question_is_cheaper(tiny_llama):
    model = load_target(tiny_llama, dtype="float32")
    prefixes = Prefixes(model, 1000)
    for question, n_known in ((9, 0), (10, len(HEAD) + MIN_ROWS), (10, len(HEAD) + MIN_ROWS)):
        prompt = asked(rows(0), question=question)
        prefix, rest, n_cached = prefixes.split(prompt, "me")
        assert (n_cached, len(rest)) == (n_known, 1)
        assert model.generate([rest], 12, prefix=prefix) == model.generate([prompt], 12)


def test_prompts_without_condensed_tokens_or_with_few_are_left_alone(target):
    prefixes = Prefixes(target, 1000)
    for prompt in ((TokenIds((1,) * 500),), asked(rows(0, 8)), (HEAD, rows(0))):
        assert prefixes.split(prompt, "me") == (None, prompt, 0)
    assert Prefixes(target, 0).split(asked(rows(0)), "me")[0] is None
    assert target.read == []


def test_nobody_profits_from_what_others_asked(target):
    prefixes = Prefixes(target, 1000)
    prefixes.split(asked(rows(0)), "me")
    assert prefixes.split(asked(rows(0)), "you")[2] == 0
    assert prefixes.split(asked(rows(0)), "me")[2] == len(HEAD) + MIN_ROWS


@pytest.mark.parametrize(
    "other",
    [
        asked(rows(1)),
        (TokenIds((5, 6, 8)), *asked(rows(0))[1:]),
        asked(Embeds(rows(0).embeds, np.arange(MIN_ROWS) * 4, 4 * MIN_ROWS)),
        asked(Embeds(rows(0).embeds, None, 4 * MIN_ROWS)),
    ],
)
def test_another_beginning_is_another_one(target, other):
    prefixes = Prefixes(target, 1000)
    prefixes.split(asked(rows(0)), "me")
    assert prefixes.split(other, "me")[2] == 0


def test_a_conversation_that_grows_uses_what_is_known_until_too_much_is_new(target):
    prefixes = Prefixes(target, 1000)
    first = rows(0, 100)
    prefixes.split(asked(first), "me")
    _, rest, n_cached = prefixes.split(asked(first, rows(1, 50)), "me")
    assert (n_cached, [len(part) for part in rest]) == (103, [50, 3])
    _, rest, n_cached = prefixes.split(asked(first, rows(1, 50), rows(2, 100)), "me")
    assert (n_cached, len(rest)) == (0, 1)
    assert target.read == [103, 253]


def test_the_least_used_goes_first_and_the_bound_holds(target):
    prefixes = Prefixes(target, 3 * (len(HEAD) + MIN_ROWS))
    for seed in (0, 1, 2, 0, 3):
        prefixes.split(asked(rows(seed)), "me")
    assert len(target.read) == 4
    assert prefixes.split(asked(rows(0)), "me")[2] > 0
    assert prefixes.split(asked(rows(1)), "me")[2] == 0
    assert prefixes.split(asked(rows(9, 500)), "me")[0] is None, "larger than all room"


def test_an_engine_that_cannot_is_not_asked_again(target, monkeypatch):
    asked_for = []

    def refuse(prompt):
        asked_for.append(prompt)
        raise UnsupportedError("this engine cannot")

    monkeypatch.setattr(target, "prefill", refuse)
    prefixes = Prefixes(target, 1000)
    for _ in range(2):
        prompt = asked(rows(0))
        assert prefixes.split(prompt, "me") == (None, prompt, 0)
    assert len(asked_for) == 1
