"""A prompt that a transformers model has computed, to be shared by many continuations."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from neural_condense_core.llm.base import Prefix


@dataclass(frozen=True, eq=False)
class HFPrefix:
    """A computed prompt: its cache, its rows and the position of what follows."""

    cache: Any
    n_tokens: int
    next_position: int


def own_prefix(prefix: Prefix | None) -> HFPrefix | None:
    """Return a prefix as one of transformers' models.

    Raises
    ------
    TypeError
        Another engine made it.
    """
    if prefix is None or isinstance(prefix, HFPrefix):
        return prefix
    raise TypeError(f"a prefix of another model: {type(prefix).__name__}")


def expand_cache(prefix: HFPrefix | None, batch: int) -> Any:
    """Copy a prefix's cache for a batch: the model appends to the copy, never to the original."""
    if prefix is None:
        return None
    cache = copy.deepcopy(prefix.cache)
    cache.batch_repeat_interleave(batch)
    return cache
