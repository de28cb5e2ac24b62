"""The shipped condenser behind the server: batches of mixed lengths, and the tiers' load test."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.serving.figures import Bench, Figure, Round, median, median_ratio
from benchmarks.serving.load import drain, request_of
from benchmarks.serving.processes import ROOT, backend
from neural_condense_core.cli import COMMANDS
from neural_condense_core.demo.document import shipped

CONDENSER = "pooled-fast"
CONNECTIONS = 16
CHARACTERS_PER_TOKEN = 4.4
"""Of the demo's document in the target model's tokens."""
MIXES = {"16 to 512 tokens": (16, 512, 16, 0.97), "4 to 16 tokens": (4, 16, 64, 2.0)}
"""Shortest, longest, how many, and the goal."""
PATIENT = ("--timeout", "600")
TIERS = ("inference_0", "inference_1")


async def mixed_lengths(bench: Bench) -> list[Figure]:
    """Compare batches as they are with a budget that lets every context go by itself.

    Raises
    ------
    RuntimeError
        The backend refused a context.
    """
    figures = []
    with ExitStack() as stack:
        ports = {
            "batched": stack.enter_context(backend(CONDENSER, *PATIENT)).port,
            "alone": stack.enter_context(
                backend(CONDENSER, *PATIENT, "--max_batch_tokens", "1")
            ).port,
        }
        for label, (shortest, longest, n, goal) in MIXES.items():
            rounds: list[Round] = []
            for number in range(bench.rounds + 1):
                lengths = np.random.default_rng(number).integers(shortest, longest + 1, n)
                found = {}
                for name, port in ports.items():
                    asked = _requests(lengths, number)
                    load = await drain(port, asked, connections=CONNECTIONS)
                    if set(load.statuses) != {200}:
                        raise RuntimeError(f"not all contexts were condensed: {load.statuses}")
                    found[name] = load.rate
                rounds.append(found)
            rounds = rounds[1:]  # the first pays for kernels
            ratio = median_ratio(rounds, "batched", "alone")
            figures.append(
                Figure(
                    f"{CONDENSER}, {label}, {CONNECTIONS} connections: "
                    "batched against one at a time",
                    f">= {goal:g} x",
                    f"{ratio:.2f} x ({median(rounds, 'batched'):.1f}/s)",
                    f"one at a time {median(rounds, 'alone'):.1f}/s",
                    ratio >= goal,
                    rounds,
                )
            )
    return figures


def _requests(lengths: Sequence[int] | np.ndarray[Any, Any], number: int) -> list[bytes]:
    text = shipped().text
    found = []
    for i, length in enumerate(lengths):
        # No context twice, so that nothing is answered from memory.
        begin = (7919 * (number * len(lengths) + i)) % (len(text) // 2)
        found.append(request_of(text[begin : begin + int(length * CHARACTERS_PER_TOKEN)]))
    return found


async def load_test(bench: Bench) -> list[Figure]:
    """Run ``condense loadtest`` for each fast tier against the shipped condenser."""
    if "loadtest" not in COMMANDS:
        return []
    figures = []
    with backend(CONDENSER) as server:
        for tier in TIERS:
            words = [
                sys.executable, "-m", "neural_condense_core.cli", "loadtest", "--tier", tier,
                "--url", f"http://127.0.0.1:{server.port}", "--find-max", "--json", "-",
            ]  # fmt: skip
            process = await asyncio.create_subprocess_exec(
                *words,
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            output, _ = await process.communicate()
            figures.append(_tier_figure(tier, json.loads(output)))
    return figures


def _tier_figure(tier: str, found: dict[str, Any]) -> Figure:
    numbers = {key: float(value) for key, value in found.items() if isinstance(value, int | float)}
    return Figure(
        f"{CONDENSER}, `condense loadtest --tier {tier}`, one validator",
        "PASS",
        f"{found['verdict']}, p99 {found['p99_s']:.2f} s, "
        f"at most {found['max_good_rps']:.2f} good requests/s",
        "",
        found["verdict"] == "PASS",
        [numbers],
    )
