"""How the backend serves: ``python -m benchmarks.serving [--only NAME,...] [--json PATH]``.

``make bench`` runs it with the peers installed beside. A figure is the median over the rounds;
in each round all servers are measured one after another, and ratios are taken within a round, so
that what else the machine does touches both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from benchmarks.serving import behaviour, models, overhead
from benchmarks.serving.figures import Bench, Figure
from benchmarks.serving.processes import Peers
from neural_condense_core.console import messages, write_json
from neural_condense_core.errors import ConfigError, NeuralCondenseError

MEASUREMENTS: dict[str, Callable[[Bench], Awaitable[list[Figure]]]] = {
    "small": overhead.small_reply,
    "large": overhead.large_reply,
    "idle": overhead.idle,
    "overload": behaviour.overload,
    "abandoned": behaviour.abandoned,
    "sigterm": behaviour.sigterm,
    "kill": behaviour.worker_kill,
    "mixed": models.mixed_lengths,
    "loadtest": models.load_test,
}
OPENING, CLOSING = "<!-- serving -->", "<!-- /serving -->"
"""Between these a document holds the table."""
MARKS = {True: "yes", False: "**no**", None: ""}


def machine() -> str:
    """Return what the figures were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    load = Path("/proc/loadavg").read_text().split()[0]
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, load {load} before, Python {platform.python_version()}"


def markdown(figures: Sequence[Figure], where: str, rounds: int) -> str:
    """Return the figures as docs hold them."""
    lines = [
        f"{where}; medians of {rounds} rounds.",
        "",
        "| figure | goal | measured | beside it, same rounds | met |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.name} | {one.goal} | {one.measured} | {one.beside} | {MARKS[one.is_met]} |"
        for one in figures
    ]
    return "\n".join(lines) + "\n"


def write_into(path: Path, table: str) -> None:
    """Write the table to a file, or between the marks of a document that has them.

    Raises
    ------
    ConfigError
        The file is there and has no marks: what it holds is not overwritten.
    """
    if not path.exists():
        path.write_text(table, encoding="utf-8")
        return
    before, opening, rest = path.read_text(encoding="utf-8").partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing):
        raise ConfigError(f"{path} exists and does not hold {OPENING} and {CLOSING}")
    path.write_text(f"{before}{OPENING}\n{table}{CLOSING}{after}", encoding="utf-8")


def shown(figures: Sequence[Figure]) -> Table:
    """Return the figures as a terminal shows them."""
    table = Table("figure", "goal", "measured", "beside it, same rounds", "met", show_lines=True)
    for one in figures:
        mark = MARKS[one.is_met].strip("*")
        table.add_row(one.name, one.goal, one.measured, one.beside, mark)
    return table


async def measure(names: Sequence[str], bench: Bench) -> list[Figure]:
    """Take the measurements one after another."""
    figures: list[Figure] = []
    for name in names:
        began_s = time.perf_counter()
        found = await MEASUREMENTS[name](bench)
        figures += found
        messages().print(f"[{name}] {time.perf_counter() - began_s:.0f} s", markup=False)
        for one in found:
            messages().print(f"  {one.name}: {one.measured}  {one.beside}", markup=False)
    return figures


def main() -> int:
    """Measure, show, and return 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__)
    parser.add_argument("--only", help=f"names, by commas, of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement under load")
    parser.add_argument("--peer_python", type=Path, help="interpreter that has litserve; or none")
    parser.add_argument("--json", help="also write JSON to a path, or - for stdout")
    parser.add_argument(
        "--markdown", type=Path, help="also write the table, or renew it in a document"
    )
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(MEASUREMENTS)
    unknown = sorted(set(names) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose of {', '.join(MEASUREMENTS)}")
    where = machine()
    peers = Peers(given.peer_python and given.peer_python.absolute())
    figures = asyncio.run(measure(names, Bench(peers, given.rounds, given.seconds)))
    messages().print(shown(figures))
    if given.markdown:
        write_into(given.markdown, markdown(figures, where, given.rounds))
    write_json(
        given.json,
        {
            "schema": 1,
            "machine": where,
            "rounds": given.rounds,
            "figures": [asdict(one) for one in figures],
        },
    )
    return int(any(one.is_met is False for one in figures))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NeuralCondenseError as error:
        messages().print(f"error: {error.message}", markup=False)
        sys.exit(error.exit_code)
