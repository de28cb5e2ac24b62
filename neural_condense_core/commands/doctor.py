"""``condense doctor``: checks that everything is here, and what this device is fast enough for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from neural_condense_core.commands import checks
from neural_condense_core.commands.checks import Check
from neural_condense_core.console import check_writable, messages, write_json

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def examine(condenser: str | None, ratio: float) -> Iterator[Check]:
    """Yield all checks, the quick ones first.

    Parameters
    ----------
    condenser : to load and to time; None = all that ship
    ratio : compression ratio for the timing
    """
    from neural_condense_core.demo.processes import is_free

    yield checks.check_python()
    packages = checks.check_packages()
    yield packages
    yield from checks.check_ports(is_free)
    if packages.status == "fail":
        return
    from neural_condense_core.llm import embedded

    device = checks.check_device()
    yield device
    yield checks.check_target_model(embedded.is_cached)
    if device.status != "fail":
        on = "cuda" if device.figures["devices"] != ["cpu"] else "cpu"
        yield from _examine_condensers(condenser, ratio, on)


def _examine_condensers(condenser: str | None, ratio: float, device: str) -> Iterator[Check]:
    from neural_condense_core.condensers.base import Condenser
    from neural_condense_core.condensers.checkpoints import load_condenser, shipped_names
    from neural_condense_core.demo.document import shipped
    from neural_condense_core.llm import embedded

    names = [condenser] if condenser else shipped_names()
    if not names:
        advice = "train one ('condense train'), and give its folder with --condenser"
        yield Check("checkpoints", "warn", "no trained condenser ships here", advice)
        return
    loaded: list[Condenser] = []

    def load(name: str) -> Condenser:
        return load_condenser(name, device=device)

    for name in names:
        if _wants_embedded(name) and not embedded.is_cached():
            advice = "run 'condense demo' or 'condense ask' once, then the doctor again"
            yield Check(f"checkpoint {name}", "warn", "not tried: no target model yet", advice)
            continue
        check, found = checks.check_checkpoint(name, load)
        yield check
        if found is not None:
            loaded.append(found)
    for each in loaded:
        yield from checks.check_speed(each, device, shipped().text, ratio)


def _wants_embedded(name: str) -> bool:
    """Return whether loading a condenser by name would load the embedded target model."""
    from neural_condense_core.condensers.checkpoints import read_config, resolve
    from neural_condense_core.errors import ConfigError
    from neural_condense_core.llm.embedded import NAME

    try:
        _, folder = resolve(name)
        return folder is None or read_config(folder).target_model == NAME
    except ConfigError:  # what is wrong is said when it is loaded
        return False


def doctor(
    condenser: Annotated[
        str | None,
        typer.Option("--condenser", help="Load and time this one; default: those that ship."),
    ] = None,
    ratio: Annotated[
        float, typer.Option("--ratio", min=1, help="Context tokens per condensed token.")
    ] = 4.0,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Checks as JSON; - is stdout.")
    ] = None,
) -> None:
    """Check this installation and this device.

    Raises
    ------
    Exit
        With 1 where a check failed.
    """
    check_writable(json_path)
    console = messages()
    found = []
    for check in examine(condenser, ratio):
        _print(console, check)
        found.append(check)
    ok = all(check.status != "fail" for check in found)
    write_json(json_path, {"schema": 1, "ok": ok, "checks": [asdict(check) for check in found]})
    if not ok:
        raise typer.Exit(1)


def _print(console: Console, check: Check) -> None:
    mark = f"[{STYLES[check.status]}]{check.status:<4}[/]"
    console.print(f"{mark} {escape(check.name)}: {escape(check.message)}", soft_wrap=True)
    if check.advice:
        console.print(f"     {check.advice}", style="dim", markup=False, soft_wrap=True)
