"""Dotted command lines: a frozen dataclass whose fields say their flags, filled and checked.

Where it sits: ``config.py`` holds the dataclasses of the nodes; this is the reader.

Design decisions

* A field's type is ``Annotated[type, Flag(...)]``: name, help and bounds stand beside the field.
* What no dataclass knows is an error with the nearest name: a misspelt flag that is silently
  ignored sends a miner to the wrong backend. All faults of a command line are told at once.
* A flag wins over the environment, the environment over the default. ``--wallet.name`` can also be
  set by ``CONDENSE_WALLET_NAME``, every other likewise, and by the variables that it names.
* Flags may be spelt with ``_`` or ``-``. A flag that is given twice with two values, be it by two
  of its names, is an error: nobody knows which one was meant.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from neural_condense_core.errors import ConfigError

S = TypeVar("S")

PREFIX = "CONDENSE_"
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")
_KINDS: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Flag:
    """How a field is set from outside.

    Parameters
    ----------
    name : dotted, without the dashes: ``"wallet.name"``
    help : one line
    aliases : other names of it
    env : variables that set it, besides ``CONDENSE_`` and its name in capitals
    choices : what it may be; empty = anything
    shorthands : flags without a value -> the value they stand for
    least, most : bounds of a number, inclusive
    is_env_only : whether there is no flag, just the variables
    """

    name: str
    help: str
    aliases: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    shorthands: Mapping[str, str] = field(default_factory=dict)
    least: float = -math.inf
    most: float = math.inf
    is_env_only: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the environment variables, the strongest first."""
        return (*self.env, PREFIX + self.name.replace(".", "_").upper())

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.variables[0] if self.is_env_only else f"--{self.name}"


@dataclass(frozen=True)
class _Slot:
    key: str
    flag: Flag
    kind: type
    is_optional: bool
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is MISSING


def load_settings(
    kind: type[S],
    argv: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    *,
    prog: str,
    description: str,
) -> S:
    """Fill a settings class from a command line and the environment.

    ``--help`` and ``--print-config`` write to stdout and end the process with 0.

    Parameters
    ----------
    kind : a frozen dataclass whose fields are ``Annotated[type, Flag(...)]``
    argv : without the program's name
    environ : variables
    prog : how the program is started, ``"python -m neurons.miner"``
    description : one line for ``--help``

    Returns
    -------
    a checked value

    Raises
    ------
    ConfigError
        Something is unknown, missing or wrong; the message has one line for each.
    SystemExit
        Help or the configuration was asked for and is written.
    """
    slots = _slots(kind)
    parser = _parser(slots, prog, description)
    given, extra = parser.parse_known_args([_normalised(word) for word in argv])
    faults = _unknown(extra, slots)
    values: dict[str, Any] = {}
    for slot in slots:
        try:
            _fill(slot, getattr(given, slot.key, None), environ, values)
        except ConfigError as error:
            faults.append(error.message)
    if faults:
        raise ConfigError("\n".join(faults))
    settings = kind(**values)
    if given.print_config:
        shown = {slot.flag.name: getattr(settings, slot.key) for slot in slots}
        sys.stdout.write(json.dumps(shown, indent=2, default=str) + "\n")
        raise SystemExit(0)
    return settings


def describe(settings: object) -> dict[str, Any]:
    """Return a settings value by the names of its flags."""
    return {slot.flag.name: getattr(settings, slot.key) for slot in _slots(type(settings))}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


class _Once(argparse.Action):
    """Stores a value; another value for the same field is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        new = self.const if self.nargs == 0 else values
        old = getattr(namespace, self.dest, None)
        if old not in {None, new}:
            parser.error(f"{option_string}: {new!r} contradicts {old!r}, given before")
        setattr(namespace, self.dest, new)


def _parser(slots: Sequence[_Slot], prog: str, description: str) -> _Parser:
    parser = _Parser(prog=prog, description=description, allow_abbrev=False, add_help=False)
    parser.add_argument("-h", "--help", action="help", help="show this and end")
    parser.add_argument(
        "--print_config", action="store_true", help="show what is set as JSON and end"
    )
    for slot in slots:
        if not slot.flag.is_env_only:
            _add(parser, slot)
    return parser


def _add(parser: _Parser, slot: _Slot) -> None:
    flag = slot.flag
    shown = "required" if slot.is_required else f"default {slot.default}"
    notes = shown if slot.default is not None else ""
    if flag.choices:
        notes = "; ".join(filter(None, (f"one of {', '.join(flag.choices)}", notes)))
    text = (flag.help + (f" ({notes})" if notes else "")).replace("%", "%%")
    names = [f"--{name}" for name in (flag.name, *flag.aliases)]
    common: dict[str, Any] = {"dest": slot.key, "action": _Once, "default": None}
    if slot.kind is bool:
        parser.add_argument(*names, nargs=0, const="true", help=text, **common)
        return
    parser.add_argument(*names, metavar=flag.name.rpartition(".")[2].upper(), help=text, **common)
    for name, value in flag.shorthands.items():
        short = f"--{flag.name} {value}"
        parser.add_argument(f"--{name}", nargs=0, const=value, help=short, **common)


def _normalised(word: str) -> str:
    if not word.startswith("--") or len(word) == 2:
        return word
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def _unknown(extra: Sequence[str], slots: Sequence[_Slot]) -> list[str]:
    known = [
        f"--{name}"
        for slot in slots
        if not slot.flag.is_env_only
        for name in (slot.flag.name, *slot.flag.aliases, *slot.flag.shorthands)
    ]
    flags = [word.partition("=")[0] for word in extra if word.startswith("-")]
    if flags:
        return [f"unknown flag {flag}{nearest(flag, known)}" for flag in flags]
    return [f"unexpected argument {word!r}; values follow a --flag" for word in extra]


def _fill(
    slot: _Slot, given: str | None, environ: Mapping[str, str], values: dict[str, Any]
) -> None:
    source = slot.flag.shown
    if given is None:
        source, given = next(
            ((name, environ[name]) for name in slot.flag.variables if environ.get(name)),
            (source, None),
        )
    if given is not None:
        values[slot.key] = _converted(slot, source, given)
    elif slot.is_required:
        raise ConfigError(f"{slot.flag.shown} is missing: {slot.flag.help}")


def _converted(slot: _Slot, source: str, text: str) -> Any:
    flag = slot.flag
    if flag.choices and text not in flag.choices:
        known = ", ".join(flag.choices)
        raise ConfigError(f"{source} must be one of {known}; got {text!r}")
    try:
        value = _boolean(text) if slot.kind is bool else slot.kind(text)
    except ValueError:
        raise ConfigError(f"{source} must be {_KINDS[slot.kind]}, got {text!r}") from None
    if slot.kind in {int, float} and not flag.least <= value <= flag.most:
        raise ConfigError(
            f"{source} must be from {flag.least:.10g} to {flag.most:.10g}, got {text!r}"
        )
    if slot.kind in {str, Path} and not text.strip():
        raise ConfigError(f"{source} must not be empty")
    return value.expanduser() if isinstance(value, Path) else value


def _boolean(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in _TRUE + _FALSE:
        raise ValueError(text)
    return lowered in _TRUE


def _slots(kind: type) -> list[_Slot]:
    hints = get_type_hints(kind, include_extras=True)
    return [_slot(item, hints[item.name]) for item in fields(kind)]


def _slot(item: Field[Any], hint: Any) -> _Slot:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"field {item.name} says no flag")
    bare, flag = get_args(hint)
    options = get_args(bare) if get_origin(bare) in {Union, types.UnionType} else (bare,)
    (kind,) = [option for option in options if option is not types.NoneType]
    return _Slot(item.name, flag, kind, types.NoneType in options, item.default)
