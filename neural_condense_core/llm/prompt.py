"""Real chat prompts with a context anywhere in them.

Training, evaluation, judging, the demo and ``condense ask`` all build their prompts here, so that
what is trained is what is measured and what is used.

Design decisions

* The context stands inside the user turn as a *segment*, never as text that is tokenised together
  with its surroundings: the full text, a selection and condensed tokens differ in that segment and
  in nothing else.
* The chat template is rendered with a marker where the context goes; the marker is then cut out.
"""

from __future__ import annotations

from collections.abc import Sequence

from neural_condense_core.llm.base import Prompt, Segment, TargetLLM, TokenIds

_MARKER = "\u241econtext\u241e"

CONTINUE_INSTRUCTION = "Continue the text."
REPEAT_INSTRUCTION = "Repeat the text word for word."
ANSWER_INSTRUCTION = "Answer with a few words from the text."


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
