"""Which engine is meant: ``hf``, ``llama-cpp``, ``vllm=URL`` or ``sglang=URL``, as one text.

Where it sits: ``engines.py`` opens what is named here; command lines check a flag with it before
anything is loaded, so nothing here leads to torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from neural_condense_core.errors import ConfigError
from neural_condense_core.registry import suggest

SERVED = ("vllm", "sglang")
"""Engines that are servers, with an address."""
ENGINES = ("hf", "llama-cpp", *SERVED)
FORMS = ("hf", "llama-cpp", "llama-cpp=PATH", "vllm=URL", "sglang=URL")
"""How an engine may be written."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine and where it is.

    Parameters
    ----------
    engine : ``"hf"``, ``"llama-cpp"``, ``"vllm"`` or ``"sglang"``
    place : address or file; None for what runs here by itself
    """

    engine: str
    place: str | None = None

    def __str__(self) -> str:
        return self.engine if self.place is None else f"{self.engine}={self.place}"


def parse_engine(text: str) -> EngineChoice:
    """Read ``"hf"``, ``"llama-cpp"``, ``"llama-cpp=PATH"``, ``"vllm=URL"`` or ``"sglang=URL"``.

    Raises
    ------
    ConfigError
        No such engine, or its address is missing or too much.
    """
    engine, has_place, place = text.partition("=")
    if engine not in ENGINES:
        raise ConfigError(
            f"unknown engine {engine!r}; known: {', '.join(FORMS)}.{suggest(engine, ENGINES)}"
        )
    if engine in SERVED and not place.startswith(("http://", "https://")):
        raise ConfigError(
            f"--engine {engine} needs the server's address: {engine}=http://HOST:PORT"
        )
    if has_place and (engine == "hf" or not place):
        raise ConfigError(f"--engine {text!r}: write one of {', '.join(FORMS)}")
    return EngineChoice(engine, place or None)
