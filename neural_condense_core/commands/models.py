"""``condense models``: the trained condensers that ship, and those that can be pulled.

``condense models`` lists; ``pull`` fetches one, ``check`` compares its files with what was
fetched, ``rm`` removes it. Nothing is ever fetched unless ``pull`` is typed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neural_condense_core.console import check_writable, messages, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from neural_condense_core.commands.pulling import Plan

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
JsonPath = Annotated[
    str | None, typer.Option("--json", metavar="PATH|-", help="Result as JSON; - is stdout.")
]


def shipped_models() -> list[dict[str, Any]]:
    """Return what ships, one JSON-ready dictionary a checkpoint, sorted by name."""
    from neural_condense_core.condensers.checkpoints import SHIPPED, shipped_names

    return [
        {**_model(SHIPPED / name, name), "origin": "shipped", "verified": True, "checked": ""}
        for name in shipped_names()
    ]


def pulled_models() -> list[dict[str, Any]]:
    """Return what was pulled, one JSON-ready dictionary a checkpoint, sorted by name."""
    from neural_condense_core.condensers.checkpoints import WEIGHTS_FILE
    from neural_condense_core.condensers.installed import (
        NESTED,
        OWN_TARGET,
        installed_folder,
        installed_names,
        read_record,
    )

    found = []
    for name in installed_names():
        folder = installed_folder(name)
        record = read_record(folder)
        model = _model(folder, name)
        if model["target_model"] == OWN_TARGET:
            model["target_model"] = str(folder / OWN_TARGET)
        of_others = (folder / NESTED).is_dir() or WEIGHTS_FILE not in record.files
        found.append({
            **model,
            **_checked(model["method"], of_others=of_others),
            "bytes": sum(record.sizes.values()),
            "origin": "pulled",
            "source": record.source,
            "revision": record.revision,
            "sha256": dict(record.files),
        })
    return found


def published_models() -> list[dict[str, Any]]:
    """Return the published condensers that are known, as they can be pulled."""
    from neural_condense_core.condensers.published import KNOWN

    return [
        {
            "name": entry.repo,
            "method": entry.method,
            "target_model": entry.target_model,
            "ratios": list(entry.ratios),
            "licence": entry.licence,
            "gigabytes": entry.gigabytes,
            **_checked(entry.method, of_others=True),
        }
        for entry in KNOWN
    ]


def _checked(method: str, *, of_others: bool) -> dict[str, Any]:
    from neural_condense_core.condensers.published import UNVERIFIED, VERIFIED

    if not of_others:
        return {"verified": False, "checked": "trained elsewhere; measure it with condense eval"}
    return {"verified": method in VERIFIED, "checked": VERIFIED.get(method, UNVERIFIED)}


def _model(folder: Path, name: str) -> dict[str, Any]:
    from neural_condense_core.condensers.checkpoints import read_config

    config = read_config(folder)
    return {
        "name": name,
        "method": config.method,
        "target_model": config.target_model,
        "hidden_size": config.hidden_size,
        "ratios": list(config.ratios),
        "licence": config.licence,
        "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        "measured": config.measured,
    }


def content_recoveries(measured: dict[str, Any], trail: str = "") -> dict[str, float]:
    """Return every content recovery in a checkpoint's figures, with the keys that lead to it.

    Parameters
    ----------
    measured : figures of a checkpoint, nested as its evaluation wrote them
    trail : keys above
    """
    found: dict[str, float] = {}
    for key, value in measured.items():
        if key == "content_recovery" and isinstance(value, int | float):
            found[trail or key] = float(value)
        elif isinstance(value, dict):
            found |= content_recoveries(value, f"{trail} {key}".strip())
    return found


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _ratios(model: dict[str, Any]) -> str:
    return " ".join(f"{ratio}x" for ratio in model["ratios"])


def _shipped_table(models: list[dict[str, Any]]) -> Table:
    columns = ("name", "target model", "ratios", "licence", "size", "content recovery C")
    table = _table("Trained condensers that ship", *columns)
    for model in models:
        recoveries = content_recoveries(model["measured"])
        table.add_row(
            model["name"],
            model["target_model"],
            _ratios(model),
            model["licence"] or "not stated",
            f"{model['bytes'] / 1e6:.1f} MB",
            "\n".join(f"{where}: {value:.2f}" for where, value in recoveries.items())
            or "not measured",
        )
    return table


def _pulled_table(models: list[dict[str, Any]]) -> Table:
    table = _table("Pulled", "name", "target model", "ratios", "from", "status")
    for model in models:
        revision = f"@{model['revision'][:12]}" if model["revision"] else ""
        table.add_row(
            model["name"],
            model["target_model"] or "not stated: give --target",
            _ratios(model),
            f"{model['source']}{revision}, {model['bytes'] / 1e6:.1f} MB",
            _status(model),
        )
    return table


def _published_table(models: list[dict[str, Any]]) -> Table:
    title = "Published condensers: condense models pull NAME"
    table = _table(title, "name", "target model", "ratios", "size", "status")
    table.columns[0].no_wrap = True
    for model in models:
        table.add_row(
            model["name"],
            model["target_model"] or "its own, pulled with it",
            _ratios(model),
            f"{model['gigabytes']:g} GB",
            _status(model),
        )
    return table


def _status(model: dict[str, Any]) -> str:
    return "verified" if model["verified"] else "unverified"


def _footnotes(models: list[dict[str, Any]]) -> list[str]:
    """Return what verified and unverified mean for the methods that are shown."""
    reasons: dict[str, list[str]] = {}
    for model in models:
        methods = reasons.setdefault(f"{_status(model)}: {model['checked']}", [])
        if model["method"] not in methods:
            methods.append(model["method"])
    return [f"{', '.join(methods)} {reason}" for reason, methods in reasons.items()]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, json_path: JsonPath = None) -> None:
    """List the condensers that ship."""
    if context.invoked_subcommand is not None:
        return
    check_writable(json_path)
    shipped, pulled, published = shipped_models(), pulled_models(), published_models()
    console = messages()
    if shipped:
        console.print(_shipped_table(shipped))
    else:
        console.print(
            "No trained condenser ships with this installation; train one with "
            "'condense train runs/NAME.toml' and give its folder as --condenser.",
            markup=False,
            soft_wrap=True,
        )
    if pulled:
        console.print(_pulled_table(pulled))
    console.print(_published_table(published))
    for line in _footnotes([*pulled, *published]):
        console.print(line, markup=False, soft_wrap=True)
    write_json(json_path, {"schema": 1, "models": [*shipped, *pulled], "published": published})


@app.command()
def pull(
    source: Annotated[str, typer.Argument(metavar="NAME[@REV]|PATH", help="On the hub, or here.")],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call it; default: its last part.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Its target model, where nothing says it.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="NAME[@REV]|PATH", help="Of its encoder, if apart."),
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", help="Fetch this file only; may be repeated.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    max_gb: Annotated[float, typer.Option("--max_gb", min=0, help="Fetch no more, GB.")] = 40.0,
    dry_run: Annotated[bool, typer.Option("--dry_run", help="List, fetch nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace one of that name.")] = False,
    json_path: JsonPath = None,
) -> None:
    """Fetch a published condenser into the cache: safetensors only, checked, never by itself."""
    check_writable(json_path)
    from neural_condense_core.commands import pulling

    request = pulling.Request(
        source=source,
        name=name,
        target_model=target,
        tokenizer=tokenizer,
        files=tuple(file or ()),
        settings=tuple(pulling.parse_setting(text) for text in setting or ()),
        max_gigabytes=max_gb,
        replace=force,
    )
    found = pulling.plan(request)
    console = messages()
    console.print(_plan_table(found))
    if found.skipped:
        names = ", ".join(listed.path for listed in found.skipped[:8])
        more = " ..." if len(found.skipped) > 8 else ""
        console.print(f"Not fetched: {names}{more}", markup=False, soft_wrap=True)
    if found.entry is not None:
        console.print(f"Licence of the weights, as stated: {found.entry.licence}", markup=False)
    if not dry_run:
        folder = pulling.install(
            found, told=lambda line: console.print(line, markup=False, soft_wrap=True)
        )
        console.print(
            f"Installed as {found.name} in {folder}; use it as --condenser {found.name}",
            markup=False,
            soft_wrap=True,
        )
    write_json(json_path, _plan_json(found, dry_run=dry_run))


def _plan_table(found: Plan) -> Table:
    total = sum(listed.size for listed in found.files)
    title = f"{found.source.name}, {total / 1e6:.1f} MB"
    table = _table(title, "file", "MB", "stated hash")
    for listed in found.files:
        stated = listed.sha256 or listed.git_sha1
        table.add_row(listed.path, f"{listed.size / 1e6:.1f}", stated[:16] or "none: recorded")
    return table


def _plan_json(found: Plan, *, dry_run: bool) -> dict[str, Any]:
    from neural_condense_core.condensers.installed import installed_folder, read_record

    record = {} if dry_run else dict(read_record(installed_folder(found.name)).files)
    return {
        "schema": 1,
        "name": found.name,
        "source": found.source.name,
        "revision": found.source.revision,
        "bytes": sum(listed.size for listed in found.files),
        "files": [listed.path for listed in found.files],
        "skipped": [listed.path for listed in found.skipped],
        "installed": not dry_run,
        "sha256": record,
    }


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Of a pulled condenser.")], json_path: JsonPath = None
) -> None:
    """Compare a pulled condenser's files with what was fetched."""
    check_writable(json_path)
    from neural_condense_core.condensers import installed

    record = installed.check(name)
    messages().print(f"{name}: {len(record.files)} files as fetched", markup=False, soft_wrap=True)
    write_json(json_path, {"schema": 1, "name": name, "files": dict(record.files)})


@app.command()
def rm(name: Annotated[str, typer.Argument(help="Of a pulled condenser.")]) -> None:
    """Remove a pulled condenser from the cache."""
    from neural_condense_core.condensers import installed

    folder = installed.remove(name)
    messages().print(f"Removed {folder}", markup=False, soft_wrap=True)
