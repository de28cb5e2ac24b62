"""Requests: what would change an answer is served or refused by its name, never passed over."""

from __future__ import annotations

import pytest
from gateway_fakes import text_of

QUESTION = {"role": "user", "content": "why?"}


def refused(world, path, **body):
    response = world.ask("POST", path, json={"model": "toy", **body})
    assert response.status_code == 400, response.text
    return response.json()["error"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2), ("top_k", 40), ("min_p", 0.1), ("repetition_penalty", 1.1), ("min_tokens", 3),
        ("ignore_eos", True), ("stop_token_ids", [2]), ("logit_bias", {"5": 1}), ("best_of", 2),
        ("presence_penalty", 0.5), ("frequency_penalty", -1), ("guided_json", {}),
        ("structured_outputs", {"choice": ["a"]}), ("prompt_logprobs", 1), ("echo", True),
        ("tools", [{}]), ("tool_choice", "required"), ("function_call", {"name": "f"}),
        ("response_format", {"type": "json_object"}), ("logprobs", True), ("top_logprobs", 3),
        ("modalities", ["audio"]), ("audio", {"voice": "x"}), ("web_search_options", {}),
        ("reasoning_effort", "high"), ("continue_final_message", True), ("chat_template", "x"),
    ],
)  # fmt: skip
def test_what_a_chat_does_not_serve_is_named(world, field, value):
    error = refused(world, "/v1/chat/completions", messages=[QUESTION], **{field: value})
    assert error["param"] == field
    assert field in error["message"]
    assert world.reading.asked == []


@pytest.mark.parametrize(
    ("field", "value"), [("suffix", "x"), ("logprobs", 0), ("best_of", 3), ("n", 2), ("echo", True)]
)
def test_what_a_completion_does_not_serve_is_named(world, field, value):
    error = refused(world, "/v1/completions", prompt="once", **{field: value})
    assert error["param"] == field


def test_values_that_change_nothing_are_taken(world):
    response = world.chat(
        [QUESTION], n=1, tools=[], tool_choice="auto", logprobs=False, presence_penalty=0.0,
        response_format={"type": "text"}, modalities=["text"], logit_bias={}, top_k=-1, user="ann",
        stream=False, repetition_penalty=1.0,
    )  # fmt: skip
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ([{"type": "image_url", "image_url": {"url": "data:"}}], "messages.0.content.0.type"),
        ([{"type": "text", "text": "a"}, {"type": "input_audio"}], "messages.0.content.1.type"),
        ([{"type": "condensed_context", "id": "ctx_1"}], "messages.0.content.0"),
        (5, "messages.0.content"),
    ],
)
def test_the_part_at_fault_is_named(world, content, param):
    messages = [{"role": "user", "content": content}]
    assert refused(world, "/v1/chat/completions", messages=messages)["param"] == param


def test_fields_of_the_wrong_type_are_named(world):
    chat = "/v1/chat/completions"
    assert refused(world, chat, messages=[QUESTION], stop=5)["param"] == "stop"
    assert refused(world, "/v1/completions", prompt=[1, 2])["param"] == "prompt.0"
    error = refused(world, chat, messages=[QUESTION], stream_options={"include_usage": True})
    assert error["param"] == "stream_options"


def test_a_text_part_with_an_id_of_its_own_stays_text(world):
    content = [{"type": "text", "text": "the harbour", "id": "lc_1"}]
    assert world.chat([{"role": "user", "content": content}]).status_code == 200
    assert world.reading.asked[0].lines[0].parts == ("the harbour",)


def test_all_that_an_assistant_said_before_is_read(world):
    call = {"name": "tide", "arguments": "{}"}
    messages = [
        QUESTION,
        {"role": "assistant", "content": None, "refusal": "I would rather not"},
        QUESTION,
        {"role": "assistant", "content": None, "function_call": call},
        QUESTION,
        {"role": "assistant", "content": "so", "tool_calls": [{"id": "1", "function": call}]},
        {"role": "tool", "tool_call_id": "1", "content": "high"},
    ]
    assert world.chat(messages).status_code == 200
    said = ["".join(line.parts) for line in world.reading.asked[0].lines]
    assert said[1] == "I would rather not"
    assert "tide" in said[3]
    assert said[5].startswith("so")
    assert "tide" in said[5]
    assert said[6].endswith("high")


def test_a_tool_call_that_cannot_be_read_is_refused(world):
    custom = {"id": "1", "type": "custom", "custom": {"name": "f", "input": text_of(3)}}
    messages = [QUESTION, {"role": "assistant", "content": None, "tool_calls": [custom]}]
    error = refused(world, "/v1/chat/completions", messages=messages)
    assert error["param"] == "messages.1.tool_calls.0.function"
