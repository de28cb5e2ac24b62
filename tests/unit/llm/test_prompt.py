"""Prompts differ in the context's segment and in nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from neural_condense_core.llm.base import Embeds, TokenIds, as_segment, token_ids
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.prompt import (
    answer_prompt,
    continuation_prompt,
    prompt_length,
    question_suffix,
    reconstruction_prompt,
)
from neural_condense_core.tokens import CondensedTokens


@pytest.fixture(scope="module")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, dtype="float32")


def test_the_context_stands_in_the_users_turn(target: HFTarget) -> None:
    head, context, tail = answer_prompt(target, TokenIds((200, 201)), "Who?")
    assert context == TokenIds((200, 201))
    assert target.tokenizer.decode(token_ids(head)) == "<|im_start|>user\nText:\n"
    assert target.tokenizer.decode(token_ids(tail)).endswith(
        "Who?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_context_only_its_segment_is_missing(target: HFTarget) -> None:
    head, _, tail = answer_prompt(target, TokenIds((200,)), "Who?")
    assert answer_prompt(target, None, "Who?") == (head, tail)
    assert question_suffix(target, "Who?") == ((head,), (tail,))


def test_a_reply_may_have_begun(target: HFTarget) -> None:
    for build in (continuation_prompt, reconstruction_prompt):
        open_end = token_ids(build(target, None, ())[-1])
        assert token_ids(build(target, None, (9, 10))[-1]) == (*open_end, 9, 10)


def test_lengths_count_rows(target: HFTarget) -> None:
    embeds = Embeds(np.zeros((3, 64), np.float32))
    empty = prompt_length(answer_prompt(target, None, "Who?"))
    assert prompt_length(answer_prompt(target, embeds, "Who?")) == empty + 3


def test_condensed_tokens_as_a_segment() -> None:
    tokens = CondensedTokens(np.ones((2, 4), np.float32), "m", 9, np.array([1, 6]))
    plain, placed = as_segment(tokens), as_segment(tokens, explicit_positions=True)
    assert (plain.positions, plain.span) == (None, None)
    assert placed.positions is not None
    assert (placed.positions.tolist(), placed.span) == ([1, 6], 9)
    with pytest.raises(TypeError):
        token_ids(plain)
