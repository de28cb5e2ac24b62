"""A checked command line of ``condense eval``.

Design decisions

* What is wrong with a line is found before a model is loaded or a file read.
* The command in a report is put together from the options, so that it can be repeated.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neural_condense_core.errors import ConfigError
from neural_condense_core.registry import suggest

if TYPE_CHECKING:
    from neural_condense_core.evaluation.probes import TaskName

DTYPES = ("auto", "float32", "bfloat16")
MAX_LENGTH = 1 << 17
MAX_SEEDS = 16


@dataclass(frozen=True)
class Options:
    """A checked command line; fields as the flags of the same name."""

    condensers: tuple[str, ...]
    ratios: tuple[float, ...] = (4.0,)
    prose: Path | None = None
    qa: Path | None = None
    target: str | None = None
    baselines: tuple[str, ...] | None = None
    tasks: tuple[TaskName, ...] | None = None
    limit: int = 64
    seed: int = 0
    seeds: tuple[int, ...] = ()
    lengths: tuple[int, ...] | None = None
    positions: tuple[str, ...] = ("plain",)
    perturb: tuple[str, ...] = ()
    greedy_limit: int = 16
    examples: int = 3
    dtype: str = "auto"
    device: str = "cpu"
    costs: bool = False

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds to run, the one that the rows are of first."""
        return self.seeds or (self.seed,)

    @property
    def command(self) -> str:
        """The line that repeats the evaluation; options at their defaults are left out."""
        words = ["condense", "eval"]
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value is True:
                words.append(f"--{name}")
            elif name in _ALWAYS or value != default:
                text = ",".join(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
                words += [] if value is None else [f"--{name}", text]
        return shlex.join(words)


_ALWAYS = ("condensers", "ratios", "limit", "seed")
_DEFAULTS = {name: field.default for name, field in Options.__dataclass_fields__.items()}


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def words(flag: str, text: str) -> tuple[str, ...]:
    """Return what stands between commas, each once.

    Raises
    ------
    ConfigError
        Nothing does.
    """
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise ConfigError(f"{flag} is empty")
    return found


def chosen(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a flag, all of them known.

    Raises
    ------
    ConfigError
        A word is not known.
    """
    found = words(flag, text)
    for word in found:
        if word not in known:
            hint = suggest(word, known)
            raise ConfigError(f"{flag}: unknown {word!r}.{hint} Known: {', '.join(known)}")
    return found


def ratios_of(text: str) -> tuple[float, ...]:
    """Return compression ratios, written ``4`` or ``4x``.

    Raises
    ------
    ConfigError
        One is no number, or none from 1 to 1024.
    """
    found = []
    for word in words("--ratios", text):
        try:
            ratio = float(word.removesuffix("x"))
        except ValueError:
            raise ConfigError(f"--ratios: {word!r} is not a number") from None
        if not 1 <= ratio <= 1024:
            raise ConfigError(f"--ratios: {word} is not from 1 to 1024")
        found.append(ratio)
    return tuple(found)


def integers(flag: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """Return whole numbers.

    Raises
    ------
    ConfigError
        One is none, or out of range.
    """
    found = []
    for word in words(flag, text):
        if not word.isdecimal() or not least <= int(word) <= most:
            raise ConfigError(f"{flag}: {word!r} is not a whole number from {least} to {most}")
        found.append(int(word))
    return tuple(found)


def seeds_of(text: str) -> tuple[int, ...]:
    """Return seeds.

    Raises
    ------
    ConfigError
        They are too many: each repeats the whole evaluation.
    """
    found = integers("--seeds", text, 0, 2**31 - 1)
    if len(found) > MAX_SEEDS:
        raise ConfigError(f"--seeds: at most {MAX_SEEDS}, each repeats the whole evaluation")
    return found


def check_files(options: Options) -> None:
    """Refuse files that are not there.

    Raises
    ------
    ConfigError
        One is not there.
    """
    for path in (options.prose, options.qa):
        if path is not None and not path.is_file():
            raise ConfigError(f"no such file: {path}")
