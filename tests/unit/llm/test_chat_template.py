"""Chat templates outside transformers say what they say inside it."""

from __future__ import annotations

import pytest

from neural_condense_core.errors import RequestError
from neural_condense_core.llm.chat_template import render_template
from neural_condense_core.llm.hf import load_target

TURNS = [
    {"role": "system", "content": "Be <brief>."},
    {"role": "user", "content": "Hi {{ 1 }}"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_the_same_template_gives_the_same_text(family: str, tiny_models: dict[str, str]) -> None:
    target = load_target(tiny_models[family], dtype="float32")
    tokenizer = target.tokenizer
    found = render_template(
        tokenizer.chat_template, TURNS,
        bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token,
    )  # fmt: skip
    assert found == target.render_chat(TURNS)


def test_without_a_template_the_messages_stand_below_each_other() -> None:
    assert render_template(None, TURNS[1:2], bos_token="", eos_token="") == "Hi {{ 1 }}\n"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate: ' ~ messages[0]['content']) }}",
        "{{ messages[0].__class__.__mro__ }}",
        "{% for %}",
    ],
)
def test_a_template_that_refuses_or_is_hostile_is_an_error_without_the_text(template: str) -> None:
    with pytest.raises(RequestError) as caught:
        render_template(template, TURNS, bos_token="", eos_token="")
    assert "brief" not in caught.value.message
