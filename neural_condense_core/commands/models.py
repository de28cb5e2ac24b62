"""``condense models``: the trained condensers that ship, from their own ``config.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from neural_condense_core.console import check_writable, messages, write_json

if TYPE_CHECKING:
    from rich.table import Table


def shipped_models() -> list[dict[str, Any]]:
    """Return what ships, one JSON-ready dictionary a checkpoint, sorted by name."""
    from neural_condense_core.condensers.checkpoints import SHIPPED, read_config, shipped_names

    found = []
    for name in shipped_names():
        folder = SHIPPED / name
        config = read_config(folder)
        found.append({
            "name": name,
            "method": config.method,
            "target_model": config.target_model,
            "hidden_size": config.hidden_size,
            "ratios": list(config.ratios),
            "licence": config.licence,
            "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
            "measured": config.measured,
        })
    return found


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


def _table(models: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(title="Trained condensers that ship")
    for column in ("name", "target model", "ratios", "licence", "size", "content recovery C"):
        table.add_column(column, overflow="fold")
    for model in models:
        recoveries = content_recoveries(model["measured"])
        table.add_row(
            model["name"],
            model["target_model"],
            " ".join(f"{ratio}x" for ratio in model["ratios"]),
            model["licence"] or "not stated",
            f"{model['bytes'] / 1e6:.1f} MB",
            "\n".join(f"{where}: {value:.2f}" for where, value in recoveries.items())
            or "not measured",
        )
    return table


def models(
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="List as JSON; - is stdout.")
    ] = None,
) -> None:
    """List the condensers that ship."""
    check_writable(json_path)
    found = shipped_models()
    if found:
        messages().print(_table(found))
    else:
        messages().print(
            "No trained condenser ships with this installation; train one with "
            "'condense train runs/NAME.toml' and give its folder as --condenser.",
            markup=False,
            soft_wrap=True,
        )
    write_json(json_path, {"schema": 1, "models": found})
