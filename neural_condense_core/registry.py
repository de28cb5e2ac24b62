"""``Registry``: names to lazily imported ``"module:Class"`` targets, with did-you-mean.

Design decisions

* Importing a registry imports none of its targets, so the torch line holds.
* Third parties add names by entry points; a name of ours is never overridden by one.
* A ``"module:Class"`` string is accepted wherever a name is, for a user's own class.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from neural_condense_core.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def import_target(target: str) -> object:
    """Import ``"module:Class"``.

    Raises
    ------
    ConfigError
        The module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = target.partition(":")
    try:
        found: object = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, ValueError, TypeError) as error:  # the last two: not a module's name
        raise ConfigError(f"cannot import {target!r}: {error}") from error
    except AttributeError as error:
        raise ConfigError(f"module {module_name!r} has no {attribute!r}") from error
    return found


class Registry(Generic[T]):
    """A mapping from names to classes that are imported when asked for.

    Parameters
    ----------
    kind : the noun in error messages, ``"condenser"`` for example
    targets : name -> ``"module:Class"``
    entry_point_group : where installed packages may add names, or None
    """

    def __init__(
        self, kind: str, targets: Mapping[str, str], entry_point_group: str | None = None
    ) -> None:
        self.kind = kind
        self._targets = dict(targets)
        self._group = entry_point_group

    def targets(self) -> dict[str, str]:
        """Return all names and their ``"module:Class"``, ours first."""
        found = dict(self._targets)
        if self._group is not None:
            for point in entry_points(group=self._group):
                found.setdefault(point.name, point.value)
        return found

    def names(self) -> list[str]:
        """Return the known names, sorted."""
        return sorted(self.targets())

    def get(self, name: str) -> T:
        """Import and return the class behind a name or a ``"module:Class"`` string.

        Raises
        ------
        UnknownNameError
            No such name; the message suggests the nearest and lists all.
        """
        targets = self.targets()
        target = targets.get(name, name if ":" in name else None)
        if target is None:
            known = sorted(targets)
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}.{suggest(name, known)} Known: {', '.join(known)}"
            )
        return import_target(target)  # type: ignore[return-value]
