"""``condense loadtest``: does a backend serve a tier's rate, and how much more.

Where it sits: reads the command line, shows progress, writes JSON and the page.

Design decisions

* stdout belongs to ``--json -``; progress and figures go to stderr.
* Exit 0: PASS. 1: FAIL. 2: the command line is wrong. 3: nothing answers there.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from neural_condense_core.command_options import (
    BackendUrl,
    JsonPath,
    TextSource,
    TierName,
    TiersFile,
    named_tier,
)
from neural_condense_core.console import check_writable, messages, write_bytes, write_json
from neural_condense_core.errors import ConfigError
from neural_condense_core.loadtest.arrivals import tier_rate
from neural_condense_core.loadtest.figures import Spread
from neural_condense_core.loadtest.generator import Outcome
from neural_condense_core.loadtest.plan import (
    DURATION_S,
    MAX_IN_FLIGHT,
    MAX_RATE_RPS,
    SEARCH_S,
    WAIT_S,
    WARM_UP_S,
    Plan,
    Report,
)
from neural_condense_core.loadtest.session import Listener, run_load

MAX_REQUESTS = 500_000


def loadtest(
    url: BackendUrl,
    tier: TierName,
    json: JsonPath = None,
    report: Annotated[
        Path | None, typer.Option("--report", "--html", help="Write one page with plots, as HTML.")
    ] = None,
    validators: Annotated[
        int, typer.Option(min=1, max=4096, help="Validators whose requests add up.")
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=10_000, help="Requests a second, instead of the tier's."),
    ] = None,
    duration: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds that count.")
    ] = DURATION_S,
    warm_up: Annotated[
        float, typer.Option("--warm_up", "--warmup", min=0, max=3600, help="Seconds before.")
    ] = WARM_UP_S,
    finds_max: Annotated[
        bool, typer.Option("--find_max", help="Search for the highest rate that is served.")
    ] = False,
    max_rate: Annotated[
        float, typer.Option("--max_rate", min=0.001, max=10_000, help="No search beyond it.")
    ] = MAX_RATE_RPS,
    search_seconds: Annotated[
        float,
        typer.Option("--search_seconds", min=1, max=86_400, help="No new search step after them."),
    ] = SEARCH_S,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Same seed, same arrivals and texts; default: a new one."),
    ] = None,
    texts: TextSource = None,
    full_length: Annotated[
        bool, typer.Option("--full_length", help="All contexts as long as the tier allows.")
    ] = False,
    api_path: Annotated[
        str | None,
        typer.Option("--api_path", help="Path of the condensing route; default: /info's."),
    ] = None,
    hidden_size: Annotated[
        int | None,
        typer.Option("--hidden_size", min=1, max=65_536, help="Width of a reply's rows."),
    ] = None,
    target_model: Annotated[
        str | None,
        typer.Option("--target_model", help="Model to ask for; default: /info's, or the tier's."),
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="Accept header; default: what a miner sends.")
    ] = None,
    max_in_flight: Annotated[
        int,
        typer.Option("--max_in_flight", min=1, max=20_000, help="More at once count as errors."),
    ] = MAX_IN_FLIGHT,
    wait: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds that a backend may load.")
    ] = WAIT_S,
    tiers: TiersFile = None,
) -> None:
    """Send a tier's requests to a backend and say whether it serves them.

    Raises
    ------
    Exit
        The verdict is FAIL: status 1.
    """
    for place in (json, report):
        check_writable(place)
    config = named_tier(tier, tiers)
    plan = Plan(
        url=url,
        tier=config,
        rate_rps=tier_rate(config, validators) if rate is None else rate,
        seed=secrets.randbelow(1 << 53) if seed is None else seed,
        n_validators=validators,
        api_path=_path(api_path),
        duration_s=duration,
        warm_up_s=warm_up,
        texts=texts,
        is_full_length=full_length,
        hidden_size=hidden_size,
        target_model=target_model,
        accept=_header(accept),
        max_in_flight=max_in_flight,
        finds_max=finds_max,
        max_rate_rps=max_rate,
        search_s=search_seconds,
        wait_s=wait,
    )
    found = measure(plan)
    show(found)
    if report is not None:
        from neural_condense_core.loadtest.page import to_html

        write_bytes(str(report), to_html(found).encode())
    write_json(json, found.as_json())
    if not found.figures.is_pass:
        raise typer.Exit(1)


def measure(plan: Plan) -> Report:
    """Run a load test with its progress on stderr.

    Raises
    ------
    ConfigError
        It would take more requests than are kept.
    """
    if plan.rate_rps * (plan.duration_s + plan.warm_up_s) > MAX_REQUESTS:
        raise ConfigError(f"more than {MAX_REQUESTS:,} requests; lower --rate or --duration")
    with _Shown(messages()) as listener:
        return asyncio.run(run_load(plan, listener))


def show(report: Report) -> None:
    """Write the verdict and the figures to stderr."""
    console = messages()
    figures = report.figures
    timeout_s = report.plan.tier.timeout_s
    lines = [
        f"offered {figures.offered_rps:.2f}, achieved {figures.achieved_rps:.2f}, good "
        f"{figures.goodput_rps:.2f} requests a second; {figures.n_good} of {figures.n_scheduled} "
        f"valid within {timeout_s:g} s",
        f"latency: {_spread(figures.latency)}",
    ]
    if figures.queue is not None:
        lines.append(f"of it, says the backend, in its queue: {_spread(figures.queue)}")
    if figures.inference is not None:
        lines.append(f"and computing: {_spread(figures.inference)}")
    if figures.errors:
        told = ", ".join(f"{code} {n}" for code, n in figures.errors.items())
        lines.append(f"errors: {told}")
    if report.knee is not None:
        most = report.knee.max_good_rps
        lines.append(f"highest good rate: {'none' if most is None else f'{most:.3g} a second'}")
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"{report.verdict}: {fault}" for fault in figures.faults]
    if figures.is_pass:
        lines.append(f"PASS: serves {report.plan.tier.name} at this rate")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


class _Shown(Listener):
    """Shows progress on a console; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[bad]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._n_bad = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def says(self, message: str) -> None:
        """Print a line above the bar."""
        self._console.print(message, markup=False, soft_wrap=True)

    def begins(self, name: str, n_requests: int) -> None:
        """Put a bar of its own for a run in the place of the last."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        if not self._console.is_terminal:
            self.says(f"{n_requests} requests, {name}")
        self._n_bad = 0
        self._task = self._progress.add_task(name, total=n_requests, bad="")

    def ends(self, outcome: Outcome) -> None:
        """Move the bar."""
        if self._task is None:
            return
        self._n_bad += not outcome.is_good
        self._progress.update(
            self._task, advance=1, bad=f"{self._n_bad} failed" if self._n_bad else ""
        )


def _path(path: str | None) -> str | None:
    if path is not None and not (path.startswith("/") and path.isascii() and path.isprintable()):
        raise ConfigError(f"--api_path must begin with / and be plain ASCII, got {path!r}")
    return path


def _header(value: str | None) -> str | None:
    if value is not None and not (value.isascii() and value.isprintable()):
        raise ConfigError("--accept must be plain ASCII on one line")
    return value


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "no reply"
    return (
        f"p50 {spread.p50_s:.3f}, p90 {spread.p90_s:.3f}, p95 {spread.p95_s:.3f}, "
        f"p99 {spread.p99_s:.3f}, most {spread.max_s:.3f} s"
    )
