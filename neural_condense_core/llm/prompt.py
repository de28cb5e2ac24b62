"""Real chat prompts with a context anywhere in them.

Training, evaluation, judging, the demo and ``condense ask`` all build their prompts here, so that
what is trained is what is measured and what is used.

Design decisions

* The context stands inside the user turn as a *segment*, never as text that is tokenised together
  with its surroundings: the full text, a selection and condensed tokens differ in that segment and
  in nothing else.
* The chat template is rendered with a marker where the context goes; the marker is then cut out.
* A conversation's markers are drawn anew for each prompt: text from outside cannot contain one.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from neural_condense_core.errors import RequestError
from neural_condense_core.llm.base import Prompt, Segment, TargetLLM, TokenIds

_MARKER = "\u241econtext\u241e"

CONTINUE_INSTRUCTION = "Continue the text."
REPEAT_INSTRUCTION = "Repeat the text word for word."
ANSWER_INSTRUCTION = "Answer with a few words from the text."


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Parameters
    ----------
    role : ``"system"``, ``"user"`` or ``"assistant"``, or what else the chat template knows
    parts : texts and segments in the order in which they are read
    """

    role: str
    parts: tuple[str | Segment, ...]


def conversation(target: TargetLLM, turns: Sequence[Turn]) -> Prompt:
    """Return a conversation with segments anywhere in it, up to where the assistant speaks.

    Parameters
    ----------
    target : whose template and tokenizer to use
    turns : oldest first, at least one

    Raises
    ------
    RequestError
        The model's chat template takes no such order of roles, or loses a part.
    """
    nonce = secrets.token_hex(8)
    segments: list[Segment] = []
    messages = []
    for turn in turns:
        content = ""
        for part in turn.parts:
            if isinstance(part, str):
                content += part
            else:
                content += _mark(nonce, len(segments))
                segments.append(part)
        messages.append({"role": turn.role, "content": content})
    try:
        rest = target.render_chat(messages)
    except TemplateError:  # its message may quote the conversation
        roles = [turn.role for turn in turns]
        raise RequestError(
            f"the chat template of {target.name} does not take messages of these roles in this "
            "order; many want user and assistant in turns, after at most one system message",
            {"roles": roles},
        ) from None
    found: list[Segment] = []
    for index, segment in enumerate(segments):
        head, marker, rest = rest.partition(_mark(nonce, index))
        if not marker:
            raise RequestError(f"the chat template of {target.name} drops a part of a message")
        found += [TokenIds(tuple(target.tokenize(head))), segment]
    found.append(TokenIds(tuple(target.tokenize(rest))))
    return tuple(part for part in found if len(part))


def _mark(nonce: str, index: int) -> str:
    return f"\u241e{nonce}.{index}\u241e"


def chat(
    target: TargetLLM, before: str, context: Segment | None, after: str, reply: Sequence[int] = ()
) -> Prompt:
    """Return one user turn with a context in it, up to where the assistant speaks.

    Parameters
    ----------
    target : whose template and tokenizer to use
    before, after : text of the user turn around the context
    context : the context in any form; None = no context at all
    reply : token ids with which the assistant's turn already begins
    """
    rendered = target.render_chat([{"role": "user", "content": before + _MARKER + after}])
    head, _, tail = rendered.partition(_MARKER)
    parts: list[Segment] = [TokenIds(tuple(target.tokenize(head)))]
    if context is not None:
        parts.append(context)
    parts.append(TokenIds((*target.tokenize(tail), *reply)))
    return tuple(part for part in parts if len(part))


def answer_prompt(
    target: TargetLLM, context: Segment | None, question: str, reply: Sequence[int] = ()
) -> Prompt:
    """Ask a question about the context; the reply may already begin."""
    after = f"\n\n{ANSWER_INSTRUCTION} {question}"
    return chat(target, "Text:\n", context, after, reply)


def question_suffix(target: TargetLLM, question: str) -> tuple[Prompt, Prompt]:
    """Return (head, tail) of ``answer_prompt`` around the context, to share a prefilled head."""
    head, tail = answer_prompt(target, None, question)
    return (head,), (tail,)


def continuation_prompt(
    target: TargetLLM, context: Segment | None, bridge: Sequence[int]
) -> Prompt:
    """Continue the context; the reply already begins with the bridge's token ids."""
    return chat(target, "Text:\n", context, f"\n\n{CONTINUE_INSTRUCTION}", bridge)


def reconstruction_prompt(
    target: TargetLLM, context: Segment | None, reply: Sequence[int] = ()
) -> Prompt:
    """Repeat the context word for word; the reply may already begin."""
    return chat(target, "Text:\n", context, f"\n\n{REPEAT_INSTRUCTION}", reply)


def prompt_length(prompt: Prompt) -> int:
    """Return the number of rows a prompt puts into the model."""
    return sum(len(segment) for segment in prompt)
