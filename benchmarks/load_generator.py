"""What a request costs the load generator, beside a general HTTP client.

``python benchmarks/load_generator.py [--repeats 5] [--requests 400] [--json PATH]``. A server of
its own process answers at once with npy. The load test's connections and httpx take turns, sixteen
requests at a time; the figure is the CPU time of this process a request, the median over the
repeats. The last columns are the whole generator, contexts, checks and figures included.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from rich.table import Table

from neural_condense_core.console import messages, write_json
from neural_condense_core.constants import TIERS
from neural_condense_core.loadtest.arrivals import Contexts
from neural_condense_core.loadtest.connections import Connections
from neural_condense_core.loadtest.machine import describe_machine
from neural_condense_core.loadtest.plan import Plan
from neural_condense_core.loadtest.session import Listener, run_load
from neural_condense_core.scoring.texts import open_texts

SHAPES = ((4, 8), (96, 576), (256, 576), (196, 4096))
AT_ONCE = 16
TIER = TIERS["inference_0"]
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
HEADERS = {"Accept": "application/x-npy", "Content-Type": "application/json"}


class Answering(asyncio.Protocol):
    """Answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.buffer = answer, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
            stop = end + 4 + int(length or 0)
            if len(self.buffer) < stop:
                return
            self.buffer = self.buffer[stop:]
            self.transport.write(self.answer if head.startswith(b"post") else NOT_FOUND)


def serve(listening: socket.socket, rows: int, width: int) -> None:
    """Run the server in a process of its own."""
    out = io.BytesIO()
    np.save(out, np.random.default_rng(0).normal(size=(rows, width)).astype(np.float16))
    body = out.getvalue()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-npy\r\nContent-Length: {len(body)}"

    async def run() -> None:
        answer = head.encode() + b"\r\n\r\n" + body
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Answering(answer), sock=listening)
        await server.serve_forever()

    asyncio.run(run())


async def cost_ms(post: Callable[[], Awaitable[Any]], n: int) -> float:
    """Return the CPU milliseconds of this process a request."""

    async def some() -> None:
        for _ in range(n // AT_ONCE):
            await post()

    began_s = time.process_time()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return 1000 * (time.process_time() - began_s) / (n // AT_ONCE * AT_ONCE)


async def compare(url: str, n: int, repeats: int) -> dict[str, float]:
    """Take the costs of both clients in turn."""
    contexts = Contexts(0, TIER.max_context_chars, open_texts(None), pool=4)
    body = httpx.Request("POST", url, json={"context": contexts.draw()}).content
    own = Connections(url, "/condense", HEADERS, 100_000_000)
    found: dict[str, list[float]] = {"own": [], "httpx": []}
    async with httpx.AsyncClient(trust_env=False, headers=HEADERS) as general:
        for _ in range(repeats + 1):
            found["own"].append(await cost_ms(lambda: own.post(body), n))
            found["httpx"].append(
                await cost_ms(lambda: general.post(f"{url}/condense", content=body), n)
            )
    own.close()
    # The first of each pays for connections.
    return {name: statistics.median(values[1:]) for name, values in found.items()}


async def open_loop(url: str, rate_rps: float, width: int) -> tuple[float, float]:
    """Return CPU milliseconds a request and the 99th percentile of lateness, seconds."""
    plan = Plan(url, TIER, rate_rps, 1, duration_s=8, warm_up_s=1, hidden_size=width)
    began_s = time.process_time()
    found = await run_load(plan, Listener())
    spent_ms = 1000 * (time.process_time() - began_s)
    return spent_ms / (rate_rps * 9), found.figures.lag.p99_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--json")
    args = parser.parse_args()
    table = Table(title="CPU milliseconds a request")
    for name in ("reply", "httpx", "own", "times less", "whole, open loop", "late, p99 (s)"):
        table.add_column(name, justify="right")
    rows = []
    for n_rows, width in SHAPES:
        listening = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = multiprocessing.get_context("fork").Process(
            target=serve, args=(listening, n_rows, width), daemon=True
        )
        server.start()
        try:
            costs = asyncio.run(compare(url, args.requests, args.repeats))
            whole_ms, late_s = asyncio.run(open_loop(url, args.rate, width))
        finally:
            server.kill()
            server.join()
            listening.close()
        ratio = costs["httpx"] / costs["own"]
        rows.append({"shape": [n_rows, width], **costs, "whole": whole_ms, "late_p99_s": late_s})
        table.add_row(
            f"{n_rows}x{width} f16",
            *(f"{value:.2f}" for value in (costs["httpx"], costs["own"])),
            f"{ratio:.1f}",
            f"{whole_ms:.2f}",
            f"{late_s:.3f}",
        )
    messages().print(table)
    write_json(args.json, {"machine": describe_machine(), "rate_rps": args.rate, "rows": rows})


if __name__ == "__main__":
    main()
