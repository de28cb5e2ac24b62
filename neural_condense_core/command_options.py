"""Options that several command lines share, each with one help text.

Where it sits: what serves (the backend, the gateway), what tries a backend (``bench``,
``loadtest``) and what condenses by itself (``ask``, ``condense``) build their commands with these;
what only one of them has stays there.

Design decisions

* An alias says name and help; the default is the command's own.
* Names are spelt with ``_``, as those of the specification are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from neural_condense_core.constants import TIERS, TierConfig, load_tiers
from neural_condense_core.errors import UnknownNameError
from neural_condense_core.registry import suggest

Host: TypeAlias = Annotated[
    str, typer.Option("--host", help="Address to listen on; 0.0.0.0 = all.")
]
Port: TypeAlias = Annotated[
    int, typer.Option("--port", help="Port to listen on; 0 = any free one.")
]
Device: TypeAlias = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1.")]
Dtype: TypeAlias = Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.")]
RefineSteps: TypeAlias = Annotated[
    int | None,
    typer.Option("--refine_steps", help="Gradient steps that improve the condensed tokens."),
]
RefineMs: TypeAlias = Annotated[
    float | None,
    typer.Option("--refine_ms", help="Milliseconds for such steps, instead of a number."),
]

BackendUrl: TypeAlias = Annotated[
    str, typer.Option("--url", help="The backend, http://127.0.0.1:8080 for example.")
]
TierName: TypeAlias = Annotated[
    str, typer.Option("--tier", help=f"One of {', '.join(TIERS)}, or of --tiers.")
]
TiersFile: TypeAlias = Annotated[Path | None, typer.Option("--tiers", help="TOML file with tiers.")]
JsonPath: TypeAlias = Annotated[
    str | None,
    typer.Option("--json", metavar="PATH", help="Write the result as JSON; - = stdout."),
]
TextSource: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--texts",
        help="generated, installed, a parquet file or hf:NAME; default: both first.",
    ),
]


def spelt(name: str, text: str) -> typer.models.OptionInfo:
    """Return an option that is spelt with ``_`` and, for those used to it, with ``-``.

    Parameters
    ----------
    name : with ``_``
    text : for ``--help``
    """
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    option: typer.models.OptionInfo = typer.Option(*spellings, help=text)
    return option


def named_tier(name: str, path: Path | None) -> TierConfig:
    """Return a tier by its name.

    Parameters
    ----------
    name : as given
    path : file of ``--tiers``; None = the specification's own

    Raises
    ------
    UnknownNameError
        There is none; the message names the nearest.
    """
    tiers = TIERS if path is None else load_tiers(path)
    if name not in tiers:
        raise UnknownNameError(
            f"unknown tier {name!r}.{suggest(name, tiers)} Known: {', '.join(tiers)}"
        )
    return tiers[name]
