"""Which engine runs the target model.

Only the reader process opens one; what that imports is named by text, so that the gateway's own
process stays without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

from neural_condense_core.gateway.reader_messages import ReaderSpec
from neural_condense_core.llm.base import TargetLLM
from neural_condense_core.registry import import_target

_HF = "neural_condense_core.llm.hf:load_target"
_OTHERS = "neural_condense_core.llm.engines:open_engine"

PARALLEL: Mapping[str, int] = MappingProxyType({"vllm": 32, "sglang": 32})
"""Prompts at the same time of engines that batch by themselves; of every other one 1."""


def parallel(engine: str) -> int:
    """Return how many prompts an engine takes at the same time."""
    return PARALLEL.get(engine.partition("=")[0], 1)


def open_engine(spec: ReaderSpec) -> TargetLLM:
    """Load the target model into an engine.

    Parameters
    ----------
    spec : the engine by name, or ``module:function`` that takes the specification
    """
    kind, equals, _ = spec.engine.partition("=")
    if kind == "hf":
        load = cast(Callable[[str, str, str], TargetLLM], import_target(_HF))
        return load(spec.target, spec.device, spec.dtype)
    if ":" in kind and not equals:
        own = cast(Callable[[ReaderSpec], TargetLLM], import_target(spec.engine))
        return own(spec)
    opened = cast(Callable[..., TargetLLM], import_target(_OTHERS))
    return opened(spec.engine, spec.target, timeout_s=spec.timeout_s)
