"""``condense demo``: the main job as one command."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from neural_condense_core.console import check_writable, messages, write_json
from neural_condense_core.demo.document import Document, from_file, shipped, with_questions
from neural_condense_core.demo.flow import Demo, DemoSettings, specified_backends
from neural_condense_core.demo.processes import PORT_FIELD, Backend
from neural_condense_core.demo.report import render
from neural_condense_core.errors import ConfigError
from neural_condense_core.signals import Interrupted


def parse_backends(specs: list[str], target_model: str | None) -> list[Backend]:
    """Return the backends of ``--backend`` flags, or those of the specification without any.

    Parameters
    ----------
    specs : ``NAME=COMMAND`` each, the command with ``{port}`` in it
    target_model : for the backends of the specification

    Raises
    ------
    ConfigError
        One is not as above, or two have the same name.
    """
    if not specs:
        return specified_backends(target_model)
    found: dict[str, Backend] = {}
    for spec in specs:
        name, _, command = spec.partition("=")
        if not name or PORT_FIELD not in command:
            raise ConfigError(f"--backend takes NAME=COMMAND with {PORT_FIELD} in it, got {spec!r}")
        if name in found or name in {"none", "full"}:
            raise ConfigError(f"--backend: the name {name!r} is taken; give another")
        found[name] = Backend(name, tuple(shlex.split(command)))
    return list(found.values())


def demo(
    file: Annotated[
        str | None, typer.Option("--file", help="Condense this text instead of the one that ships.")
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option("--question", help="Ask this; may be repeated.")
    ] = None,
    gold: Annotated[
        list[str] | None, typer.Option("--gold", help="Right answer to the next question.")
    ] = None,
    ratio: Annotated[float, typer.Option("--ratio", min=1, help="Context tokens a token.")] = 4.0,
    port: Annotated[
        int,
        typer.Option("--port", min=1, max=65535, help="Of the first backend; or the next free."),
    ] = 8080,
    target_model: Annotated[
        str | None, typer.Option("--target_model", help="The LLM; default: the embedded one.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max_new_tokens", min=1, max=1024, help="Longest answer.")
    ] = 24,
    ready_timeout: Annotated[
        float, typer.Option("--ready_timeout", min=1, help="Seconds the backends may load.")
    ] = 300.0,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", hidden=True, help="NAME=COMMAND with {port}.")
    ] = None,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Report as JSON; - is stdout.")
    ] = None,
) -> None:
    """Condense a document over HTTP and ask an LLM about it.

    Raises
    ------
    Exit
        With 1 where a backend gave no valid matrix or no answers.
    """
    check_writable(json_path)
    if target_model is not None and Path(target_model).is_dir():
        target_model = str(Path(target_model).resolve())  # the backends start in another folder
    document = _document(file, question or [], gold or [])
    settings = replace(
        DemoSettings(),
        target_model=target_model,
        ratio=ratio,
        first_port=port,
        ready_timeout_s=ready_timeout,
        max_new_tokens=max_new_tokens,
    )
    backends = parse_backends(backend or [], target_model)
    console = messages()
    if document.source:
        console.print(document.source, style="dim", markup=False)
    try:
        report = Demo(document, backends, settings, console).run()
    except Interrupted as stop:
        console.print("Stopped; no backend is left running.")
        raise typer.Exit(stop.exit_code) from stop
    console.print(render(report))
    write_json(json_path, report.to_json())
    if not report.ok:
        for name, why in report.failures.items():
            console.print(f"{name} failed: {why}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _document(file: str | None, questions: list[str], golds: list[str]) -> Document:
    if file is not None:
        return from_file(file, questions, golds)
    return with_questions(shipped(), questions, golds)
