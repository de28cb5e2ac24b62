"""Chat templates of models that come without transformers: Jinja text in, a prompt's text out.

Design decisions

* A template is data from outside: it runs in Jinja's immutable sandbox, as in transformers, and
  with the same few functions that templates rely on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from neural_condense_core.errors import RequestError
from neural_condense_core.llm.text import without_template


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise, strftime_now=_now)
    return environment.from_string(template)


def render_template(
    template: str | None,
    messages: Sequence[dict[str, str]],
    *,
    bos_token: str,
    eos_token: str,
) -> str:
    """Return the text of messages up to where the assistant speaks.

    Parameters
    ----------
    template : Jinja text; None puts the messages one below the other
    messages : ``role`` and ``content`` each
    bos_token, eos_token : as text

    Raises
    ------
    RequestError
        The template takes no such messages.
    """
    if template is None:
        return without_template(messages)
    try:
        return _compiled(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=True,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except TemplateError as error:
        roles = [message.get("role") for message in messages]
        raise RequestError(
            f"the model's chat template takes no messages with roles {roles}: "
            f"{type(error).__name__}",
            {"roles": roles},
        ) from error
