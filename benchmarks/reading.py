"""Time to the first token and to the whole answer: full text, condensed, condensed before.

``python -m benchmarks.reading [--engines hf,llama-cpp] [--tokens 4000] [--ratio 4] [--condenser
pooled] [--json PATH]``. One document, five questions, greedy. For every question the ways take
turns, so that what else the machine does weighs on all of them; a row is the median over the
questions, after one question that is not counted.

The ways: ``full`` reads the whole text; ``fresh`` condenses it and reads the rows; ``stored rows``
has the rows already; ``stored prefix`` has the model's state behind the rows already, as a store of
contexts keeps it. ``full prefix`` is the state behind the whole text, for comparison: it takes
``ratio`` times the memory.

``--agree`` asks instead whether engines that hold the same weights say the same, each by itself and
behind a gateway.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.local_gateway import chat_completion, local_gateway
from neural_condense_core.client.gateway import GatewayClient
from neural_condense_core.commands.condense import condense_timed
from neural_condense_core.condensers.base import Condenser
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.console import messages, write_json
from neural_condense_core.constants import EMBEDDED_TARGET_MODEL
from neural_condense_core.demo.document import shipped
from neural_condense_core.llm.base import Prefix, Prompt, Segment, TargetLLM, TokenIds, as_segment
from neural_condense_core.llm.engines import open_engine
from neural_condense_core.llm.gguf_files import embedded_gguf, widened_gguf
from neural_condense_core.llm.hf import load_target
from neural_condense_core.llm.prompt import ANSWER_INSTRUCTION, Turn, answer_prompt, conversation

QUESTIONS = (
    "What is the text about?",
    "Who is Dorothy?",
    "What did the house do?",
    "Who lives in the land?",
    "What colour is the dress?",
    "Where does the road lead?",
)
"""The first is not counted."""
MAX_NEW_TOKENS = 16
AGREEING = ("transformers", "llama.cpp", "gateway on transformers", "gateway on llama.cpp")
FULL, FRESH, ROWS, PREFIX, FULL_PREFIX = (
    "full", "fresh", "stored rows", "stored prefix", "full prefix",
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """One way on one engine; medians over the questions, milliseconds."""

    engine: str
    way: str
    n_prompt_tokens: int
    first_ms: float
    total_ms: float
    first_speedup: float
    """Time to first token of ``full`` over this."""


@dataclass(frozen=True)
class Agreement:
    """What engines with the same weights say to one question."""

    context: str
    question: str
    answers: tuple[str, ...]
    """In the order of ``AGREEING``."""

    @property
    def is_equal(self) -> bool:
        """Whether they say the same."""
        return len(set(self.answers)) == 1


def document_ids(target: TargetLLM, n_tokens: int) -> list[int]:
    """Return the demo's document, repeated up to a number of tokens."""
    ids = target.tokenize(shipped().text + "\n\n")
    return (ids * (n_tokens // len(ids) + 1))[:n_tokens]


def timed(
    target: TargetLLM, prompt: Prompt, prefix: Prefix | None, started: float
) -> tuple[float, float]:
    """Return milliseconds from ``started`` to the first piece and to the last."""
    first = 0.0
    for piece in target.stream(prompt, MAX_NEW_TOKENS, prefix=prefix):
        if not first and piece.n_tokens:
            first = time.perf_counter()
    return (first - started) * 1e3, (time.perf_counter() - started) * 1e3


def read_document(
    engine: str, target: TargetLLM, condenser: Condenser, n_tokens: int, ratio: float
) -> list[Reading]:
    """Ask the questions in every way, by turns."""
    ids = document_ids(target, n_tokens)
    full = TokenIds(tuple(ids))
    rows = as_segment(condense_timed(condenser, ids, ratio, [QUESTIONS[0]])[0])
    behind = {
        way: target.prefill(answer_prompt(target, context, "")[:2])
        for way, context in ((PREFIX, rows), (FULL_PREFIX, full))
    }

    def fresh() -> Segment:
        return as_segment(condense_timed(condenser, ids, ratio, [QUESTIONS[0]])[0])

    contexts: dict[str, Callable[[], Segment]] = {
        FULL: lambda: full,
        FRESH: fresh,
        ROWS: lambda: rows,
        PREFIX: lambda: rows,
        FULL_PREFIX: lambda: full,
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in contexts}
    n_prompt = dict.fromkeys(contexts, 0)
    for question in QUESTIONS:
        for way, context in contexts.items():
            started = time.perf_counter()
            prompt = answer_prompt(target, context(), question)
            prefix = behind.get(way)
            n_prompt[way] = sum(map(len, prompt))
            rest = prompt[2:] if prefix else prompt
            found[way].append(timed(target, rest, prefix, started))
    medians = {
        way: tuple(statistics.median(column) for column in zip(*times[1:], strict=True))
        for way, times in found.items()
    }
    return [
        Reading(engine, way, n_prompt[way], first, total, medians[FULL][0] / first)
        for way, (first, total) in medians.items()
    ]


def agree(condenser: Condenser, ratio: float) -> list[Agreement]:
    """Ask transformers and llama.cpp the same, greedily, on the same float32 weights.

    What is condensed is condensed once, by the gateway over transformers: all read those rows.
    """
    from neural_condense_core.llm.llama_cpp import LlamaCppTarget

    hf = load_target(condenser.target_model, dtype="float32")
    text = shipped().text
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wide = widened_gguf(embedded_gguf(), folder)
        llama = LlamaCppTarget(wide, hf.name, n_ctx=4096, float32_cache=True)
        stack.callback(llama.close)
        same = ["--target", hf.name, "--condenser", condenser.name]
        urls = [
            stack.enter_context(local_gateway([*same, "--dtype", "float32", "--engine", engine]))
            for engine in ("hf", f"llama-cpp={wide}")
        ]
        clients = [stack.enter_context(GatewayClient(url, timeout_s=600)) for url in urls]
        contexts = [client.condense(text, ratio=ratio).id for client in clients]
        rows = as_segment(clients[0].tokens(contexts[0]))
        found = []
        for question in QUESTIONS:
            for name, context in (("full", text), ("condensed", rows)):
                # As a gateway does: text that stands together is tokenised together.
                after = f"\n\n{ANSWER_INSTRUCTION} {question}"
                prompt = conversation(hf, [Turn("user", ("Text:\n", context, after))])
                said = [t.generate([prompt], MAX_NEW_TOKENS)[0].strip() for t in (hf, llama)]
                for url, stored in zip(urls, contexts, strict=True):
                    said.append(through_gateway(url, text if name == "full" else stored, question))
                found.append(Agreement(name, question, tuple(said)))
    return sorted(found, key=lambda each: each.context != "full")


def through_gateway(url: str, context: str, question: str) -> str:
    """Ask a gateway in ``answer_prompt``'s words; ``context`` is a text or a stored one's id."""
    is_stored = context.startswith("ctx_")
    part = {"type": "condensed_context", "id": context} if is_stored else text_part(context)
    after = text_part(f"\n\n{ANSWER_INSTRUCTION} {question}")
    reply = chat_completion(
        url,
        {
            "model": EMBEDDED_TARGET_MODEL,
            "messages": [{"role": "user", "content": [text_part("Text:\n"), part, after]}],
            "max_tokens": MAX_NEW_TOKENS,
            "condense": {"mode": "never"},
        },
    )
    said: str = reply["choices"][0]["message"]["content"]
    return said.strip()


def text_part(text: str) -> dict[str, str]:
    """Return a part of a message."""
    return {"type": "text", "text": text}


def show_readings(readings: Sequence[Reading]) -> None:
    """Print a table on stderr."""
    table = Table(title=f"First token and whole answer, ms, on {platform.machine()}")
    for column in ("engine", "way", "prompt tokens", "first ms", "total ms", "first, full / this"):
        table.add_column(column, justify="left" if column in ("engine", "way") else "right")
    for each in readings:
        table.add_row(
            each.engine, each.way, f"{each.n_prompt_tokens:,}", f"{each.first_ms:,.0f}",
            f"{each.total_ms:,.0f}", f"{each.first_speedup:.1f}",
        )  # fmt: skip
    messages().print(table)


def show_agreements(found: Sequence[Agreement]) -> None:
    """Print a table on stderr."""
    table = Table(title="The same weights, the same prompt, greedy")
    for column in ("context", "question", *AGREEING, "equal"):
        table.add_column(column, overflow="fold")
    for each in found:
        others = ["the same" if said == each.answers[0] else said for said in each.answers[1:]]
        equal = "yes" if each.is_equal else "no"
        table.add_row(each.context, each.question, each.answers[0], *others, equal)
    messages().print(table)


def main() -> None:
    """Read the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="hf,llama-cpp", help="as condense ask --engine")
    parser.add_argument("--tokens", type=int, default=4000, help="of the document")
    parser.add_argument("--ratio", type=float, default=4.0)
    parser.add_argument("--condenser", default="pooled")
    parser.add_argument("--agree", action="store_true", help="compare answers instead of times")
    parser.add_argument("--json", help="also write JSON to a path, or - for stdout")
    arguments = parser.parse_args()
    condenser = load_condenser(arguments.condenser, None)
    settings = {
        "condenser": condenser.name, "ratio": arguments.ratio, "tokens": arguments.tokens,
        "target_model": condenser.target_model,
    }  # fmt: skip
    if arguments.agree:
        agreements = agree(condenser, arguments.ratio)
        show_agreements(agreements)
        rows = [asdict(each) for each in agreements]
    else:
        readings = []
        for engine in arguments.engines.split(","):
            target = open_engine(engine, condenser.target_model)
            readings += read_document(engine, target, condenser, arguments.tokens, arguments.ratio)
        show_readings(readings)
        rows = [asdict(each) for each in readings]
    write_json(arguments.json, {"schema": 1, **settings, "rows": rows})


if __name__ == "__main__":
    main()
