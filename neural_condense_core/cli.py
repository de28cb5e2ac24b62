"""The ``condense`` command: names of sub-commands, and the one place that reports errors.

Design decisions

* A sub-command's module is imported when that command runs, so ``condense --help`` needs neither
  torch nor a web framework; the table below holds the one-line helps.
* A NeuralCondenseError becomes its message and its exit code here and nowhere else: 0 good, 1 the
  thing measured fell short, 2 usage or configuration, 3 something needed cannot be reached.
* Long options may be spelt with ``_`` or ``-``.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from neural_condense_core.console import messages
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.registry import import_target


@dataclass(frozen=True)
class Entry:
    """A sub-command.

    Parameters
    ----------
    target : ``"module:function"``
    help : first line of the function's docstring
    group : ``"module:app"`` of a command that has sub-commands of its own, else empty
    """

    target: str
    help: str
    group: str = ""


_PACKAGE = "neural_condense_core"
_SECTION = re.compile(r"^\w[\w ]*\n-{3,}$", re.MULTILINE)

COMMANDS = {
    "text": Entry(f"{_PACKAGE}.commands.condense:text", "Condense a text into a safetensors file."),
    "ask": Entry(
        f"{_PACKAGE}.commands.ask:ask", "Ask a question about a text, from its condensed tokens."
    ),
    "eval": Entry(
        f"{_PACKAGE}.evaluation.cli:evaluate",
        "Measure condensers beside every training-free baseline at equal length.",
    ),
    "train": Entry(f"{_PACKAGE}.training.cli:train", "Train a condenser from a recipe."),
    "pack": Entry(
        f"{_PACKAGE}.training.cli:pack",
        "Tokenise texts and questions for a recipe, once, into a folder that trains fast.",
    ),
    "serve": Entry(
        f"{_PACKAGE}.serving.cli:serve",
        "Serve a condenser over HTTP; its GET /openapi.json describes the routes.",
    ),
    "corpus": Entry(
        f"{_PACKAGE}.corpus.cli:corpus",
        "Condense a parquet file of texts in bulk; the same line goes on after a kill.",
    ),
    "gateway": Entry(
        f"{_PACKAGE}.gateway.cli:gateway",
        "Serve OpenAI's API in front of a model that reads long texts condensed.",
    ),
    "models": Entry(
        f"{_PACKAGE}.commands.models:models",
        "List the condensers that ship.",
        group=f"{_PACKAGE}.commands.models:app",
    ),
    "demo": Entry(
        f"{_PACKAGE}.demo.cli:demo",
        "Condense a document over HTTP, ask an LLM about it, then play a whole subnet.",
    ),
    "up": Entry(f"{_PACKAGE}.demo.up:up", "Run a whole subnet on this machine until Ctrl-C."),
    "register": Entry(
        f"{_PACKAGE}.commands.register:register",
        "Register a hotkey on a subnet, paid by its coldkey.",
    ),
    "dev": Entry(
        f"{_PACKAGE}.commands.dev:dev",
        "Run a development chain: one file, no node.",
        group=f"{_PACKAGE}.commands.dev:app",
    ),
    "explain": Entry(
        f"{_PACKAGE}.commands.explain:explain",
        "Tell why a miner has its score, from the records.",
    ),
    "dashboard": Entry(
        f"{_PACKAGE}.commands.dashboard:dashboard",
        "Show a validator's miners, rounds and weights as a page, live, until Ctrl-C.",
    ),
    "keys": Entry(
        f"{_PACKAGE}.commands.api_keys:keys",
        "Say who may use a validator's organic API, or a gateway.",
        group=f"{_PACKAGE}.commands.api_keys:app",
    ),
    "bench": Entry(f"{_PACKAGE}.commands.bench:bench", "Score a backend as a validator would."),
    "loadtest": Entry(
        f"{_PACKAGE}.loadtest.cli:loadtest",
        "Send a tier's requests to a backend and say whether it serves them.",
    ),
    "doctor": Entry(
        f"{_PACKAGE}.commands.doctor:doctor", "Check this installation and this device."
    ),
}


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import a sub-command's module and return the command."""
    if COMMANDS[name].group:
        found = cast(typer.Typer, import_target(COMMANDS[name].group))
    else:
        found = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        found.command(name)(cast(Callable[..., Any], import_target(COMMANDS[name].target)))
    command = cast(TyperCommand | TyperGroup, typer.main.get_command(found))
    _tell_users_only(command)
    return command


def _tell_users_only(command: Any) -> None:
    """Cut a docstring's sections, which are for programmers, out of a command's help."""
    command.help = _SECTION.split(command.help or "", maxsplit=1)[0].rstrip()
    for each in getattr(command, "commands", {}).values():
        _tell_users_only(each)


class CondenseGroup(TyperGroup):
    """The group of sub-commands: lists them without importing them, and reports errors."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name=name, help=entry.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a sub-command by its name and import it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        """Run a sub-command; turn our errors into a message and an exit code.

        Raises
        ------
        Exit
            The sub-command raised an error of ours.
        """
        try:
            return super().invoke(ctx)
        except NeuralCondenseError as error:
            if ctx.params.get("debug"):
                traceback.print_exception(error)
            messages().print(f"[bold red]error[/] ({error.code}): ", end="")
            messages().print(error.message, markup=False, soft_wrap=True)
            raise typer.Exit(error.exit_code) from error


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"condense {version('neural-condense')}")
    except PackageNotFoundError:
        typer.echo("condense, run from a source tree")
    raise typer.Exit


app = typer.Typer(
    cls=CondenseGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


@app.callback()
def condense(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Turn long texts into condensed tokens that a frozen LLM reads in their place.

    Exit codes: 0 good; 1 the thing measured fell short; 2 usage or configuration; 3 something
    needed cannot be reached.
    """


def main() -> None:
    """Run the command line."""
    app(prog_name="condense")


if __name__ == "__main__":
    main()
