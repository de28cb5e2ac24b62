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
from neural_condense_core.demo.plan import SubnetPlan, parse_commands, parse_miners
from neural_condense_core.demo.processes import Backend
from neural_condense_core.demo.report import render
from neural_condense_core.errors import ConfigError
from neural_condense_core.signals import Interrupted

NONE, FULL = "none", "full"
"""Forms of the document that are no backend's."""


def parse_backends(specs: list[str], target_model: str | None) -> list[Backend]:
    """Return the backends of ``--backend`` flags, or those of the specification without any.

    Parameters
    ----------
    specs : ``NAME=COMMAND`` each, the command with ``{port}`` in it
    target_model : for the backends of the specification

    Raises
    ------
    ConfigError
        A name is that of a form of the document; what else is wrong is one too.
    """
    if not specs:
        return specified_backends(target_model)
    found = parse_commands("--backend", specs)
    for name in found.keys() & {NONE, FULL}:
        raise ConfigError(f"--backend: the name {name!r} is taken; give another")
    return [Backend(name, argv) for name, argv in found.items()]


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
    ratio: Annotated[
        float, typer.Option("--ratio", min=1, help="Context tokens per condensed token.")
    ] = 4.0,
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
    subnet: Annotated[
        bool, typer.Option("--subnet/--no-subnet", help="Play the second part, a whole subnet.")
    ] = True,
    miner: Annotated[
        list[str] | None, typer.Option("--miner", help="TIER=CONDENSER; may be repeated.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", hidden=True, help="NAME=COMMAND with {port}.")
    ] = None,
    miner_backend: Annotated[
        list[str] | None,
        typer.Option("--miner_backend", hidden=True, help="CONDENSER=COMMAND with {port}."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", hidden=True, help="COMMAND with {port}.")
    ] = None,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Report as JSON; - is stdout.")
    ] = None,
) -> None:
    """Condense a document over HTTP, ask an LLM about it, then play a whole subnet.

    Raises
    ------
    Exit
        With 1 where a backend gave no valid matrix or no answers, or the subnet did not work.
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
        subnet=None
        if not subnet
        else SubnetPlan(
            parse_miners(miner or []),
            target_model=target_model,
            first_port=port,
            ready_timeout_s=ready_timeout,
            backends=parse_commands("--miner_backend", miner_backend or []),
            judge=None if judge is None else tuple(shlex.split(judge)),
        ),
    )
    backends = parse_backends(backend or [], target_model)
    console = messages()
    if document.source:
        console.print(document.source, style="dim", markup=False)
    try:
        report = Demo(document, backends, settings, console).run()
    except Interrupted as stop:
        console.print("Stopped; no node and no backend is left running.")
        raise typer.Exit(stop.exit_code) from stop
    console.print(render(report))
    write_json(json_path, report.to_json())
    if not report.ok:
        failures = report.failures | (report.subnet.failures if report.subnet else {})
        for name, why in failures.items():
            console.print(f"{name} failed: {why}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _document(file: str | None, questions: list[str], golds: list[str]) -> Document:
    if file is not None:
        return from_file(file, questions, golds)
    return with_questions(shipped(), questions, golds)
