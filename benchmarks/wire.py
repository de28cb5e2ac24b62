"""What it costs to write condensed tokens down and to hand them over, against the plain ways.

``python benchmarks/wire.py [--parts json,formats,handover,server] [--repeats 5] [--json PATH]``.
Each figure is a ratio against a peer measured in turns with it in the same run, the median over the
repeats. ``cpu_ms`` is CPU time of all processes that take part, which other work on the machine
changes less than it does the time on the wall, ``ms``:

* *json*: our JSON object against ``json.dumps`` of ``tolist()``: bytes, time, and whether float32
  comes back bit by bit.
* *formats*: every format of the wire: bytes, time to write it, time for its digest.
* *handover*: a body from a worker process to this one, in shared memory against the pool's pipe.
* *server*: a 256 x 4096 reply of the whole backend, from the request's first byte to the reply's
  last, against FastAPI that is given ``tolist()``.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.table import Table

from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.console import messages, write_json
from neural_condense_core.serving.jobs import Answer
from neural_condense_core.serving.shared_bodies import Handover, SharedBlock
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.codec import MEDIA_TYPES, encode, negotiate, to_json
from neural_condense_core.wire.digest import content_digest

SHAPES = ((256, 576), (256, 4096))
BODIES = {"256x4096 float16": 2_100_000, "256x4096 float32": 4_200_000, "256x4096 JSON": 11_780_000}
CONTEXT = "The harbour was quiet. " * 45
WIDTH, ROWS, RATIO = 4096, 256, 4
REPLIES = {
    "safetensors float16": "application/vnd.safetensors; dtype=float16",
    "npy float16": "application/x-npy; dtype=float16",
    "safetensors float32": "application/vnd.safetensors",
    "JSON": "application/json",
}
START_S = 60.0

Row = dict[str, Any]


def matrix(shape: tuple[int, int]) -> np.ndarray:
    """Return embeddings as they come: normal, standard deviation 0.1."""
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


def tokens_of(shape: tuple[int, int]) -> CondensedTokens:
    """Return condensed tokens of that shape."""
    rows = np.arange(shape[0])
    return CondensedTokens(matrix(shape), "bench", RATIO * shape[0], rows * RATIO, "bench")


class Wide(EchoCondenser):
    """Costs nothing and answers 4096 wide; the backend's worker imports it by name."""

    name = "wide"
    hidden_size = WIDTH
    _rows = matrix((ROWS, WIDTH))

    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Return rows of one matrix, again and again where it has too few."""
        counts = [self.n_condensed_tokens(len(ids), ratio) for ids in contexts]
        rows = [self._rows[:n] if n <= ROWS else np.resize(self._rows, (n, WIDTH)) for n in counts]
        return [
            CondensedTokens(each, "b", len(ids)) for each, ids in zip(rows, contexts, strict=True)
        ]


def turns(
    work: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median milliseconds of each, measured in turns after one run of each."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, call in work.items():
            began = clock()
            call()
            if repeat:
                taken[name].append(1e3 * (clock() - began))
    return {name: statistics.median(each) for name, each in taken.items()}


def cpu_clock(pid: int) -> Callable[[], float]:
    """Return a clock of the CPU seconds that a process and its descendants have taken."""
    pids = [pid, *_descendants(pid)]

    def now_s() -> float:
        tasks = (task for each in pids for task in Path(f"/proc/{each}/task").glob("*/schedstat"))
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    return now_s


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            yield from (child, *_descendants(child))


def bench_json(repeats: int) -> Iterator[Row]:
    """Compare our JSON with the plain way."""
    for shape in SHAPES:
        tokens = tokens_of(shape)
        facts = {"target_model": "bench", "n_context_tokens": 1, "positions": None}

        def plain(tokens: CondensedTokens = tokens, facts: dict[str, Any] = facts) -> str:
            return json.dumps({"compressed_tokens": tokens.embeds.tolist(), **facts})

        def ours(tokens: CondensedTokens = tokens) -> bytes:
            return to_json(tokens)

        taken = turns({"plain": plain, "ours": ours}, repeats, time.process_time)
        read = np.array(json.loads(ours())["compressed_tokens"], np.float32)
        yield {
            "shape": list(shape),
            "bytes": len(ours()),
            "cpu_ms": round(taken["ours"], 3),
            "size_of_plain": round(len(ours()) / len(plain()), 4),
            "times_as_fast": round(taken["plain"] / taken["ours"], 1),
            "exact": read.tobytes() == tokens.embeds.tobytes(),
        }


def bench_formats(repeats: int) -> Iterator[Row]:
    """Measure every format with each of its dtypes, against the JSON object."""
    tokens = tokens_of(SHAPES[-1])
    names = [
        f"{name}; dtype={dtype}"
        for name, each in MEDIA_TYPES.items()
        for dtype in each.dtypes
        if "octet" not in name
    ]
    formats = {name: negotiate(name) for name in names}
    bodies = {name: encode(tokens, each) for name, each in formats.items()}
    work: dict[str, Callable[[], object]] = {}
    for name, each in formats.items():
        work[name] = partial(encode, tokens, each)
        work[f"digest {name}"] = partial(content_digest, bodies[name])
    taken = turns(work, repeats, time.process_time)
    json_ms = taken["application/json; dtype=float32"]
    for name in names:
        yield {
            "format": name,
            "bytes": len(bodies[name]),
            "cpu_ms": round(taken[name], 3),
            "digest_cpu_ms": round(taken[f"digest {name}"], 3),
            "times_as_fast_as_json": round(json_ms / taken[name], 1),
        }


_block: list[SharedBlock] = []


def _hold(block: SharedBlock) -> None:
    _block.append(block)


def _answer(n_bytes: int) -> list[Answer]:
    return [Answer(b"x" * n_bytes, {}, 1, 1)]


def _by_pipe(n_bytes: int) -> Handover:
    return Handover(list(_answer(n_bytes)))


def _by_block(n_bytes: int) -> Handover:
    return _block[0].fill(list(_answer(n_bytes)))


def _fetch(
    pool: ProcessPoolExecutor, block: SharedBlock, way: Callable[[int], Handover], n_bytes: int
) -> None:
    block.empty(pool.submit(way, n_bytes).result(START_S))


def bench_handover(repeats: int) -> Iterator[Row]:
    """Compare the two ways of a body from one process to the other."""
    block = SharedBlock()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _hold, (block,)) as pool:
        for name, size in BODIES.items():
            work = {
                "pipe": partial(_fetch, pool, block, _by_pipe, size),
                "block": partial(_fetch, pool, block, _by_block, size),
            }
            work["pipe"]()  # starts the process whose time is taken
            taken = turns(work, repeats)
            spent = turns(work, repeats, cpu_clock(os.getpid()))
            yield {
                "body": name,
                "bytes": size,
                "ms": round(taken["block"], 3),
                "cpu_ms": round(spent["block"], 3),
                "pipe_ms": round(taken["pipe"], 3),
                "pipe_cpu_ms": round(spent["pipe"], 3),
                "cpu_of_pipe": round(spent["block"] / spent["pipe"], 2),
            }
    block.close()


def serve_peer(port: int) -> None:
    """Serve the same matrix the plain way: FastAPI, given Python floats."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()
    rows = matrix((ROWS, WIDTH))

    @app.post("/condense")
    async def condense(asked: dict[str, Any]) -> dict[str, Any]:
        return {"compressed_tokens": rows.tolist(), "target_model": asked.get("target_model")}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


@contextlib.contextmanager
def started(command: list[str], port: int, path: str) -> Iterator[int]:
    """Run a server until it is no longer needed; gives its process id."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    try:
        _await_ready(process, port, path)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], port: int, path: str) -> None:
    give_up_s = time.monotonic() + START_S
    while time.monotonic() < give_up_s and process.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server of this benchmark did not start on port {port}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Asker:
    """One connection that asks for one kind of reply again and again."""

    def __init__(self, port: int, accept: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"Content-Type": "application/json", "Accept": accept}
        self.body = orjson.dumps({"context": CONTEXT[: ROWS * RATIO]})
        self.n_bytes = 0

    def ask(self) -> None:
        """Ask once and read the reply to its end.

        Raises
        ------
        SystemExit
            It is no reply.
        """
        self.connection.request("POST", "/condense", self.body, self.headers)
        response = self.connection.getresponse()
        self.n_bytes = len(response.read())
        if response.status != http.client.OK:
            raise SystemExit(f"the server of this benchmark answered {response.status}")


def bench_server(repeats: int) -> Iterator[Row]:
    """Compare whole servers."""
    ours, peer = _free_port(), _free_port()
    command = [
        sys.executable, "-m", "neural_condense_core.cli", "serve", "--condenser", "wire:Wide",
        "--port", str(ours), "--cache_mb", "0", "--logging_level", "error",
    ]  # fmt: skip
    peer_command = [sys.executable, __file__, "--serve_peer", str(peer)]
    with (
        started(command, ours, "/health/ready") as pid,
        started(peer_command, peer, "/openapi.json") as peer_pid,
    ):
        askers = {name: Asker(ours, accept) for name, accept in REPLIES.items()}
        plain = Asker(peer, "application/json")
        work: dict[str, Callable[[], object]] = {name: each.ask for name, each in askers.items()}
        taken = turns({**work, "plain": plain.ask}, repeats)
        spent = turns(work, repeats, cpu_clock(pid))
        spent |= turns({"plain": plain.ask}, repeats, cpu_clock(peer_pid))
    for name, asker in askers.items():
        yield {
            "reply": name,
            "bytes": asker.n_bytes,
            "ms": round(taken[name], 2),
            "cpu_ms": round(spent[name], 2),
            "plain_ms": round(taken["plain"], 1),
            "plain_cpu_ms": round(spent["plain"], 1),
            "times_as_fast": round(taken["plain"] / taken[name], 1),
        }


PARTS: Mapping[str, Callable[[int], Iterator[Row]]] = {
    "json": bench_json,
    "formats": bench_formats,
    "handover": bench_handover,
    "server": bench_server,
}


def report(part: str, rows: Sequence[Row]) -> None:
    """Print a part as a table on stderr."""
    table = Table(*rows[0], title=part)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    messages().print(table)


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="also write JSON to a path, or - for stdout")
    parser.add_argument("--serve_peer", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_peer:
        serve_peer(arguments.serve_peer)
        return
    found: dict[str, list[Row]] = {}
    for part in arguments.parts.split(","):
        if part not in PARTS:
            parser.error(f"unknown part {part!r}; known: {', '.join(PARTS)}")
        found[part] = list(PARTS[part](arguments.repeats))
        report(part, found[part])
    machine = platform.processor() or platform.machine()
    write_json(arguments.json, {"schema": 1, "machine": machine, **found})


if __name__ == "__main__":
    main()
