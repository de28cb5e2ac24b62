"""``condense up``: a whole subnet on this machine, until Ctrl-C.

Design decisions

* Its folder outlives it: started again it goes on, with the same wallets, ratings and chain.
* Whoever wants to join sets the variables that it prints and types the lines of the documentation.
* Rounds come at leisure, so that the processor is free for whoever develops a miner on it.
"""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from neural_condense_core.config import default_state_dir
from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.demo.flow import ROOT, package_environment
from neural_condense_core.demo.leaderboard import render_subnet
from neural_condense_core.demo.narration import Narrator
from neural_condense_core.demo.nodes import SCORING, backend_name
from neural_condense_core.demo.plan import (
    DEFAULT_MINERS,
    NETUID,
    SubnetPlan,
    parse_commands,
    parse_miners,
)
from neural_condense_core.demo.subnet import LocalSubnet
from neural_condense_core.demo.world import CHAIN_FILE, VALIDATOR
from neural_condense_core.errors import ConfigError
from neural_condense_core.signals import Interrupted, StopSignals

FOLDER = "local-subnet"
POLL_S = 1.0
SHOW_EVERY_S = 30.0


def up(
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Where everything is kept; default: the user's data folder."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Lose what the folder holds and begin anew.")
    ] = False,
    miner: Annotated[
        list[str] | None,
        typer.Option(
            "--miner", help=f"TIER=CONDENSER; repeatable; default {' '.join(DEFAULT_MINERS)}."
        ),
    ] = None,
    netuid: Annotated[int, typer.Option("--netuid", min=1, help="The subnet.")] = NETUID,
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="First port; taken ones are passed.")
    ] = 8080,
    gate_port: Annotated[
        int, typer.Option("--gate_port", min=1, max=65535, help="Of the organic API.")
    ] = 9000,
    ask_interval: Annotated[
        float, typer.Option("--ask_interval", min=0, help="Least seconds between a miner's rounds.")
    ] = 60.0,
    target_model: Annotated[
        str | None, typer.Option("--target_model", help="The LLM; default: the embedded one.")
    ] = None,
    ready_timeout: Annotated[
        float, typer.Option("--ready_timeout", min=1, help="Seconds a group may take to start.")
    ] = 300.0,
    miner_backend: Annotated[
        list[str] | None,
        typer.Option("--miner_backend", hidden=True, help="CONDENSER=COMMAND with {port}."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", hidden=True, help="COMMAND with {port}.")
    ] = None,
    json_path: Annotated[
        str | None,
        typer.Option("--json", metavar="PATH|-", help="Addresses, once it runs; - is stdout."),
    ] = None,
) -> None:
    """Run a whole subnet on this machine until Ctrl-C.

    Raises
    ------
    Exit
        With 1 where it did not start, or its validator or scoring service has ended.
    """
    check_writable(json_path)
    if target_model is not None and Path(target_model).is_dir():
        target_model = str(Path(target_model).resolve())  # processes start in another folder
    plan = SubnetPlan(
        parse_miners(miner or []),
        netuid=netuid,
        target_model=target_model,
        n_rounds=0,
        ask_interval_s=ask_interval,
        first_port=port,
        gate_port=gate_port,
        ready_timeout_s=ready_timeout,
        backends=parse_commands("--miner_backend", miner_backend or []),
        judge=None if judge is None else tuple(shlex.split(judge)),
    )
    place = (folder or default_state_dir() / FOLDER).expanduser().resolve()
    if fresh:
        _clear(place)
    console = messages()
    narrator = Narrator(console, {})
    try:
        with (
            StopSignals(),
            LocalSubnet(plan, place, ROOT, package_environment(), narrator) as subnet,
        ):
            subnet.prepare([])
            if subnet.start():
                write_json(json_path, facts(subnet))
                _tell(subnet, narrator)
                _follow(subnet, narrator)
    except Interrupted as stop:
        console.print("Stopped; no process is left running.")
        raise typer.Exit(0) from stop
    raise typer.Exit(1)


def facts(subnet: LocalSubnet) -> dict[str, Any]:
    """Return where everybody is, JSON-ready.

    Parameters
    ----------
    subnet : started
    """
    return {
        "schema": 1,
        "netuid": subnet.plan.netuid,
        "folder": str(subnet.world.folder),
        "environment": subnet.world.exports(),
        "validator": {"hotkey": subnet.hotkeys[VALIDATOR], "url": subnet.url(VALIDATOR)},
        "scoring": subnet.url(SCORING),
        "miners": [
            {
                **asdict(each),
                "hotkey": subnet.hotkeys[each.name],
                "url": subnet.url(each.name),
                "backend": subnet.url(backend_name(each.condenser)),
            }
            for each in subnet.plan.miners
            if each.name in subnet.running
        ],
    }


def _clear(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CHAIN_FILE).is_file():
        raise ConfigError(f"{folder} holds no subnet of 'condense up', so --fresh leaves it alone")
    try:
        shutil.rmtree(folder, ignore_errors=not folder.exists())
    except OSError as error:
        raise ConfigError(f"cannot remove {folder}: {error.strerror}") from error


def _tell(subnet: LocalSubnet, narrator: Narrator) -> None:
    narrator.say(f"The subnet runs; its organic API is at {subnet.url(VALIDATOR)}")
    narrator.say(f"What every process prints is in {subnet.world.folder / 'logs'}")
    narrator.say("With the variables above set: condense dev show; condense keys add ME;")
    narrator.say("condense explain --uid 2. Ctrl-C stops everything.")


def _follow(subnet: LocalSubnet, narrator: Narrator) -> None:
    """Show the leaderboard after rounds, until a process ends without which there are none."""
    shown_at, shown = 0.0, 0
    while {VALIDATOR, SCORING} <= subnet.running.keys():
        for name, why in subnet.ended().items():
            narrator.fail(name, why)
        if time.monotonic() - shown_at >= SHOW_EVERY_S:
            report = subnet.read()
            n_rounds = sum(report.rounds.values())
            if n_rounds > shown:
                narrator.console.print(render_subnet(report))
                shown = n_rounds
            shown_at = time.monotonic()
        time.sleep(POLL_S)
