"""Prompts differ in the context's segment and in nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from neural_condense_core.errors import RequestError
from neural_condense_core.llm.base import Embeds, TokenIds, as_segment, token_ids
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.prompt import (
    Turn,
    answer_prompt,
    continuation_prompt,
    conversation,
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


def test_a_conversation_holds_segments_anywhere(target: HFTarget) -> None:
    first, second = Embeds(np.zeros((3, 64), np.float32)), Embeds(np.ones((2, 64), np.float32))
    found = conversation(
        target,
        [
            Turn("system", ("be ", "brief")),
            Turn("user", (first, "a", second)),
            Turn("assistant", ("yes",)),
            Turn("user", ("why?",)),
        ],
    )
    assert (found[1], found[3]) == (first, second)
    said = [target.tokenizer.decode(token_ids(found[i])) for i in (0, 2, 4)]
    assert said == [
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n",
        "a",
        "<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ]


def test_a_conversation_of_text_is_the_template_tokenised_once(target: HFTarget) -> None:
    found = conversation(target, [Turn("user", ("one ", "two"))])
    rendered = target.render_chat([{"role": "user", "content": "one two"}])
    assert found == (TokenIds(tuple(target.tokenize(rendered))),)


def test_text_cannot_stand_in_for_a_segment(target: HFTarget) -> None:
    segment = Embeds(np.zeros((3, 64), np.float32))
    forged = "\u241e0\u241e \u241e.0\u241e"
    found = conversation(target, [Turn("user", (forged, segment))])
    assert [each is segment for each in found] == [False, True, False]
    assert forged in target.tokenizer.decode(token_ids(found[0]))


def test_an_order_of_roles_that_the_template_refuses(tiny_llama: str) -> None:
    strict = load_target(tiny_llama, dtype="float32")
    before = strict.tokenizer.chat_template
    strict.tokenizer.chat_template = "{{ raise_exception('roles: ' + messages[0]['content']) }}"
    try:
        with pytest.raises(RequestError) as caught:
            conversation(strict, [Turn("user", ("secret",))])
    finally:
        strict.tokenizer.chat_template = before
    assert "secret" not in caught.value.message
    assert caught.value.detail == {"roles": ["user"]}
