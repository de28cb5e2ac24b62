"""What the server does when too much is asked, when clients leave, and when processes end."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from benchmarks.serving.figures import Bench, Figure, Round, median
from benchmarks.serving.load import (
    COMPUTED_ENV,
    GONE,
    ID_DIGITS,
    NAP_S_PER_BYTE,
    Arrival,
    Connection,
    Reply,
    Requests,
    closed_loop,
    open_loop,
)
from benchmarks.serving.processes import Server, backend, living, peer

OURS = "backend"
DEADLINE_S = 2.0
OVERLOAD = 2.0
N_LEFT = 20
KEPT_S = 1.0
N_WORKERS = 2
START_S, STOP_S = 60.0, 10.0


async def overload(bench: Bench) -> list[Figure]:
    """Offer twice what a server can do, and count what it does in time.

    Servers take turns rather than stand beside each other: each is driven to its limit.
    """
    names = [OURS] if bench.peers.python is None else [OURS, "litserve"]
    rounds = []
    for number in range(bench.rounds):
        found: Round = {}
        for name in names:
            with _napping(bench, name) as server:
                found |= await _overloaded(server, name, bench, seed=number)
        rounds.append(found)
    return _overload_figures(rounds, names)


def _napping(bench: Bench, name: str) -> AbstractContextManager[Server]:
    timeout = ("--timeout", f"{DEADLINE_S:g}")
    return backend("Nap", *timeout) if name == OURS else peer(bench.peers, name, "nap", *timeout)


async def _overloaded(server: Server, name: str, bench: Bench, seed: int) -> Round:
    requests = Requests()
    await closed_loop(server.port, requests, connections=4, seconds=1.0)
    peak = (await closed_loop(server.port, requests, connections=8, seconds=bench.seconds)).rate
    # Long enough that an unbounded queue would outgrow the deadline.
    seconds = max(4 * DEADLINE_S, bench.seconds)
    gaps = np.random.default_rng(seed).exponential(1 / (OVERLOAD * peak), int(8 * peak * seconds))
    times = np.cumsum(gaps)
    times = times[times < seconds]
    arrivals = await open_loop(server.port, requests, times, give_up_s=4 * DEADLINE_S)
    return {f"{name} {key}": value for key, value in _judged(arrivals, peak, seconds).items()}


def _judged(arrivals: Sequence[Arrival], peak: float, seconds: float) -> Round:
    in_time = [
        one for one in arrivals if one.reply.status == 200 and one.since_scheduled_s <= DEADLINE_S
    ]
    accepted = [one.since_scheduled_s for one in arrivals if one.reply.status == 200]
    rejected = [1e3 * one.reply.seconds for one in arrivals if one.reply.status == 429]
    found: Round = {
        "peak": peak,
        "goodput": len(in_time) / seconds,
        "share": len(in_time) / seconds / peak,
        "late": sum(one.reply.status == 504 for one in arrivals) / len(arrivals),
    }
    if accepted:
        found["p99_s"] = float(np.percentile(accepted, 99))
    if rejected:
        p50, p99 = np.percentile(rejected, [50, 99])
        found |= {"reject_p50_ms": float(p50), "reject_p99_ms": float(p99)}
    return found


def _overload_figures(rounds: list[Round], names: Sequence[str]) -> list[Figure]:
    def of(key: str, name: str = OURS) -> float:
        return median(rounds, f"{name} {key}")

    def beside(text: str, key: str) -> str:
        others = [name for name in names if name != OURS]
        return "; ".join(f"LitServe {text.format(of(key, name))}" for name in others)

    return [
        Figure(
            f"offered {OVERLOAD:g} x capacity: answered within {DEADLINE_S:g} s, share of peak",
            ">= 0.90",
            f"{of('share'):.2f} ({of('goodput'):.0f} of {of('peak'):.0f}/s)",
            beside("{:.2f}", "share"),
            of("share") >= 0.90,
            rounds,
        ),
        Figure(
            "the same: time to be told 429, p50 (p99), ms",
            "<= 10",
            f"{of('reject_p50_ms'):.1f} ({of('reject_p99_ms'):.1f})",
            "",
            of("reject_p50_ms") <= 10.0,
        ),
        Figure(
            "the same: p99 of accepted, s",
            f"<= {DEADLINE_S:g}",
            f"{of('p99_s'):.2f}",
            beside("{:.2f}", "p99_s"),
            of("p99_s") <= DEADLINE_S,
        ),
    ]


async def abandoned(bench: Bench) -> list[Figure]:
    """Have clients hang up, and requests expire, while another is computed; count both."""
    names = [OURS] if bench.peers.python is None else [OURS, "litserve"]
    found: dict[str, Round] = {name: await _left_alone(bench, name) for name in names}
    ours = found[OURS]
    others = [
        f"LitServe {found[name]['abandoned']:.0f} and {found[name]['expired']:.0f}"
        for name in names
        if name != OURS
    ]
    return [
        Figure(
            f"computed of {N_LEFT} abandoned and {N_LEFT} expired requests",
            "0 and 0",
            f"{ours['abandoned']:.0f} and {ours['expired']:.0f}",
            "; ".join(others),
            ours["abandoned"] == ours["expired"] == 0,
            list(found.values()),
        )
    ]


async def _left_alone(bench: Bench, name: str) -> Round:
    # One long request keeps the worker busy while the others wait.
    long = Requests(characters=int(3 * KEPT_S / NAP_S_PER_BYTE))
    short = Requests(headers=f"X-Request-Timeout: {KEPT_S:g}\r\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "computed"
        environ = {COMPUTED_ENV: str(path)}
        timeout = ("--timeout", "60", "--max_context_tokens", "400000")
        start = (
            backend("Nap", *timeout, environ=environ)
            if name == OURS
            else peer(bench.peers, name, "nap", *timeout[:2], environ=environ)
        )
        with start as server:
            busy = asyncio.create_task(Connection(server.port).ask(long.numbered(0)))
            await asyncio.sleep(KEPT_S / 2)
            leaving = [Connection(server.port) for _ in range(N_LEFT)]
            plain = Requests()
            asked = [
                asyncio.create_task(each.ask(plain.numbered(100 + i)))
                for i, each in enumerate(leaving)
            ]
            expiring = [
                asyncio.create_task(Connection(server.port).ask(short.numbered(200 + i)))
                for i in range(N_LEFT)
            ]
            await asyncio.sleep(KEPT_S / 2)
            for each in leaving:
                each.hang_up()
            assert (await busy).status == 200, "the long request failed"
            await asyncio.gather(*asked, *expiring)
            await Connection(server.port).ask(plain.numbered(300))
            # Others than the numbered ones are the server's own warm-up.
            noted = [line[:ID_DIGITS] for line in path.read_text().splitlines()]
            computed = [int(digits) for digits in noted if digits.isdigit()]
    return {
        "abandoned": sum(100 <= number < 200 for number in computed),
        "expired": sum(200 <= number < 300 for number in computed),
    }


async def sigterm(bench: Bench) -> list[Figure]:
    """End a server under load; count what it had accepted and did not answer."""
    names = [OURS] if bench.peers.python is None else [OURS, "litserve"]
    rounds: list[Round] = []
    for _ in range(bench.rounds):
        found: Round = {}
        for name in names:
            with _napping(bench, name) as server:
                found |= {f"{name} {k}": v for k, v in (await _ended(server)).items()}
        rounds.append(found)
    lost = sum(each[f"{OURS} lost"] for each in rounds)
    left = sum(each[f"{OURS} left"] for each in rounds)
    others = [
        f"LitServe {sum(each[f'{name} lost'] for each in rounds):.0f} and "
        f"{sum(each[f'{name} left'] for each in rounds):.0f}"
        for name in names
        if name != OURS
    ]
    return [
        Figure(
            f"SIGTERM under load, {len(rounds)} times: accepted requests lost, processes left",
            "0 and 0",
            f"{lost:.0f} and {left:.0f} (gone after {median(rounds, f'{OURS} seconds'):.1f} s)",
            "; ".join(others),
            lost == left == 0,
            rounds,
        )
    ]


async def _ended(server: Server) -> Round:
    requests, stop = Requests(), asyncio.Event()
    told_s = float("inf")
    seen: list[tuple[float, Reply]] = []

    async def one() -> None:
        connection = Connection(server.port)
        while not stop.is_set():
            sent_s = time.perf_counter()
            reply = await connection.ask(next(requests))
            seen.append((sent_s, reply))
            if reply.status != 200:
                await asyncio.sleep(0.05)
        connection.hang_up()

    clients = [asyncio.create_task(one()) for _ in range(8)]
    await asyncio.sleep(1.0)
    tree = server.tree()
    server.process.send_signal(signal.SIGTERM)
    told_s = time.perf_counter()
    await _until(lambda: not living(tree), wait_s=STOP_S)
    took_s = time.perf_counter() - told_s
    stop.set()
    left = living(tree)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*clients)
    # Sent well before the signal: it was in the server's hands by then.
    accepted = [reply for sent_s, reply in seen if sent_s < told_s - 0.02]
    lost = sum(reply.status != 200 for reply in accepted)
    return {"lost": lost, "left": len(left), "seconds": took_s}


async def worker_kill(bench: Bench) -> list[Figure]:
    """Kill one of two workers under load; count failures, and wait for its successor."""
    rounds = []
    for _ in range(bench.rounds):
        with backend("Nap", "--workers_per_device", str(N_WORKERS)) as server:
            rounds.append(await _killed(server))
    failed, asked = (sum(each[key] for each in rounds) for key in ("failed", "asked"))
    load_s, again_s = median(rounds, "load_s"), median(rounds, "again_s")
    return [
        Figure(
            f"kill -9 of a worker under load, {len(rounds)} times: requests that failed; "
            "s to full strength",
            "0; <= load time",
            f"{failed:.0f} of {asked:.0f}; {again_s:.1f} (loading took {load_s:.1f})",
            "LitServe ends whole",
            failed == 0 and again_s <= 1.5 * load_s,
            rounds,
        )
    ]


async def _killed(server: Server) -> Round:
    load_s = await _full_strength(server, since_s=server.began_s)
    done = asyncio.Event()
    load = asyncio.create_task(
        closed_loop(
            server.port, Requests(), connections=6, seconds=60.0, until=done.is_set, pause_s=0.05
        )
    )
    await asyncio.sleep(1.0)
    before = set(server.workers())
    os.kill(min(before), signal.SIGKILL)
    killed_s = time.perf_counter()
    # Until the server has noticed, it still says that all are ready.
    await _until(lambda: bool(set(server.workers()) - before), wait_s=START_S)
    again_s = await _full_strength(server, since_s=killed_s)
    await asyncio.sleep(1.0)
    done.set()
    statuses = (await load).statuses
    failed = sum(number for status, number in statuses.items() if status != 200)
    return {
        "failed": failed, "asked": sum(statuses.values()), "load_s": load_s, "again_s": again_s,
        "gone": statuses.get(GONE, 0),
    }  # fmt: skip


async def _full_strength(server: Server, since_s: float) -> float:
    if not await _until(lambda: server.ready_workers() == N_WORKERS, wait_s=START_S):
        raise RuntimeError("a worker did not come up")
    return time.perf_counter() - since_s


async def _until(condition: Callable[[], bool], wait_s: float) -> bool:
    give_up_s = time.perf_counter() + wait_s
    while time.perf_counter() < give_up_s:
        if await asyncio.to_thread(condition):
            return True
        await asyncio.sleep(0.01)
    return False
