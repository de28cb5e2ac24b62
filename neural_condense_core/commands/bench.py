"""``condense bench``: what a validator would give a backend, measured at home.

Where it sits: the validator's own challenges, checks, judge and score formula, run on any backend
that speaks the specification, before a hotkey is registered; then the tier's load test.

Design decisions

* Contexts and questions are the validator's (``scoring/challenges.py``), by seeds drawn anew unless
  one is given; the questions' after the replies.
* stdout belongs to ``--json -``, tables go to stderr; exit 1: a validator would pay little.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neural_condense_core.command_options import (
    BackendUrl,
    Device,
    Dtype,
    JsonPath,
    TextSource,
    TierName,
    TiersFile,
    named_tier,
)
from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import ConfigError, NeuralCondenseError

if TYPE_CHECKING:
    from neural_condense_core.client.backend import BackendClient
    from neural_condense_core.condensers.base import Condenser
    from neural_condense_core.loadtest.plan import Report
    from neural_condense_core.scoring.bench import Result


@dataclass(frozen=True)
class Options:
    """A checked command line; fields as the flags of the same name."""

    url: str
    tier: TierConfig
    contexts: int
    seed: int
    texts: str | None
    target_model: str | None
    api_path: str
    device: str
    dtype: str
    quick: bool
    load_seconds: float


def bench(
    url: BackendUrl,
    tier: TierName,
    json: JsonPath = None,
    contexts: Annotated[int, typer.Option(min=2, max=256, help="Texts to condense.")] = 4,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Same seed, same challenges; default: a new one.")
    ] = None,
    texts: TextSource = None,
    target_model: Annotated[
        str | None,
        typer.Option("--target_model", help="Model that reads; default: what the backend serves."),
    ] = None,
    api_path: Annotated[
        str, typer.Option("--api_path", help="Path of the condensing route.")
    ] = "/condense",
    tiers: TiersFile = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer methods beside; several times faster.")
    ] = False,
    load_seconds: Annotated[
        float,
        typer.Option("--load_seconds", min=0, max=86_400, help="Load test after it; 0 = none."),
    ] = 60.0,
    device: Device = "cpu",
    dtype: Dtype = "auto",
) -> None:
    """Score a backend as a validator would.

    Raises
    ------
    Exit
        It falls short: status 1.
    """
    check_writable(json)
    options = Options(
        url=url,
        tier=named_tier(tier, tiers),
        contexts=contexts,
        seed=secrets.randbelow(1 << 62) if seed is None else seed,
        texts=texts,
        target_model=target_model,
        api_path=api_path,
        device=device,
        dtype=dtype,
        quick=quick,
        load_seconds=load_seconds,
    )
    result = run(options)
    _show(options, result)
    load = run_load_test(options, result.target_model) if options.load_seconds else None
    write_json(json, as_json(options, result, load))
    if _faults(result, load):
        raise typer.Exit(1)


def run(options: Options) -> Result:
    """Have the backend condense the challenges, judge it, and rank it."""
    from neural_condense_core.client.backend import BackendClient
    from neural_condense_core.llm.hf import load_target
    from neural_condense_core.scoring.bench import assess, collect
    from neural_condense_core.scoring.challenges import ask, make_contexts
    from neural_condense_core.scoring.checks import EmbeddingTable
    from neural_condense_core.scoring.service import ScoringService, ServiceConfig
    from neural_condense_core.scoring.texts import open_texts

    drafts = make_contexts(
        options.seed, options.contexts, options.tier.max_context_chars, open_texts(options.texts)
    )
    with BackendClient(
        options.url, api_path=options.api_path, timeout_s=options.tier.timeout_s, max_retries=0
    ) as client:
        name = options.target_model or _served(client)
    messages().print(f"judging by {name}", markup=False)
    target = load_target(name, options.device, options.dtype)
    service = ScoringService(
        target,
        EmbeddingTable(target),
        config=ServiceConfig(options.tier.max_condensed_tokens, refuse_copies=False),
    )
    with BackendClient(
        options.url,
        api_path=options.api_path,
        timeout_s=options.tier.timeout_s,
        max_retries=0,
        count_tokens=lambda text: len(target.tokenize(text)),
    ) as client:
        messages().print(f"{len(drafts)} contexts to {options.url}", markup=False)
        replies = collect(client, drafts, options.tier, name)
    # Only now, as a validator does: what is asked depends on a seed drawn after the replies.
    challenges = ask(drafts, options.seed + 1)
    methods = _methods(options, target.name)
    messages().print(f"judging it beside {', '.join(methods)}", markup=False)
    return assess(service, options.tier, options.seed, challenges, replies, methods)


def run_load_test(options: Options, target_model: str) -> Report:
    """Send the tier's requests at the rate of one validator, and show what comes of it."""
    from neural_condense_core.loadtest.arrivals import tier_rate
    from neural_condense_core.loadtest.cli import measure, show
    from neural_condense_core.loadtest.plan import Plan

    found = measure(
        Plan(
            url=options.url,
            tier=options.tier,
            rate_rps=tier_rate(options.tier, 1),
            # Other texts than those that were judged: a cache of answers has seen these.
            seed=options.seed + 2,
            api_path=options.api_path,
            duration_s=max(options.load_seconds, 1.0),
            texts=options.texts,
            target_model=target_model,
        )
    )
    show(found)
    return found


def _faults(result: Result, load: Report | None) -> list[str]:
    found = [] if load is None else [f"load test: {fault}" for fault in load.figures.faults]
    return [*result.faults, *found]


def _methods(options: Options, target_model: str) -> dict[str, Condenser]:
    """Load what the backend is compared with: what ships for this model, and the baselines."""
    from neural_condense_core.condensers.checkpoints import (
        SHIPPED,
        load_condenser,
        read_config,
        shipped_names,
    )
    from neural_condense_core.condensers.registry import BASELINES
    from neural_condense_core.scoring.settings import CPU_BASELINES

    shipped = [
        name for name in shipped_names() if read_config(SHIPPED / name).target_model == target_model
    ]
    names = [*([] if options.quick else shipped), *(CPU_BASELINES if options.quick else BASELINES)]
    return {
        name: load_condenser(name, target_model, device=options.device, dtype=options.dtype)
        for name in names
    }


def _served(client: BackendClient) -> str:
    """Return the target model that a backend names.

    Raises
    ------
    NeuralCondenseError
        It cannot be reached, or names none, as backends written by others may.
    """
    from neural_condense_core.client.async_client import UNREACHABLE

    try:
        return client.info().target_model
    except NeuralCondenseError as error:
        if error.detail.get("reason") != UNREACHABLE:
            error = ConfigError(
                "the backend does not say which model it condenses for; give --target_model"
            )
        raise error from None


def as_json(options: Options, result: Result, load: Report | None) -> dict[str, Any]:
    """Return the result as JSON-ready values."""
    faults = _faults(result, load)
    return {
        "schema": 1,
        "url": options.url,
        "tier": options.tier.name,
        "tier_target_model": options.tier.target_model,
        "target_model": result.target_model,
        "seed": options.seed,
        "n_contexts": options.contexts,
        "passed": not faults,
        "faults": faults,
        "score": result.score,
        "content_recovery": result.miner.content_recovery,
        "recovery": result.miner.recovery,
        "n_items": result.miner.n_items,
        "tasks": {name: task.model_dump() for name, task in result.miner.tasks.items()},
        "replies": [
            {
                "code": reply.code,
                "elapsed_s": reply.elapsed_s,
                "n_condensed": None if reply.tokens is None else reply.tokens.n_condensed_tokens,
                "n_context": None if reply.tokens is None else reply.tokens.n_context_tokens,
            }
            for reply in result.replies
        ],
        "rank": result.rank,
        "ranking": [
            {
                "name": each.name,
                "kind": each.kind,
                "content_recovery": each.content_recovery,
                "recovery": each.recovery,
            }
            for each in result.standings
        ],
        "load": None if load is None else load.as_json(),
    }


def _show(options: Options, result: Result) -> None:
    from rich.table import Table

    from neural_condense_core.scoring.bench import SUBJECT

    console = messages()
    ranking = Table(title=f"{options.tier.name}: {options.contexts} contexts, one model reads all")
    for column in ("method", "C", "R"):
        ranking.add_column(column, justify="left" if column == "method" else "right")
    for each in result.standings:
        style = "bold" if each.kind == SUBJECT else None
        values = (_figure(each.content_recovery), _figure(each.recovery))
        ranking.add_row(each.name, *values, style=style)
    console.print(ranking)
    tasks = Table(title="The backend by task")
    for column in ("task", "C", "R", "items"):
        tasks.add_column(column, justify="left" if column == "task" else "right")
    for name, task in sorted(result.miner.tasks.items()):
        tasks.add_row(name, _figure(task.content_recovery), _figure(task.recovery), str(task.n))
    console.print(tasks)
    slowest_s = max(reply.elapsed_s for reply in result.replies)
    console.print(
        f"expected score S {result.score:.3f}; rank {result.rank} of {len(result.standings)} by C; "
        f"slowest reply {slowest_s:.2f} s of {options.tier.timeout_s:g} s",
        soft_wrap=True,
    )
    if options.tier.target_model != result.target_model:
        console.print(
            f"note: on other networks than dev the tier asks for {options.tier.target_model}",
            markup=False,
            soft_wrap=True,
        )
    for fault in result.faults or ["it would earn: nothing falls short"]:
        console.print(f"{'FALLS SHORT: ' if result.faults else ''}{fault}", soft_wrap=True)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
