"""How long every condenser takes on this machine, at the context lengths of the tiers.

``make bench`` or ``python benchmarks/condensers.py [--condensers A,B] [--ratio 4] [--repeats 5]
[--target NAME] [--json PATH]``. A row is the median over the repeats, after one run that pays for
loading kernels; times include tokenising. Condensers whose checkpoint does not ship are left out
and named.

Every run condenses another cut of the text: some condensers remember what they have seen.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from rich.table import Table

from neural_condense_core.condensers.base import Condenser
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.registry import METHODS
from neural_condense_core.console import messages, write_json
from neural_condense_core.constants import TIERS
from neural_condense_core.demo.document import shipped
from neural_condense_core.errors import CheckpointError

QUERY = "What is the text about?"
STEP_CHARACTERS = 97


@dataclass(frozen=True)
class Timing:
    """One condenser at one context length; times in milliseconds."""

    condenser: str
    characters: int
    n_context_tokens: int
    n_condensed_tokens: int
    median_ms: float
    slowest_ms: float


def context_of(characters: int, cut: int) -> str:
    """Return the demo's document from another place on, repeated up to a length."""
    text = shipped().text
    begin = cut * STEP_CHARACTERS % len(text)
    text = text[begin:] + text[:begin]
    return (text * (characters // len(text) + 1))[:characters]


def time_condenser(condenser: Condenser, ratio: float, repeats: int) -> Iterator[Timing]:
    """Time one condenser at the longest context of each tier."""
    queries = [QUERY] if condenser.query_aware else None
    for characters in sorted({tier.max_context_chars for tier in TIERS.values()}):
        elapsed_ms = []
        for cut in range(repeats + 1):
            context = context_of(characters, cut)
            began = time.perf_counter()
            ids = condenser.tokenize(context)
            (tokens,) = condenser.condense([ids], ratio, queries=queries)
            elapsed_ms.append(1e3 * (time.perf_counter() - began))
        warm = elapsed_ms[1:]
        yield Timing(
            condenser.name, characters, len(ids), tokens.n_condensed_tokens,
            round(statistics.median(warm), 2), round(max(warm), 2),
        )  # fmt: skip


def report(timings: Sequence[Timing]) -> None:
    """Print the timings as a table on stderr."""
    table = Table("condenser", "characters", "tokens", "condensed", "median ms", "slowest ms")
    for timing in timings:
        table.add_row(*(str(value) for value in asdict(timing).values()))
    messages().print(table)


def main() -> None:
    """Time every condenser that can be loaded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--condensers", help="names, by commas; all when left out")
    parser.add_argument("--ratio", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--target", help="target model; the checkpoint's or the embedded one")
    parser.add_argument("--json", help="also write JSON to a path, or - for stdout")
    arguments = parser.parse_args()
    names = arguments.condensers.split(",") if arguments.condensers else METHODS.names()
    timings: list[Timing] = []
    for name in names:
        try:
            condenser = load_condenser(name, arguments.target)
        except CheckpointError as error:
            messages().print(f"left out {name}: {error.message}", markup=False)
            continue
        timings += time_condenser(condenser, arguments.ratio, arguments.repeats)
    report(timings)
    write_json(
        arguments.json,
        {
            "schema": 1,
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "ratio": arguments.ratio,
            "rows": [asdict(timing) for timing in timings],
        },
    )


if __name__ == "__main__":
    main()
