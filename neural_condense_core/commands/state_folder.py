"""Find the folder in which a validator on this machine keeps its state."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from neural_condense_core.config import default_state_dir
from neural_condense_core.errors import ConfigError
from neural_condense_core.records import FILE_NAME
from neural_condense_core.validator.checks import LOCK_FILE

StateFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="CONDENSE_STATE_DIR",
        help="Folder of a validator's state, or above it; default: the user's.",
    ),
]

_BELOW = ("", "*/", "*/*/", "*/*/*/")


def find_state(folder: Path | None) -> Path:
    """Return the one folder of a validator's state.

    Parameters
    ----------
    folder : that folder or one above it; None = where nodes put it

    Raises
    ------
    ConfigError
        There is none, or more than one.
    """
    root = folder or default_state_dir()
    names = (FILE_NAME, LOCK_FILE)
    found = {path.parent for below in _BELOW for name in names for path in root.glob(below + name)}
    if len(found) == 1:
        return found.pop()
    if found:
        listed = "\n".join(sorted(map(str, found)))
        raise ConfigError(f"several validators keep state there; name one by --state:\n{listed}")
    raise ConfigError(
        f"no validator has kept state under {root}; start one, or name its folder by --state"
    )
