"""``condense dashboard``: a page over a validator's records."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from neural_condense_core.commands.state_folder import StateFolder, find_state
from neural_condense_core.dashboard.server import run
from neural_condense_core.records import FILE_NAME


def dashboard(
    state: StateFolder = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="Port; 0 = any free one.")
    ] = 8110,
) -> None:
    """Show a validator's miners, rounds and weights as a page, live, until Ctrl-C."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("neural_condense_core").setLevel(logging.INFO)
    run(find_state(state) / FILE_NAME, host, port)
