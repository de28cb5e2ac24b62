"""One machine with and without Ray: bulk condensing and serving, interleaved, as ratios.

``.venv-ray/bin/python benchmarks/scale_out.py --condenser pooled-fast``; ``make test-ray`` makes
that environment. Both have one worker with one CPU; a Ray cluster of one node is started for each
run, and its start is not timed: throughput is counted from the first shard on, latency once it is
ready.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from neural_condense_core.serving.worker import warm_up_text

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "neural_condense_core.cli")
ENGINES = ("local", "ray")
WAIT_S = 300.0


def environment() -> dict[str, str]:
    """Return the environment of what is measured: one thread, this source tree."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def contexts_per_s(engine: str, condenser: str, n: int, n_chars: int, shard: int) -> float:
    """Condense a corpus and return contexts a second, between the first shard and the last."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [f"{row} {warm_up_text(n_chars)}"[:n_chars] for row in range(n)]
        pq.write_table(pa.table({"text": texts}), folder / "in.parquet")
        process = subprocess.Popen(
            [
                *COMMAND, "corpus", str(folder / "in.parquet"), str(folder / "out"),
                "--condenser", condenser, "--shard_contexts", str(shard), "--engine", engine,
            ],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        process.wait(WAIT_S)
        written = sorted(
            path.stat().st_mtime for path in (folder / "out").glob("shard-*.safetensors")
        )
        assert process.returncode == 0
        return (len(written) - 1) * shard / (written[-1] - written[0])


def latencies_ms(engine: str, condenser: str, n: int, n_chars: int) -> tuple[float, float]:
    """Serve and ask one at a time; return p50 and p95 in milliseconds."""
    process = subprocess.Popen(
        [
            *COMMAND, "serve", "--condenser", condenser, "--engine", engine, "--port", "0",
            "--cache_mb", "0",
        ],
        env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        url = ""
        while not url:
            match = re.search(r" at (http://[^/]+)/", process.stderr.readline())
            url = match.group(1) if match else ""
        with httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False) as client:
            while client.get("/health/ready").status_code != 200:
                time.sleep(0.2)
            taken = [
                _ask_ms(client, f"{row} {warm_up_text(n_chars)}"[:n_chars]) for row in range(n)
            ]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
    taken.sort()
    return statistics.median(taken), taken[int(0.95 * (len(taken) - 1))]


def _ask_ms(client: httpx.Client, text: str) -> float:
    start_s = time.perf_counter()
    reply = client.post(
        "/condense", json={"context": text}, headers={"Accept": "application/x-npy"}
    )
    assert reply.status_code == 200, reply.text
    return (time.perf_counter() - start_s) * 1000


def main() -> None:
    """Measure in interleaved rounds and print medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--condenser", default="pooled-fast")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contexts", type=int, default=200)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--chars", type=int, default=1536)
    flags = parser.parse_args()
    rates: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    waits: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
    for _ in range(flags.rounds):
        for engine in ENGINES:
            rates[engine].append(
                contexts_per_s(engine, flags.condenser, flags.contexts, flags.chars, 10)
            )
            waits[engine].append(latencies_ms(engine, flags.condenser, flags.requests, flags.chars))
    found = {
        engine: {
            "contexts_per_s": statistics.median(rates[engine]),
            "p50_ms": statistics.median(p50 for p50, _ in waits[engine]),
            "p95_ms": statistics.median(p95 for _, p95 in waits[engine]),
        }
        for engine in ENGINES
    }
    ratio = statistics.median(
        ray / local for ray, local in zip(rates["ray"], rates["local"], strict=True)
    )
    load = os.getloadavg()[0]
    print(json.dumps({**vars(flags), **found, "throughput_ratio": ratio, "load": load}, indent=2))


if __name__ == "__main__":
    main()
