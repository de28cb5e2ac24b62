"""``condense keys``: who may use a validator's organic API, or a gateway.

Both heed changes from the next request on. A validator's list is found by its state; any other, a
gateway's for example, is named by ``--file``.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.table import Table

from neural_condense_core.api_keys import DEFAULT_QUOTA, FILE_NAME, ApiUser, ApiUsers
from neural_condense_core.commands.state_folder import StateFolder, find_state
from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.errors import ConfigError

JsonPath: TypeAlias = Annotated[
    str | None, typer.Option("--json", metavar="PATH|-", help="The result as JSON; - is stdout.")
]

KeysFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--file", help="The list itself, a gateway's --keys for example; made by add."),
]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def keys() -> None:
    """Say who may use a validator's organic API, or a gateway."""


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose it is, for the list.")],
    hotkey: Annotated[
        str | None, typer.Option("--hotkey", help="Admit this hotkey instead of making a key.")
    ] = None,
    quota: Annotated[
        int, typer.Option("--quota", min=1, help="Requests a day (UTC).")
    ] = DEFAULT_QUOTA,
    state: StateFolder = None,
    file: KeysFile = None,
    json_path: JsonPath = None,
) -> None:
    """Make a key, which is shown this once, or admit a hotkey that signs."""
    check_writable(json_path)
    with _users(state, file) as users:
        if hotkey is None:
            user, token = users.add(name, quota)
        else:
            user, token = users.add_hotkey(hotkey, name, quota), ""
    shown = {"schema": 1, **_shown(user)} | ({"key": token} if token else {})
    write_json(json_path, shown)
    console = messages()
    console.print(f"{user.id}: {user.name}, {user.quota} requests a day", markup=False)
    if token and json_path is None:
        console.print("the key, shown this once; only its hash is kept:")
        typer.echo(token)


@app.command("list")
def list_keys(state: StateFolder = None, file: KeysFile = None, json_path: JsonPath = None) -> None:
    """List who may, and who may no more."""
    check_writable(json_path)
    with _users(state, file) as users:
        found = users.all()
    write_json(json_path, {"schema": 1, "keys": [_shown(user) for user in found]})
    if json_path is not None:
        return
    table = Table("id", "name", "takes", "requests a day", "made", "revoked")
    for user in found:
        table.add_row(
            user.id,
            user.name,
            user.hotkey or "a key",
            f"{user.quota:,}",
            _date(user.made_at),
            _date(user.revoked_at),
        )
    messages().print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As listed.")],
    state: StateFolder = None,
    file: KeysFile = None,
) -> None:
    """End somebody's access, from the next request on."""
    with _users(state, file) as users:
        users.revoke(key_id)
    messages().print(f"{key_id} is revoked", markup=False)


def _users(state: StateFolder, file: KeysFile) -> ApiUsers:
    if file is not None:
        return ApiUsers(file)
    if state is not None and not state.is_dir():
        raise ConfigError(f"there is no folder {state}")
    return ApiUsers(find_state(state) / FILE_NAME)


def _shown(user: ApiUser) -> dict[str, object]:
    return {**asdict(user), "revoked": user.revoked_at is not None}


def _date(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))
