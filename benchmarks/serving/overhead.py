"""What the server itself costs: on a condenser that takes no time, and when nothing is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from benchmarks.serving.figures import Bench, Figure, Round, both, median, median_ratio
from benchmarks.serving.load import JSON, Load, Requests, closed_loop
from benchmarks.serving.processes import Server, backend, peer

OURS = "backend"
CONNECTIONS = 16
WARM_UP_S = 1.0
IDLE_S = 10.0
FORMATS = {"safetensors fp16": "application/vnd.safetensors; dtype=float16", "JSON": JSON}
GOALS_MS = {"safetensors fp16": 15.0, "JSON": 100.0}


@contextlib.contextmanager
def _beside_peers(bench: Bench, condenser: str, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Run our backend and the peers with one condenser; gives name -> port."""
    with ExitStack() as stack:
        servers: dict[str, Server] = {OURS: stack.enter_context(backend(condenser))}
        if bench.peers.python is not None:
            for name in names:
                servers[name] = stack.enter_context(peer(bench.peers, name, condenser.lower()))
        yield {name: server.port for name, server in servers.items()}


def _all_good(load: Load, name: str) -> Load:
    if set(load.statuses) != {200}:
        raise RuntimeError(f"{name} did not answer every request: {load.statuses}")
    return load


async def _warm(ports: dict[str, int], requests: Requests) -> None:
    for name, port in ports.items():
        _all_good(await closed_loop(port, requests, connections=2, seconds=WARM_UP_S), name)


async def small_reply(bench: Bench) -> list[Figure]:
    """Measure latency on one connection and throughput on many."""
    requests = Requests()
    alone: list[Round] = []
    crowd: list[Round] = []
    with _beside_peers(bench, "NoOp", ("litserve", "fastapi", "plain")) as ports:
        await _warm(ports, requests)
        for _ in range(bench.rounds):
            latency: Round = {}
            rate: Round = {}
            for name, port in ports.items():
                load = await closed_loop(port, requests, connections=1, seconds=bench.seconds / 2)
                times = _all_good(load, name).milliseconds()
                p50, p95 = np.percentile(times, [50, 95])
                latency |= {f"{name} p50": float(p50), f"{name} p95": float(p95)}
                load = await closed_loop(
                    port, requests, connections=CONNECTIONS, seconds=bench.seconds
                )
                rate[name] = _all_good(load, name).rate
            alone.append(latency)
            crowd.append(rate)
    return [_latency(alone, ports), _throughput(crowd, ports)]


def _latency(rounds: list[Round], ports: dict[str, int]) -> Figure:
    shown = {
        name: f"{median(rounds, f'{name} p50'):.2f} / {median(rounds, f'{name} p95'):.2f}"
        for name in ports
    }
    is_met = median(rounds, f"{OURS} p50") <= 1.5 and median(rounds, f"{OURS} p95") <= 3.0
    return Figure(
        "no-op condenser, small reply, one connection: p50 / p95, ms",
        "<= 1.5 / 3",
        shown.pop(OURS),
        _listed(shown),
        is_met,
        rounds,
    )


def _throughput(rounds: list[Round], ports: dict[str, int]) -> Figure:
    others = [name for name in ports if name != OURS]
    ratios = {name: median_ratio(rounds, OURS, name) for name in others}
    shown = {name: f"{median(rounds, name):.0f}, ratio {ratios[name]:.2f}" for name in others}
    lit, bare = ratios.get("litserve"), ratios.get("fastapi")
    return Figure(
        f"no-op condenser, small reply, {CONNECTIONS} connections: requests/s",
        ">= 1.5 x LitServe, >= 0.6 x bare FastAPI",
        f"{median(rounds, OURS):.0f}",
        _listed(shown),
        both(None if lit is None else lit >= 1.5, None if bare is None else bare >= 0.6),
        rounds,
    )


async def large_reply(bench: Bench) -> list[Figure]:
    """Measure replies of 256 x 4,096 numbers."""
    figures = []
    with _beside_peers(bench, "Big", ("litserve", "fastapi")) as ports:
        for label, accept in FORMATS.items():
            requests = Requests(accept=accept)
            # The peers send JSON only.
            asked = ports if accept == JSON else {OURS: ports[OURS]}
            await _warm(asked, requests)
            rounds = [
                {
                    name: float(
                        np.median(
                            _all_good(
                                await closed_loop(
                                    port, requests, connections=1, seconds=bench.seconds
                                ),
                                name,
                            ).milliseconds()
                        )
                    )
                    for name, port in asked.items()
                }
                for _ in range(bench.rounds)
            ]
            figures.append(_large(label, rounds))
    return figures


def _large(label: str, rounds: list[Round]) -> Figure:
    ours = median(rounds, OURS)
    shown = {
        name: f"{median(rounds, name):.1f}, ratio {median_ratio(rounds, OURS, name):.2f}"
        for name in rounds[0]
        if name != OURS
    }
    goal = GOALS_MS[label]
    return Figure(
        f"reply of 256 x 4096, {label}: p50, ms",
        f"<= {goal:g}",
        f"{ours:.1f}",
        _listed(shown),
        ours <= goal,
        rounds,
    )


async def idle(bench: Bench) -> list[Figure]:
    """Measure the processor time of servers that nobody asks anything."""
    with ExitStack() as stack:
        servers = {OURS: stack.enter_context(backend("NoOp"))}
        if bench.peers.python is not None:
            servers["litserve"] = stack.enter_context(peer(bench.peers, "litserve", "noop"))
        await _warm({name: server.port for name, server in servers.items()}, Requests())
        await asyncio.sleep(1.0)
        before = {name: server.cpu_s() for name, server in servers.items()}
        await asyncio.sleep(IDLE_S)
        # All at once: they do not disturb each other while they rest.
        spent = {
            name: 100 * (server.cpu_s() - before[name]) / IDLE_S for name, server in servers.items()
        }
    shown = {name: f"{share:.1f}" for name, share in spent.items()}
    return [
        Figure(
            f"idle for {IDLE_S:.0f} s: % of a core",
            "<= 1",
            shown.pop(OURS),
            _listed(shown),
            spent[OURS] <= 1.0,
            [spent],
        )
    ]


def _listed(shown: dict[str, str]) -> str:
    names = {"fastapi": "FastAPI", "plain": "FastAPI on h11", "litserve": "LitServe"}
    return "; ".join(f"{names[name]} {text}" for name, text in shown.items())
