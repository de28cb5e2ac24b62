"""A request's messages as parts that can be measured and condensed: pure.

Design decisions

* A part is what is condensed or not, as a whole: one text of a message's content.
* The last text of all is a question, mostly behind the text that it is about, and sometimes an
  instruction stands before it. So its last paragraph is a part of its own, and so is a short first
  one; what is between can be condensed and is joined again without a change where it is not.
* Roles that chat templates do not know are told apart in words: what a tool answered is read as a
  user's message, and consecutive ones as one, since many templates want roles in turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import orjson

from neural_condense_core.gateway.messages import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Part,
)

PARAGRAPH = "\n\n"
MAX_LEAD_CHARS = 400
"""A first paragraph up to this is an instruction and not the text."""
SLACK_CHARS = 200
"""How far behind its place a cut looks for a space; by so much a piece may be longer."""
TOOL_LEAD = "Result of a tool:\n"


@dataclass(frozen=True)
class Text:
    """A text that may be condensed."""

    text: str


@dataclass(frozen=True)
class Reference:
    """A stored context."""

    id: str


@dataclass(frozen=True)
class Message:
    """One message.

    Parameters
    ----------
    role : as the chat template knows it; empty for a plain prompt without a template
    parts : in order
    is_tool : whether a tool said it
    """

    role: str
    parts: tuple[Text | Reference, ...]
    is_tool: bool = False


@dataclass(frozen=True)
class Dialogue:
    """All messages of a request, oldest first."""

    messages: tuple[Message, ...]

    @property
    def texts(self) -> list[str]:
        """Every text, oldest first; the indices that a plan speaks of."""
        return [part.text for part in self.parts if isinstance(part, Text)]

    @property
    def references(self) -> list[str]:
        """The id of every stored context, oldest first."""
        return [part.id for part in self.parts if isinstance(part, Reference)]

    @property
    def parts(self) -> Iterator[Text | Reference]:
        """Every part, oldest first."""
        for message in self.messages:
            yield from message.parts

    def with_texts(self, texts: Sequence[Sequence[str]]) -> Dialogue:
        """Return the dialogue with every text replaced by some; their number may differ."""
        following = iter(texts)
        return Dialogue(
            tuple(
                replace(
                    message,
                    parts=tuple(
                        new
                        for part in message.parts
                        for new in (
                            [part]
                            if isinstance(part, Reference)
                            else [Text(each) for each in next(following)]
                        )
                    ),
                )
                for message in self.messages
            )
        )


def from_chat(request: ChatRequest) -> Dialogue:
    """Return the dialogue of a chat, the stored contexts before the last user message's text."""
    messages = _merged([_message(message) for message in request.messages])
    contexts = request.condense.contexts
    if contexts:
        users = [i for i, message in enumerate(messages) if message.role == "user"]
        at = users[-1] if users else len(messages) - 1
        parts = (*_introduced(contexts), *messages[at].parts)
        messages[at] = replace(messages[at], parts=parts)
    return _parted(messages)


def from_completion(request: CompletionRequest) -> Dialogue:
    """Return the dialogue of a plain prompt: one message without a role."""
    contexts = _introduced(request.condense.contexts) if request.condense.contexts else ()
    return _parted([Message("", (*contexts, Text(request.text)))])


def pieces(text: str, n_pieces: int) -> list[str]:
    """Cut a text into about equal pieces, at whitespace where there is some.

    Parameters
    ----------
    text : at least ``n_pieces`` characters
    n_pieces : how many
    """
    found = []
    begin = 0
    for index in range(1, n_pieces):
        at = max(begin + 1, len(text) * index // n_pieces)
        space = text.find(" ", at, at + SLACK_CHARS)
        end = space if space > 0 else at
        found.append(text[begin:end])
        begin = end
    return [piece for piece in (*found, text[begin:]) if piece]


def _introduced(contexts: Sequence[str]) -> tuple[Text | Reference, ...]:
    found: list[Text | Reference] = []
    for each in contexts:
        found += [Text("Text:\n"), Reference(each), Text(PARAGRAPH)]
    return tuple(found)


def _message(message: ChatMessage) -> Message:
    content = message.content or message.refusal
    if content is None or isinstance(content, str):
        parts: list[Text | Reference] = [Text(content)] if content else []
    else:
        parts = [_part(part) for part in content]
    calls = [call.function for call in message.tool_calls or ()]
    if message.function_call is not None:
        calls.append(message.function_call)
    if calls:
        parts.append(Text(orjson.dumps(calls).decode()))
    role = "system" if message.role == "developer" else message.role
    if role in {"tool", "function"}:
        return Message("user", (Text(TOOL_LEAD), *parts), is_tool=True)
    return Message(role, tuple(parts))


def _part(part: Part) -> Text | Reference:
    # By its type: clients give ids of their own to texts too.
    return Reference(part.id or "") if part.type == "condensed_context" else Text(part.text or "")


def _merged(messages: Sequence[Message]) -> list[Message]:
    found: list[Message] = []
    for message in messages:
        last = found[-1] if found else None
        if last is not None and last.role == message.role and (last.is_tool or message.is_tool):
            parts = (*last.parts, Text(PARAGRAPH), *message.parts)
            found[-1] = replace(last, parts=parts, is_tool=message.is_tool)
        else:
            found.append(message)
    return found


def _parted(messages: Sequence[Message]) -> Dialogue:
    last = messages[-1]
    if not last.parts or isinstance(last.parts[-1], Reference):
        return Dialogue(tuple(messages))
    tail = [Text(each) for each in paragraphs(last.parts[-1].text)]
    return Dialogue((*messages[:-1], replace(last, parts=(*last.parts[:-1], *tail))))


def paragraphs(text: str) -> list[str]:
    """Return a text as [a short first paragraph], [what is between], its last paragraph."""
    body = text.rstrip()
    head, gap, tail = body.rpartition(PARAGRAPH)
    if not head.strip():
        return [text]
    tail += text[len(body) :]
    lead, lead_gap, rest = head.partition(PARAGRAPH)
    if lead_gap and rest.strip() and len(lead) <= MAX_LEAD_CHARS:
        return [lead + lead_gap, rest + gap, tail]
    return [head + gap, tail]
