"""A long chat over the gateway: does it stay in the window, and is an early fact still there?

``python -m benchmarks.agent_chat [--turns 30] [--chars 1500] [--chats 1] [--seed 0]
[--ask_at 30] [--gateway URL] [--markdown PATH] [--json PATH]``. Starts a gateway of its own unless
one is named. Each chat is one between a user and an agent that looks things up: a question, what
was found (``--chars`` characters), a short reply. A fact about somebody stands in what was found in
turn 2; after the last turn it is asked for.

Through the gateway (``auto``, greedy): rows of the prompt, tokens saved, and the answer. With the
very condensed tokens that the gateway used, and the same prompt otherwise: where the fact's value
stands among four distractors of its kind by likelihood, the reply having begun as the fact does up
to its value (a bare value is no likely first word of a reply, whatever was read). Two controls of
the same model: the chat cut to the window by dropping the turns in the middle, so that the fact's
turn is there in full text; and cut by dropping the oldest turns, as agents do without condensing.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.local_gateway import chat_completion, local_gateway
from neural_condense_core.client.gateway import GatewayClient
from neural_condense_core.console import write_json
from neural_condense_core.constants import EMBEDDED_TARGET_MODEL
from neural_condense_core.gateway.dialogue import Reference, Text, from_chat
from neural_condense_core.gateway.messages import ChatRequest
from neural_condense_core.llm.base import Prompt, Segment, TokenIds, as_segment
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.prompt import Turn, conversation, prompt_length
from neural_condense_core.scoring.facts import BLANK, KINDS, draw_fact
from neural_condense_core.scoring.texts import open_texts

N_DISTRACTORS = 4
FACT_TURN = 2
ANSWER_TOKENS = 24

Message = dict[str, str]


@dataclass(frozen=True)
class Chat:
    """A chat and what is asked of it; ``lead`` is the fact up to its value."""

    messages: tuple[Message, ...]
    question: str
    lead: str
    value: str
    distractors: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One way of reading one chat at one turn."""

    chat: int
    turn: int
    way: str
    n_rows: int
    n_saved: int
    rank: int
    margin: float
    answer: str
    value: str
    seconds: float


def make_chat(seed: int, n_turns: int, n_chars: int) -> Chat:
    """Return a chat; the same seed gives the same one."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    fact = draw_fact(rng, kind)
    values: list[str] = []
    while len(values) < N_DISTRACTORS:
        value = kind.value(rng)
        if value not in {fact.value, *values}:
            values.append(value)
    source = open_texts(None)
    messages: list[Message] = []
    for turn in range(1, n_turns + 1):
        passage = source.draw(rng, n_chars)
        sentences = list(passage.sentences)
        if turn == FACT_TURN:
            sentences.insert(len(sentences) // 2, fact.statement)
        found = " ".join(sentences)
        messages += [
            {"role": "user", "content": f"Step {turn}: look up the next note."},
            {"role": "assistant", "content": f"Note {turn}:\n{found}"},
        ]
    lead = fact.cloze.partition(BLANK)[0].rstrip()
    return Chat(tuple(messages), fact.question, lead, fact.value, tuple(values))


def asked(chat: Chat, messages: Sequence[Message]) -> list[Message]:
    """Return messages with the question behind them."""
    question = f"{chat.question} Answer with a few words from the notes."
    return [*messages, {"role": "user", "content": question}]


def ask_gateway(url: str, messages: Sequence[Message]) -> tuple[dict[str, Any], float]:
    """Return the gateway's reply, and the seconds that it took."""
    begun_s = time.monotonic()
    reply = chat_completion(
        url,
        {
            "model": EMBEDDED_TARGET_MODEL,
            "messages": list(messages),
            "max_tokens": ANSWER_TOKENS,
            "condense": {"mode": "auto", "floor": 0.0},
        },
    )
    return reply, time.monotonic() - begun_s


def same_prompt(target: HFTarget, url: str, messages: Sequence[Message], reply: Any) -> Prompt:
    """Return the prompt that the gateway read, of the very condensed tokens.

    Raises
    ------
    RuntimeError
        The chat holds stored contexts.
    """
    request = ChatRequest.model_validate({"model": "m", "messages": list(messages)})
    segments: dict[int, Segment] = {}
    with GatewayClient(url) as client:
        for part in reply["condense"]["parts"]:
            if part["sent_as"] == "condensed":
                segments[part["part"]] = as_segment(client.tokens(part["id"]))
    index = -1
    turns = []
    for message in from_chat(request).messages:
        parts: list[str | Segment] = []
        for part in message.parts:
            if isinstance(part, Reference):
                raise RuntimeError("the chat holds no stored contexts")
            if isinstance(part, Text):
                index += 1
                parts.append(segments.get(index, part.text))
        turns.append(Turn(message.role, tuple(parts)))
    return conversation(target, turns)


def judged(
    target: HFTarget, prompt: Prompt, chat: Chat, *, answers: bool
) -> tuple[int, float, str]:
    """Return the value's place by likelihood, its lead over the best other, a greedy answer.

    Parameters
    ----------
    target : the model
    prompt : whose last segment is short: what is before it is read once
    chat : what was asked
    answers : whether the answer is wanted; else it is empty

    Returns
    -------
    place from 1; nats a token; text
    """
    values = [chat.value, *chat.distractors]
    prefix = target.prefill(prompt[:-1])
    begun = (*prompt[-1:], TokenIds(tuple(target.tokenize(chat.lead))))
    space = " " if chat.lead else ""
    found = target.loglikelihood(
        [tuple(part for part in begun if len(part))] * len(values),
        [target.tokenize(space + value) for value in values],
        prefix=prefix,
    )
    means = [float(each.logprobs.mean()) for each in found]
    rank = 1 + sum(mean >= means[0] for mean in means[1:])
    answer = ""
    if answers:
        answer = target.generate([prompt[-1:]], ANSWER_TOKENS, prefix=prefix)[0]
    return rank, means[0] - max(means[1:]), answer


def cut(target: HFTarget, chat: Chat, messages: Sequence[Message], *, oldest: bool) -> Prompt:
    """Return the chat as text, whole turns dropped until it fits the window.

    Parameters
    ----------
    oldest : drop the oldest turns; else those behind the fact's
    """
    pairs = [messages[i : i + 2] for i in range(0, len(messages), 2)]
    while True:
        kept = asked(chat, [message for pair in pairs for message in pair])
        prompt = conversation(target, [Turn(m["role"], (m["content"],)) for m in kept])
        if prompt_length(prompt) + ANSWER_TOKENS <= target.max_positions:
            return split(prompt)
        del pairs[0 if oldest else FACT_TURN]


def split(prompt: Prompt) -> Prompt:
    """Return a prompt whose last segment is short, so that most of it is a shared prefix."""
    last = prompt[-1]
    ids = getattr(last, "ids", ())
    if len(ids) < 2:
        return prompt
    return (*prompt[:-1], type(last)(ids[:-1]), type(last)(ids[-1:]))  # type: ignore[arg-type]


def rows_of(target: HFTarget, url: str, number: int, chat: Chat, turn: int) -> Iterator[Row]:
    """Measure one chat at one turn, in every way.

    Raises
    ------
    RuntimeError
        The prompt could not be rebuilt.
    """
    messages = chat.messages[: 2 * turn]
    reply, seconds = ask_gateway(url, asked(chat, messages))
    prompt = split(same_prompt(target, url, asked(chat, messages), reply))
    usage = reply["usage"]
    if prompt_length(prompt) != usage["prompt_tokens"]:
        raise RuntimeError("the prompt was not rebuilt as the gateway read it")
    rank, margin, _ = judged(target, prompt, chat, answers=False)
    answer = reply["choices"][0]["message"]["content"].strip()
    saved = usage["condense_tokens_saved"]
    yield Row(number, turn, "gateway, auto", prompt_length(prompt), saved, rank, margin, answer,
              chat.value, seconds)  # fmt: skip
    for way, oldest in (("full text, middle dropped", False), ("full text, oldest dropped", True)):
        begun_s = time.monotonic()
        prompt = cut(target, chat, messages, oldest=oldest)
        rank, margin, answer = judged(target, prompt, chat, answers=True)
        yield Row(number, turn, way, prompt_length(prompt), 0, rank, margin, answer, chat.value,
                  time.monotonic() - begun_s)  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    lines = [
        "| chat | turn | read from | rows | tokens saved | rank of 5 | lead, nats | asked for "
        "| greedy answer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        answer = " ".join(row.answer.split()).replace("|", "/")
        lines.append(
            f"| {row.chat} | {row.turn} | {row.way} | {row.n_rows:,} | {row.n_saved:,} "
            f"| {row.rank} | {row.margin:+.2f} | {row.value} | {answer} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--chars", type=int, default=1_500)
    parser.add_argument("--chats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ask_at", type=int, nargs="*", help="turns; default: the last")
    parser.add_argument("--gateway")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json")
    flags = parser.parse_args()
    target = load_target(EMBEDDED_TARGET_MODEL)
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        url = flags.gateway or stack.enter_context(local_gateway(["--max_ratio", "16"]))
        for number in range(flags.chats):
            chat = make_chat(flags.seed + number, flags.turns, flags.chars)
            for turn in flags.ask_at or [flags.turns]:
                for row in rows_of(target, url, number, chat, turn):
                    print(row, file=sys.stderr, flush=True)
                    rows.append(row)
    print(markdown(rows))
    if flags.markdown:
        flags.markdown.write_text(markdown(rows), encoding="utf-8")
    if flags.json:
        write_json(flags.json, {"schema": 1, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
