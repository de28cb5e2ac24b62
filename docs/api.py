"""Write docs/api.md: HTTP routes from the services' OpenAPI, the Python API from its docstrings.

``python docs/api.py`` rewrites it; with ``--check`` it changes nothing and exits 1 when it is out
of date. Nothing that is described is run, and no model is loaded.

Design decisions

* One page of plain Markdown: it reads the same in a checkout, on a forge and on the site.
* Routes and their statuses are those the application itself serves; tables of fields come from the
  messages' own types. What a docstring says is not said again here.
* The list of what is public is in this file. A name that is gone is an error.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import griffe
from fastapi import FastAPI
from pydantic import BaseModel

from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.gateway import app as gateway_app
from neural_condense_core.gateway.messages import ChatRequest, CompletionRequest, CondenseOptions
from neural_condense_core.gateway.parts import Parts
from neural_condense_core.serving import app as backend_app
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.settings import ServeSettings
from neural_condense_core.wire.gateway import CondenseBody, ContextInfo
from neural_condense_core.wire.messages import (
    CondenseReply,
    CondenseReplyBase64,
    CondenseRequest,
    ErrorBody,
    Info,
)

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
PACKAGE = "neural_condense_core"

PUBLIC: dict[str, dict[str, tuple[str, ...]]] = {
    "Condensed tokens": {"tokens": ("CondensedTokens",)},
    "Clients": {
        "client.backend": ("BackendClient", "AsyncBackendClient", "Settings"),
        "client.organic": ("OrganicClient", "AsyncOrganicClient"),
        "client.gateway": ("GatewayClient", "AsyncGatewayClient"),
    },
    "Condensers": {
        "condensers.checkpoints": ("load_condenser", "shipped_names"),
        "condensers.base": ("Condenser", "LoadOptions"),
    },
    "Target models": {
        "llm.hf": ("load_target",),
        "llm.engines": ("open_engine",),
        "llm.base": ("TargetLLM", "TokenIds", "Embeds", "as_segment", "Sampling", "Likelihood"),
        "llm.prompt": ("answer_prompt", "chat", "conversation"),
    },
    "Hand-off to an engine of your own": {
        "llm.handoff": (
            "to_hf",
            "to_llama_cpp",
            "to_vllm_chat_part",
            "to_vllm_completion",
            "to_sglang",
        ),
    },
    "Bytes": {
        "wire.codec": ("encode", "decode", "to_safetensors", "from_safetensors", "negotiate"),
    },
    "A condensed corpus": {"corpus.reading": ("read",)},
}

INTRODUCTION = """\
# API reference

Written by `python docs/api.py` from the code. What the routes mean together is told in
[backend.md](backend.md) and [gateway.md](gateway.md), the bytes in [wire.md](wire.md); the API that
a validator gives its users is in [validator.md](validator.md#users), the one between nodes in
[miner.md](miner.md#what-is-answered).
"""


def services() -> dict[str, tuple[str, FastAPI, Sequence[type[BaseModel]]]]:
    """Return title, application and messages of each service, by the command that starts it."""
    # An application describes itself before any of what it works with exists.
    engine, parts = cast(Engine, SimpleNamespace()), cast(Parts, SimpleNamespace())
    return {
        "condense serve": (
            "The backend",
            backend_app.create_app(engine, ServeSettings("pooled")),
            (CondenseRequest, CondenseReply, CondenseReplyBase64, Info, ErrorBody),
        ),
        "condense gateway": (
            "The gateway",
            gateway_app.create_app(parts),
            (ChatRequest, CompletionRequest, CondenseOptions, CondenseBody, ContextInfo),
        ),
    }


def _cell(text: str) -> str:
    plain = re.sub(r"\s+", " ", text).strip().replace("``", "`")
    return plain.replace("|", r"\|")


def _table(titles: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return [*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows), ""]


def routes(app: FastAPI) -> list[str]:
    """Return a service's routes as a table."""
    return _table(("route", "", "replies"), _route_rows(app.openapi()))


def _route_rows(description: dict[str, Any]) -> Iterator[Sequence[str]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            statuses = [code for code in operation["responses"] if code != "422"]
            if "requestBody" in operation and "422" in operation["responses"]:
                statuses.append("422")
            yield (
                f"`{method.upper()} {path}`",
                operation.get("summary", ""),
                ", ".join(sorted(statuses)),
            )


def message(model: type[BaseModel]) -> list[str]:
    """Return a message's fields as a table."""
    schema = model.model_json_schema()
    told = (inspect.getdoc(model) or "").split("\n\n")[0]
    rows = _field_rows(schema, schema.get("$defs", {}))
    return [
        f"#### `{model.__name__}`", "", _prose(told), "",
        *_table(("field", "type", "default", "meaning"), rows),
    ]  # fmt: skip


def _field_rows(schema: dict[str, Any], named: dict[str, Any]) -> Iterator[Sequence[str]]:
    needed = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in needed else f"`{_json(field.get('default'))}`"
        told = [field.get("description", ""), *_bounds(field)]
        yield f"`{name}`", _type(field, named), default, "; ".join(filter(None, told))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _bounds(field: dict[str, Any]) -> list[str]:
    words = {
        "minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above",
        "exclusiveMaximum": "below", "maxLength": "characters at most",
        "maxItems": "items at most",
    }  # fmt: skip
    found: dict[str, Any] = {}
    for part in [field, *field.get("anyOf", ())]:
        found |= {key: part[key] for key in words if key in part}
    return [f"{words[key]} {value:,}" for key, value in found.items()]


def _type(field: dict[str, Any], named: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return _type(named[name], named) if "enum" in named[name] else name
    if "const" in field:
        return f"`{_json(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{_json(value)}`" for value in field["enum"])
    if "anyOf" in field:
        kinds = dict.fromkeys(_type(part, named) for part in field["anyOf"])
        return " or ".join(kinds)
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}), named)}"
    return str(field.get("type", "any"))


def _prose(text: str) -> str:
    return text.replace("``", "`").strip()


@cache
def _package() -> griffe.Object:
    found = griffe.load(
        PACKAGE, search_paths=[ROOT], allow_inspection=False, docstring_parser="numpy"
    )
    return cast(griffe.Object, found)


def public(module: str, name: str) -> list[str]:
    """Return the documentation of a public class or function; a name that is gone is a KeyError."""
    found = _package()[f"{module}.{name}"]
    lines = [f"#### `{name}`", "", f"`from {PACKAGE}.{module} import {name}`", ""]
    if isinstance(found, griffe.Class):
        return [*lines, *_class(found)]
    return [*lines, *_function(cast(griffe.Function, found))]


def _function(function: griffe.Function) -> list[str]:
    return [f"`{_signature(function)}`", "", *_sections(function)]


def _class(found: griffe.Class) -> list[str]:
    made = found.parameters if found.has_labels("dataclass") or "__init__" in found.members else ()
    lines = [f"`{found.name}({_arguments(made)})`", ""] if made else []
    lines += _sections(found)
    rows = []
    for name, member in found.all_members.items():
        if (
            name.startswith("_")
            or not member.has_docstring
            or not isinstance(member, griffe.Object)
        ):
            continue
        told = member.docstring.value.split("\n\n")[0] if member.docstring else ""
        called = _signature(member) if isinstance(member, griffe.Function) else name
        rows.append((f"`{called}`", told))
    return [*lines, *_table(("member", ""), iter(rows))] if rows else lines


def _signature(function: griffe.Function) -> str:
    returns = f" -> {function.returns}" if function.returns else ""
    return f"{function.name}({_arguments(function.parameters)}){returns}"


def _arguments(parameters: Sequence[griffe.Parameter] | griffe.Parameters) -> str:
    told: list[str] = []
    marked = False
    for parameter in parameters:
        if parameter.name in {"self", "cls"}:
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not marked:
            marked = True
            told.append("*")
        stars = {"variadic positional": "*", "variadic keyword": "**"}
        word = stars.get(parameter.kind.value if parameter.kind else "", "") + parameter.name
        if parameter.annotation:
            word += f": {parameter.annotation}"
        if parameter.default is not None and not word.startswith("*"):
            word += f" = {parameter.default}"
        told.append(word)
    return ", ".join(told)


def _sections(found: griffe.Object) -> list[str]:
    lines: list[str] = []
    for section in found.docstring.parsed if found.docstring else ():
        match section.kind.value:
            case "text":
                lines += [_prose(section.value), ""]
            case "parameters":
                lines += [*_parameters(section.value), ""]
            case "returns" | "raises":
                title = section.kind.value.capitalize()
                lines += [f"{title}: {_results(section)}", ""]
    return lines


def _parameters(values: Sequence[Any]) -> Iterator[str]:
    for told, group in groupby(values, key=_told):
        names = ", ".join(f"`{value.name}`" for value in group)
        if told:  # else it is a sentence behind the list, which has no colon
            yield f"- {names}: {told}"


def _told(value: Any) -> str:
    # Behind the colon stands the shape or unit, which goes on in the lines below.
    return _one_line(f"{value.annotation or ''} {value.description or ''}")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("``", "`")


def _results(section: Any) -> str:
    told = []
    for value in section.value:
        if section.kind.value == "raises":
            told.append(_one_line(f"`{value.annotation}`: {value.description}"))
        else:
            told.append(_told(value))
    return "; ".join(told).rstrip(".") + "."


def errors() -> list[str]:
    """Return the exception tree with the status and the exit code of each class."""

    def rows(error: type[NeuralCondenseError], depth: int) -> Iterator[Sequence[str]]:
        told = (inspect.getdoc(error) or "").split("\n\n")[0]
        name = "&nbsp;" * 4 * depth + f"`{error.__name__}`"
        yield name, f"`{error.code}`", str(error.status), str(error.exit_code), told
        for below in sorted(error.__subclasses__(), key=lambda found: found.__name__):
            if below.__module__ == f"{PACKAGE}.errors":
                yield from rows(below, depth + 1)

    titles = ("class", "code", "HTTP status", "exit code", "")
    return [
        "### Errors", "", f"All in `{PACKAGE}.errors`.", "",
        *_table(titles, rows(NeuralCondenseError, 0)),
    ]  # fmt: skip


def render() -> str:
    """Return the page."""
    lines = [INTRODUCTION]
    for command, (title, app, messages) in services().items():
        lines += [f"## {title}: `{command}`", "", *routes(app)]
        for model in messages:
            lines += message(model)
    lines += ["## Python", ""]
    for title, modules in PUBLIC.items():
        lines += [f"### {title}", ""]
        for module, names in modules.items():
            for name in names:
                lines += public(module, name)
    lines += errors()
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Rewrite docs/api.md, or with ``--check`` say whether that would change it."""
    after = render()
    if "--check" in arguments:
        is_old = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != after
        if is_old:
            sys.stderr.write("docs/api.md is out of date: run 'make readme'\n")
        return int(is_old)
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    logging.getLogger("griffe").setLevel(logging.ERROR)  # it expects types where shapes stand
    sys.exit(main(sys.argv[1:]))
