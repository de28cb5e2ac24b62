"""Messages become parts and, where nothing is condensed, the same text again."""

from __future__ import annotations

from neural_condense_core.gateway.dialogue import (
    TOOL_LEAD,
    Dialogue,
    Message,
    Reference,
    Text,
    from_chat,
    from_completion,
    paragraphs,
    pieces,
)
from neural_condense_core.gateway.messages import ChatRequest, CompletionRequest

CTX = "ctx_" + "0" * 32


def chat(*messages, **more):
    return from_chat(ChatRequest.model_validate({"model": "m", "messages": list(messages), **more}))


def test_the_question_is_a_part_of_its_own():
    assert paragraphs("one line") == ["one line"]
    assert paragraphs("document\n\nquestion\n") == ["document\n\n", "question\n"]
    long = "x" * 500
    assert paragraphs(f"{long}\n\nsecond\n\nquestion") == [f"{long}\n\nsecond\n\n", "question"]
    assert paragraphs("Read this:\n\nbody\n\nquestion") == [
        "Read this:\n\n",
        "body\n\n",
        "question",
    ]
    for text in ("a\n\nb\n\nc\n\nd \n", "\n\n", "\n\nx", ""):
        assert "".join(paragraphs(text)) == text


def test_only_the_last_message_is_parted():
    found = chat(
        {"role": "user", "content": "old\n\ntext"}, {"role": "user", "content": "doc\n\nwhy?"}
    )
    assert found.texts == ["old\n\ntext", "doc\n\n", "why?"]


def test_parts_and_references_keep_their_order():
    content = [{"type": "text", "text": "a"}, {"type": "condensed_context", "id": CTX}]
    found = chat({"role": "user", "content": content})
    assert found == Dialogue((Message("user", (Text("a"), Reference(CTX))),))
    assert (found.texts, found.references) == (["a"], [CTX])


def test_named_contexts_stand_before_the_last_user_message():
    found = chat(
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "then?"},
        condense={"contexts": [CTX]},
    )
    assert found.messages[2].parts == (
        Text("Text:\n"), Reference(CTX), Text("\n\n"), Text("then?"),
    )  # fmt: skip
    plain = from_completion(
        CompletionRequest.model_validate({
            "model": "m",
            "prompt": "go on",
            "condense": {"contexts": [CTX]},
        })
    )
    assert plain.messages[0].role == ""
    assert plain.references == [CTX]


def test_tools_speak_as_users_and_are_joined():
    found = chat(
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "find", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "one", "tool_call_id": "1"},
        {"role": "tool", "content": "two", "tool_call_id": "2"},
    )
    roles = [message.role for message in found.messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert found.messages[2].parts == (Text('[{"name":"find","arguments":"{}"}]'),)
    assert "".join(part.text for part in found.messages[3].parts) == (
        f"{TOOL_LEAD}one\n\n{TOOL_LEAD}two"
    )


def test_pieces_join_to_the_text():
    text = "some words of a text " * 50
    for n in (1, 2, 7):
        found = pieces(text, n)
        assert "".join(found) == text
        assert len(found) == n
