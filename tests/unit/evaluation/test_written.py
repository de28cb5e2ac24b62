"""What a model wrote: how it is asked for and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from evaluation_fakes import Letters

from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.evaluation.written import (
    ANSWER_TOKENS,
    Reply,
    figures,
    is_written,
    write,
)
from neural_condense_core.llm.base import TokenIds


class Parrot(Letters):
    """Writes prepared texts; one token a letter."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked = 0

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        return f"<{messages[0]['content']}>"

    def generate(self, prompts: Sequence[Any], max_new_tokens: int) -> list[str]:
        self.asked = max_new_tokens
        return self.texts


def copy_of(text: str) -> Probe:
    ids = tuple(map(ord, text))
    return Probe("reconstruction", "d", "s", ids, ids)


QUESTION = Probe("answer", "d", "s", (1,), (97,), "who?", golds=("the old Man", "a boy"))


def test_tokens_count_in_place_and_from_the_beginning() -> None:
    target: Any = Parrot("abcd", "xbc", "", "abcdefgh", "bcd", "abx")
    found = write(target, [copy_of(" abcd")] * 6, [None] * 6)
    assert [reply.in_place for reply in found] == [1.0, 0.5, 0.0, 1.0, 0.0, 0.5]
    assert [reply.exact_prefix for reply in found] == [4, 0, 0, 4, 0, 2]
    assert target.asked == 5


@pytest.mark.parametrize(
    ("text", "f1", "exact"),
    [
        ("Old man.", 1.0, True),
        ("THE OLD, MAN", 1.0, True),
        ("the boy", 1.0, True),
        ("an old woman", 0.5, False),
        ("old old man", 0.8, False),
        ("", 0.0, False),
        ("girl", 0.0, False),
    ],
)
def test_answers_are_compared_with_the_nearest_good_one(text: str, f1: float, exact: bool) -> None:
    target: Any = Parrot(text)
    (reply,) = write(target, [QUESTION], [TokenIds((1,))])
    assert (reply.f1, reply.is_exact) == (pytest.approx(f1), exact)
    assert target.asked == ANSWER_TOKENS
    assert figures([reply]) == {"n": 1, "f1": pytest.approx(f1), "exact_match": float(exact)}


def test_a_reply_that_was_begun_goes_on_behind_the_answer() -> None:
    target: Any = Parrot("The old man. He lives in", "the old woman. He", "old")
    found = write(target, [replace(QUESTION, bridge_ids=(1,))] * 3, [None] * 3)
    assert [reply.is_exact for reply in found] == [True, False, False]
    assert [reply.f1 for reply in found] == [1.0, 0.5, pytest.approx(2 / 3)]


def repeated(wanted: str, text: str) -> Reply:
    return Reply(text, wanted, tuple(map(ord, text)), tuple(map(ord, wanted)))


def test_figures_of_a_repeated_text() -> None:
    text = "It was in 1812 when old Tom Brown met 37 sailors near the harbour of Hull."
    same = figures([repeated(text, text)])
    assert (same["rouge_l"], same["prefix_share"]) == (1.0, 1.0)
    assert same["bleu"] == pytest.approx(100.0)
    assert (same["numbers_recalled"], same["names_recalled"]) == (1.0, 1.0)
    assert (same["n_numbers"], same["n_names"]) == (2, 2)
    part = figures([repeated(text, "It was in 1813 when Tom Brown met sailors")])
    assert part["numbers_recalled"] == 0.0
    assert part["names_recalled"] == 0.5
    # eight of nine written and of sixteen wanted words stand in order
    assert part["rouge_l"] == pytest.approx(2 * 8 / (9 + 16))
    assert part["exact_prefix"] == len("It was in 181")
    nothing = figures([repeated("no more", "")])
    assert (nothing["rouge_l"], nothing["bleu"], nothing["names_recalled"]) == (0.0, 0.0, None)


def test_which_items_are_written() -> None:
    assert is_written(QUESTION)
    assert is_written(copy_of("a"))
    assert not is_written(replace(copy_of("a"), bridge_ids=(1,)))
    assert not is_written(Probe("continuation", "d", "s", (1,), (2,)))
