"""Options behind a condenser's name: ``NAME+budget=dense``, ``NAME+refine=8``, both.

Where it sits: beside the names (``checkpoints.py``). What an option does is a condenser around
another one (``budgets.py``, ``refine.py``).

Design decisions

* An option is part of the name, so that a row of an evaluation, a reply and a command line all say
  how the tokens came about.
* The budget stands before refinement: it decides where tokens go, refinement what they say.
* No torch here, and none by a chain of imports: the backend's front checks its flags with this, and
  its worker asks whether what it serves can be hurried.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from neural_condense_core.condensers.base import Condenser
from neural_condense_core.errors import ConfigError, UnknownNameError
from neural_condense_core.registry import Registry, suggest
from neural_condense_core.tokens import CondensedTokens

BUDGETS = ("dense", "recent", "tail")
MAX_STEPS = 10_000
MAX_MS = 600_000.0

_OPTION = re.compile(r"(.+)\+([a-z]+)=([^+=]*)", re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?")


class Wrapper(Protocol):
    """A class of condensers that are made around another one."""

    def around(self, inner: Condenser, value: str, *, device: str, dtype: str) -> Condenser:
        """Return a condenser around a loaded one, by the value of its option."""


WRAPPERS: Registry[Wrapper] = Registry(
    "option",
    {
        "budget": "neural_condense_core.condensers.budgets:UnevenCondenser",
        "refine": "neural_condense_core.condensers.refine:RefinedCondenser",
    },
)
OPTIONS = ("budget", "refine")
"""In the order in which they are written, the inner one first."""


class HurriedCondenser(Condenser):
    """A condenser that does as much as time allows."""

    @abstractmethod
    def condense_within(
        self, contexts: Sequence[Sequence[int]], ratio: float, remaining_s: float | None
    ) -> list[CondensedTokens]:
        """Condense a batch in the time that is left.

        Parameters
        ----------
        contexts, ratio : as in ``condense``
        remaining_s : seconds in which the whole batch should be done; None = no limit. However
            few, every context is condensed
        """


def check_budget(kind: str) -> None:
    """Refuse a kind of budget that there is not.

    Raises
    ------
    ConfigError
        There is no such kind.
    """
    if kind not in BUDGETS:
        raise ConfigError(
            f"unknown budget {kind!r}.{suggest(kind, BUDGETS)} Known: {', '.join(BUDGETS)}"
        )


@dataclass(frozen=True)
class RefineBudget:
    """How much work a text is worth; one of the two is given.

    Parameters
    ----------
    steps : gradient steps a block of ``BLOCK_TOKENS`` context tokens
    ms : milliseconds a text

    Raises
    ------
    ConfigError
        Both or neither is given, or one is out of range.
    """

    steps: int | None = None
    ms: float | None = None

    def __post_init__(self) -> None:
        """Check both.

        Raises
        ------
        ConfigError
            Both or neither is given, or one is out of range.
        """
        if (self.steps is None) == (self.ms is None):
            raise ConfigError("give one of --refine_steps and --refine_ms, not both")
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"--refine_steps must be from 1 to {MAX_STEPS}, got {self.steps}")
        if self.ms is not None and not 1 <= self.ms <= MAX_MS:
            raise ConfigError(f"--refine_ms must be from 1 to {MAX_MS:g}, got {self.ms:g}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"8"`` (steps) or ``"2000ms"``.

        Raises
        ------
        ConfigError
            It is neither.
        """
        number = text.removesuffix("ms")
        timed = number != text
        if not _NUMBER.fullmatch(number) or (not timed and "." in number):
            raise ConfigError(
                f"refinement is +refine=STEPS or +refine=MILLISECONDSms, got {text!r}"
            )
        return cls(ms=float(number)) if timed else cls(steps=int(number))

    def __str__(self) -> str:
        return str(self.steps) if self.ms is None else f"{self.ms:g}ms"


def with_refinement(name: str, steps: int | None, ms: float | None) -> str:
    """Return a condenser's name with what ``--refine_steps`` and ``--refine_ms`` ask for behind it.

    Parameters
    ----------
    name : as users type it
    steps, ms : as in ``RefineBudget``; neither = the name as it is
    """
    if steps is None and ms is None:
        return name
    return f"{name}+refine={RefineBudget(steps, ms)}"


def split_options(spec: str) -> tuple[str, dict[str, str]]:
    """Return a name without its ``+budget=`` and ``+refine=``, and these by key.

    Raises
    ------
    UnknownNameError
        There is no such option.
    ConfigError
        An option stands there twice, or refinement before the budget.
    """
    found: dict[str, str] = {}
    name = spec
    while not Path(name).exists() and (match := _OPTION.fullmatch(name)):
        name, key, value = match.groups()
        if key not in OPTIONS:
            raise UnknownNameError(
                f"unknown option +{key}= in {spec!r}.{suggest(key, OPTIONS)} "
                f"Known: {', '.join(OPTIONS)}"
            )
        if key in found or (key == "refine" and found):
            raise ConfigError(f"write NAME+budget=KIND+refine=STEPS, each once; got {spec!r}")
        found[key] = value
    if "budget" in found:
        check_budget(found["budget"])
    if "refine" in found:
        RefineBudget.parse(found["refine"])
    return name, found


def wrap(
    condenser: Condenser, options: Mapping[str, str], *, device: str = "cpu", dtype: str = "auto"
) -> Condenser:
    """Return a condenser with the options of its name around it; without any, itself.

    Parameters
    ----------
    condenser : loaded
    options : as ``split_options`` returns them
    device, dtype : as it was loaded with
    """
    for key in OPTIONS:
        if key in options:
            wrapper = WRAPPERS.get(key)
            condenser = wrapper.around(condenser, options[key], device=device, dtype=dtype)
    return condenser
