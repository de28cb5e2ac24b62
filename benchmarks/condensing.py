"""How fast pooled-fast condenses on a CPU, beside the same weights called naively.

``make bench`` or ``python benchmarks/condensing.py [--rounds 5] [--contexts 3] [--json PATH]
[--markdown PATH]``.

* *naive*: the trained module of the same checkpoint, adapters merged, through transformers' own
  layers, one context at a time and without padding, in float32 or bfloat16. It shares the way the
  plan of kept tokens is found with ours, which is faster than it was.
* *ours*: ``condense`` as a worker calls it, ``dtype="auto"``.

All are timed in turn within a round, with all cores and with one thread; a ratio is taken within a
round and the median over the rounds is shown. *CPU* ratios compare the processor time of the same
runs: on a machine that does other work they say more than the clock does. A second part lets worker
processes condense for some seconds, one with two threads beside two with one each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.int8 import Int8Linear, is_fast, quantize_rows
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.console import messages, write_json
from neural_condense_core.demo.document import shipped

NAME = "pooled-fast"
RATIO = 4
CHARACTERS = 1536
SQUARES = (768, 1024)
MIXED = (16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512)
SHORT = (4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16)

Round = dict[str, float]
Run = Callable[[], object]


def load(dtype: str) -> PooledCondenser:
    """Load the checkpoint; of its own kind for sure."""
    condenser = load_condenser(NAME, dtype=dtype)
    assert isinstance(condenser, PooledCondenser)
    return condenser


def naively(condenser: PooledCondenser, contexts: Sequence[Sequence[int]]) -> None:
    """Call the module window by window."""
    with torch.inference_mode(), condenser.autocast():
        for ids in contexts:
            for start in range(0, len(ids), condenser.window_tokens):
                window = torch.tensor([ids[start : start + condenser.window_tokens]])
                condenser.module(window, torch.tensor([window.shape[1]]), RATIO)


def one_by_one(condenser: PooledCondenser, contexts: Sequence[Sequence[int]]) -> None:
    """Condense each context in a call of its own."""
    for ids in contexts:
        condenser.condense([ids], RATIO)


def contexts_of(condenser: PooledCondenser, n: int) -> list[list[int]]:
    """Return token ids of stretches of the demo's document."""
    text = shipped().text
    twice = text + text
    return [
        condenser.tokenize(twice[begin : begin + CHARACTERS])
        for begin in range(0, n * 397, 397)
        if begin < len(text)
    ]


def cut(ids: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Return contexts of given lengths, each of another stretch."""
    endless = [*ids, *ids, *ids]
    return [endless[at * 7 % len(ids) :][:length] for at, length in enumerate(lengths)]


def timed(run: Run) -> tuple[float, float]:
    """Return seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def square_rates() -> dict[str, float]:
    """Return the best rate of square products by number format: operations a core's second."""
    best = dict.fromkeys(("float32", "bfloat16", "int8"), 0.0)
    for n in SQUARES:
        a, b = torch.randn(2, n, n)
        products: dict[str, Run] = {
            "float32": partial(torch.matmul, a, b.T),
            "bfloat16": partial(torch.matmul, a.bfloat16(), b.bfloat16().T),
        }
        if is_fast():
            products["int8"] = partial(Int8Linear(b), quantize_rows(a.clone()))
        for name, product in products.items():
            for _ in range(3):
                best[name] = max(best[name], 2 * n**3 / timed(product)[1])
    return best


def operations(condenser: PooledCondenser, contexts: Sequence[Sequence[int]]) -> float:
    """Return the operations that the encoder's layers need for the tokens there are."""
    config = condenser.target.model.config
    layers = condenser.module.encoder.layers
    per_token = 2 * sum(
        module.base_layer.weight.numel() if hasattr(module, "base_layer") else module.weight.numel()
        for layer in layers
        for part in (layer.self_attn, layer.mlp)
        for module in part.children()
        if hasattr(module, "weight")
    )
    per_pair = 4 * config.num_attention_heads * layers[0].self_attn.head_dim * len(layers)
    total = 0.0
    for ids in contexts:
        for start in range(0, len(ids), condenser.window_tokens):
            n = min(condenser.window_tokens, len(ids) - start)
            total += n * per_token + n * (n + 1) / 2 * per_pair
    return total


def one_round(
    condensers: dict[str, PooledCondenser], contexts: list[list[int]], threads: int
) -> Round:
    """Time everything once, in turn, with a number of threads."""
    torch.set_num_threads(threads)
    ours = condensers["ours"]
    runs: dict[str, Run] = {
        "naive_float32": partial(naively, condensers["float32"], contexts),
        "naive_bfloat16": partial(naively, condensers["bfloat16"], contexts),
        "ours": partial(one_by_one, ours, contexts),
        "ours_batched": partial(ours.condense, contexts, RATIO),
    }
    for name, lengths in (("mixed", MIXED), ("short", SHORT)):
        some = cut(contexts[0], lengths)
        runs[f"{name}_alone"] = partial(one_by_one, ours, some)
        runs[f"{name}_batched"] = partial(ours.condense, some, RATIO)
    found: Round = {}
    for name, run in runs.items():
        found[f"{name}_s"], found[f"{name}_cpu_s"] = timed(run)
    found |= {f"square_{name}": rate for name, rate in square_rates().items()}
    return found


def median(rounds: Sequence[Round], top: str, bottom: str | None = None) -> float:
    """Return the median of a number, or of a ratio within each round."""
    return statistics.median(each[top] / (each[bottom] if bottom else 1.0) for each in rounds)


def figures(rounds: Sequence[Round], n_tokens: int, needed: float, number_format: str) -> Round:
    """Return what the rounds say."""
    found = {}
    for name in ("naive_float32", "naive_bfloat16", "ours", "ours_batched"):
        found[f"{name}_tokens_per_s"] = n_tokens / median(rounds, f"{name}_s")
    for peer in ("naive_float32", "naive_bfloat16"):
        found[f"ours_over_{peer}"] = median(rounds, f"{peer}_s", "ours_s")
        found[f"ours_over_{peer}_cpu"] = median(rounds, f"{peer}_cpu_s", "ours_cpu_s")
    for name in ("mixed", "short"):
        for kind in ("", "_cpu"):
            keys = f"{name}_alone{kind}_s", f"{name}_batched{kind}_s"
            found[f"{name}_batching{kind}"] = median(rounds, *keys)
    for name in ("float32", "bfloat16", "int8"):
        found[f"square_{name}_gops"] = median(rounds, f"square_{name}") / 1e9
    found["ours_gops"] = needed / median(rounds, "ours_cpu_s") / 1e9
    found["share_of_square_rate"] = statistics.median(
        needed / each["ours_cpu_s"] / each[f"square_{number_format}"] for each in rounds
    )
    return found


def agreement(
    reference: PooledCondenser, other: PooledCondenser, contexts: list[list[int]]
) -> Round:
    """Return how near condensed tokens are: the same ones kept, and the cosine of those."""
    same, cosines = 0, []
    pairs = list(
        zip(reference.condense(contexts, RATIO), other.condense(contexts, RATIO), strict=True)
    )
    for one, two in pairs:
        assert one.positions is not None
        assert two.positions is not None
        _, mine, yours = np.intersect1d(one.positions, two.positions, return_indices=True)
        a, b = one.embeds[mine], two.embeds[yours]
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines += ((a * b).sum(1) / norms).tolist()
        same += len(mine)
    total = sum(one.n_condensed_tokens for one, _ in pairs)
    return {
        "kept_alike": same / total,
        "cosine_mean": statistics.fmean(cosines),
        "cosine_least": min(cosines),
    }


def work(pipe: Connection, threads: int, n: int) -> None:
    """Condense for as many seconds as the pipe says, again and again; 0 ends it."""
    torch.set_num_threads(threads)
    condenser = load("auto")
    contexts = contexts_of(condenser, n)
    condenser.condense(contexts[:1], RATIO)
    pipe.send(0)
    while seconds := pipe.recv():
        done, ends = 0, time.perf_counter() + seconds
        while time.perf_counter() < ends:
            ids = contexts[done % len(contexts)]
            condenser.condense([ids], RATIO)
            done += 1
        pipe.send(sum(len(contexts[at % len(contexts)]) for at in range(done)))


class Workers:
    """Worker processes, started once and used in every round."""

    def __init__(self, n_workers: int, threads: int, n_contexts: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.ends: list[Connection] = []
        for _ in range(n_workers):
            near, far = context.Pipe()
            context.Process(target=work, args=(far, threads, n_contexts), daemon=True).start()
            self.ends.append(near)
        for end in self.ends:
            end.recv()

    def rate(self, seconds: float) -> float:
        """Return tokens a second of all of them together."""
        for end in self.ends:
            end.send(seconds)
        return float(sum(end.recv() for end in self.ends)) / seconds

    def stop(self) -> None:
        """Let the processes end."""
        for end in self.ends:
            end.send(0)


def worker_rates(cores: int, rounds: int, seconds: float, n_contexts: int) -> Round:
    """Return tokens a second of one worker with all threads and of as many as there are cores."""
    kinds = {"one_worker": Workers(1, cores, n_contexts), "workers": Workers(cores, 1, n_contexts)}
    found: list[Round] = [
        {name: kind.rate(seconds) for name, kind in kinds.items()} for _ in range(rounds)
    ]
    for kind in kinds.values():
        kind.stop()
    return {
        "one_worker_tokens_per_s": median(found, "one_worker"),
        "a_worker_a_core_tokens_per_s": median(found, "workers"),
        "a_worker_a_core_over_one": median(found, "workers", "one_worker"),
    }


def markdown(by_threads: dict[int, Round], near: dict[str, Round], workers: Round) -> str:
    """Return the figures as docs hold them."""
    rows: dict[str, str] = {
        "naive_float32_tokens_per_s": "naive float32, tokens/s",
        "naive_bfloat16_tokens_per_s": "naive bfloat16, tokens/s",
        "ours_tokens_per_s": "ours, one at a time, tokens/s",
        "ours_batched_tokens_per_s": "ours, batched, tokens/s",
        "ours_over_naive_float32": "ours / naive float32, clock",
        "ours_over_naive_float32_cpu": "ours / naive float32, processor time",
        "ours_over_naive_bfloat16": "ours / naive bfloat16, clock",
        "ours_over_naive_bfloat16_cpu": "ours / naive bfloat16, processor time",
        "square_float32_gops": "best square product float32, Gop a core's second",
        "square_bfloat16_gops": "best square product bfloat16, Gop a core's second",
        "square_int8_gops": "best square product int8, Gop a core's second",
        "ours_gops": "ours, Gop a core's second",
        "share_of_square_rate": "ours, share of the square product in its format",
        "mixed_batching": "batching, 16 to 512 tokens, clock",
        "mixed_batching_cpu": "batching, 16 to 512 tokens, processor time",
        "short_batching": "batching, up to 16 tokens, clock",
        "short_batching_cpu": "batching, up to 16 tokens, processor time",
    }
    heads = [f"{threads} thread{'s' * (threads > 1)}" for threads in by_threads]
    lines = [f"| | {' | '.join(heads)} |", f"|---{'|---' * len(heads)}|"]
    for key, label in rows.items():
        values = [f"{found[key]:.{0 if found[key] >= 10 else 2}f}" for found in by_threads.values()]
        lines.append(f"| {label} | {' | '.join(values)} |")
    lines.append("")
    for name, found in near.items():
        lines.append(
            f"{name} against float32: {found['kept_alike']:.1%} of the kept tokens the same, "
            f"cosine of those {found['cosine_mean']:.4f} on average, least "
            f"{found['cosine_least']:.3f}."
        )
    if workers:
        lines.append(
            f"One worker with all threads {workers['one_worker_tokens_per_s']:.0f} tokens/s, a "
            f"worker a core {workers['a_worker_a_core_tokens_per_s']:.0f}: "
            f"{workers['a_worker_a_core_over_one']:.2f} times."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contexts", type=int, default=3)
    parser.add_argument("--threads", help="thread counts, by commas; all cores and 1 if left out")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a worker's run; 0 = none")
    parser.add_argument("--json", help="also write JSON to a path, or - for stdout")
    parser.add_argument("--markdown", type=Path, help="also write the table")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(1)  # loading
    condensers = {name: load(name) for name in ("float32", "bfloat16")} | {"ours": load("auto")}
    contexts = contexts_of(condensers["ours"], arguments.contexts)
    many = contexts_of(condensers["ours"], 8)
    near = {
        name: agreement(condensers["float32"], condensers[name], many)
        for name in ("bfloat16", "ours")
    }
    counts = [int(n) for n in (arguments.threads or f"{cores},1").split(",")]
    rounds: dict[int, list[Round]] = {threads: [] for threads in dict.fromkeys(counts)}
    for at in range(arguments.rounds + 1):
        for threads, found in rounds.items():
            found.append(one_round(condensers, contexts, threads))
        messages().print(f"round {at} of {arguments.rounds}" if at else "warm", markup=False)
    is_packed = condensers["ours"].module.packed is not None
    number_format = "int8" if is_packed else str(condensers["ours"].target.dtype)[6:]
    n_tokens = sum(map(len, contexts))
    needed = operations(condensers["ours"], contexts)
    by_threads = {
        threads: figures(found[1:], n_tokens, needed, number_format)
        for threads, found in rounds.items()
    }
    workers = {}
    if arguments.seconds:
        workers = worker_rates(cores, arguments.rounds, arguments.seconds, len(contexts))
    text = markdown(by_threads, near, workers)
    print(text, file=sys.stderr)
    if arguments.markdown:
        arguments.markdown.write_text(text, encoding="utf-8")
    write_json(
        arguments.json,
        {
            "schema": 1, "torch": torch.__version__, "cores": cores, "n_tokens": n_tokens,
            "number_format": number_format, "figures": by_threads, "agreement": near,
            "workers": workers, "rounds": rounds,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
