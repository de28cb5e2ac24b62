"""What condensing costs and when it pays: time and arithmetic, with reading included.

Where it sits: measured by ``condense eval --costs`` on this machine, beside what is gained.

Design decisions

* A use is one question: from the prompt to the first token of the answer, behind the condensed
  tokens or behind the full text. Condensing pays at the k-th use of a text if condensing once and
  k uses take less than k uses of the full text.
* Everything is timed in turns: each round runs every condenser, ratio and length once, in an order
  of its own, so that a machine that is busy for a while slows all of it. Each run has its text's
  tokens in an order that no other had: nothing is found that was kept from another ratio or
  method. Medians over the rounds; the first does not count.
* Operations are counted while the real thing runs (``operations.py``), so that they hold for any
  condenser.
* The full text is read anew at each use. Where a server keeps its keys and values between uses,
  reading is cheaper than here and memory dearer.
"""

from __future__ import annotations

import platform
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from neural_condense_core.condensers.base import Condenser
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.break_even import CostRow, Costs
from neural_condense_core.evaluation.metrics import FLOAT16_BYTES
from neural_condense_core.evaluation.needles import needle_probes
from neural_condense_core.evaluation.operations import count_operations
from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.llm.base import TokenIds, as_segment
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.llm.prompt import answer_prompt, prompt_length
from neural_condense_core.tokens import CondensedTokens

LENGTHS = (128, 256, 512, 1024)
REPEATS = 5
NEEDLE_DEPTH = 0.5
QUESTION = "What is the code that is told in the text?"
"""The same for every text, so that prompts differ in their contexts alone."""

T = TypeVar("T")
Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Grid:
    """What is timed.

    Parameters
    ----------
    ratios : compression ratios
    lengths : context tokens
    repeats : rounds that count
    seed : of texts and orders
    """

    ratios: tuple[float, ...]
    lengths: tuple[int, ...] = LENGTHS
    repeats: int = REPEATS
    seed: int = 0


def measure_costs(
    target: HFTarget,
    condensers: Sequence[Condenser],
    grid: Grid,
    clock: Callable[[], float],
    told: Told = lambda label, done, total: None,
) -> Costs:
    """Measure what condensing and reading cost.

    Parameters
    ----------
    target : the model that reads
    condensers : for that model
    grid : ratios and lengths; a length that does not fit the target model is left out
    clock : seconds
    told : of each round

    Raises
    ------
    ConfigError
        No length fits.
    """
    texts = {n: _texts(target, n, grid) for n in sorted(set(grid.lengths))}
    fitting = {n: found for n, found in texts.items() if found}
    if not fitting:
        raise ConfigError(
            f"none of the lengths {', '.join(map(str, texts))} can be timed on {target.name}, "
            f"which has {target.max_positions} positions; give other --lengths"
        )
    orders = np.random.default_rng([grid.seed, 1])
    bench = _Bench(target, fitting, clock, orders)
    jobs = [
        (condenser, ratio, n)
        for n in fitting
        for condenser in condensers
        for ratio in grid.ratios
        if condenser.ratios is None or ratio in condenser.ratios
    ]
    for turn in range(grid.repeats + 1):
        told("costs", turn, grid.repeats + 1)
        todo: list[tuple[Condenser | None, float, int]] = [
            *jobs,
            *((None, 1.0, n) for n in fitting),
        ]
        for i in orders.permutation(len(todo)):
            condenser, ratio, n = todo[i]
            bench.run(condenser, ratio, n, turn)
    rows = tuple(bench.row(condenser, ratio, n) for condenser, ratio, n in jobs)
    return Costs(_machine(target), grid.repeats, bench.n_prompt, rows)


class _Bench:
    """Runs single jobs and keeps what they took."""

    def __init__(
        self,
        target: HFTarget,
        texts: dict[int, list[Probe]],
        clock: Callable[[], float],
        orders: np.random.Generator,
    ) -> None:
        self._target = target
        self._orders = orders
        self._texts = texts
        self._clock = clock
        self._ms: dict[Hashable, list[float]] = defaultdict(list)
        self._operations: dict[Hashable, int] = {}
        self._n_condensed: dict[Hashable, int] = {}
        self.n_prompt = 0

    def run(self, condenser: Condenser | None, ratio: float, n: int, turn: int) -> None:
        """Run one job: condense and read, or without a condenser read the full text."""
        context = tuple(self._orders.permutation(self._texts[n][turn].context_ids).tolist())
        if condenser is None:
            prompt = answer_prompt(self._target, TokenIds(context), QUESTION)
            self._take(("full", n), turn, lambda: self._target.generate([prompt], 1))
            return
        key = (id(condenser), ratio, n)
        ids = self._ids_for(condenser, context)
        queries = [QUESTION] if condenser.query_aware else None
        (tokens,) = self._take(
            ("encode", key), turn, lambda: condenser.condense([ids], ratio, queries=queries)
        )
        prompt = answer_prompt(self._target, as_segment(tokens), QUESTION)
        self._take(("use", key), turn, lambda: self._target.generate([prompt], 1))
        self._note(key, tokens, prompt_length(prompt))

    def row(self, condenser: Condenser, ratio: float, n: int) -> CostRow:
        """Return what was found of a condenser at a ratio and length."""
        key = (id(condenser), ratio, n)
        n_condensed = self._n_condensed[key]
        keys: tuple[Hashable, ...] = (("encode", key), ("use", key), ("full", n))
        encode_ms, use_ms, full_ms = (statistics.median(self._ms[k]) for k in keys)
        encode_flops, use_flops, full_flops = (self._operations[k] for k in keys)
        return CostRow(
            condenser.name,
            ratio,
            n,
            n_condensed,
            n_condensed * condenser.hidden_size * FLOAT16_BYTES,
            encode_ms,
            use_ms,
            full_ms,
            encode_flops,
            use_flops,
            full_flops,
        )

    def _take(self, key: Hashable, turn: int, work: Callable[[], T]) -> T:
        """Count work in the first turn, time it in the others.

        Raises
        ------
        ConfigError
            This torch cannot count it.
        """
        if turn == 0:  # this round pays for loading kernels; counting adds to its time
            done, operations = count_operations(work)
            if operations is None:
                raise ConfigError(
                    f"torch {torch.__version__} cannot count the operations of a run on "
                    f"{self._target.device}; leave --costs out, or measure them on the CPU"
                )
            self._operations[key] = operations
            return done
        began = self._clock()
        done = work()
        self._ms[key].append(1000 * (self._clock() - began))
        return done

    def _note(self, key: Hashable, tokens: CondensedTokens, n_rows: int) -> None:
        self._n_condensed[key] = tokens.n_condensed_tokens
        self.n_prompt = n_rows - tokens.n_condensed_tokens

    def _ids_for(self, condenser: Condenser, context: Sequence[int]) -> Sequence[int]:
        if condenser.reads_target_tokens:
            return context
        return condenser.tokenize(self._target.decode(context))


def _texts(target: HFTarget, n: int, grid: Grid) -> list[Probe]:
    """Return one text a round and one to begin with; none where they do not fit."""
    wanted = grid.repeats + 1
    found = needle_probes(target, (n,), (NEEDLE_DEPTH,), wanted, grid.seed)
    prompts = [answer_prompt(target, TokenIds(text.context_ids), QUESTION) for text in found]
    fits = all(prompt_length(prompt) < target.max_positions for prompt in prompts)
    return found if fits and len(found) == wanted else []


def _machine(target: HFTarget) -> dict[str, Any]:
    on_gpu = target.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(target.device) if on_gpu else "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(target.dtype).removeprefix("torch."),
    }
