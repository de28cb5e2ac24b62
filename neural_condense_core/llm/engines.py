"""Which engine reads: ``hf``, ``llama-cpp``, ``vllm=URL`` or ``sglang=URL``; opens it.

Design decisions

* One text says it all, so that a flag, a file and an environment variable can hold it.
* The model's name means the same to every engine: the embedded model, a folder, or a Hugging Face
  name. llama.cpp alone may be given a GGUF file of its own, ``llama-cpp=PATH``.
* No torch in this module; an engine's own is imported when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neural_condense_core.errors import ConfigError, TargetModelError
from neural_condense_core.llm.base import TargetLLM
from neural_condense_core.registry import suggest


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
    if engine not in _OPENERS:
        raise ConfigError(
            f"unknown engine {engine!r}; known: {', '.join(FORMS)}.{suggest(engine, _OPENERS)}"
        )
    if engine in _SERVED and not place:
        raise ConfigError(
            f"--engine {engine} needs the server's address: {engine}=http://HOST:PORT"
        )
    if has_place and (engine == "hf" or not place):
        raise ConfigError(f"--engine {text!r}: write one of {', '.join(FORMS)}")
    return EngineChoice(engine, place or None)


def open_engine(choice: EngineChoice | str, name: str, *, device: str = "cpu") -> TargetLLM:
    """Open a target model on an engine.

    Parameters
    ----------
    choice : the engine, or the text that says it
    name : the model: ``"smollm2-135m-instruct"`` (embedded), a folder, or a Hugging Face name
    device : torch device, for ``hf`` alone
    """
    chosen = parse_engine(choice) if isinstance(choice, str) else choice
    return _OPENERS[chosen.engine](name, chosen.place, device)


def _open_hf(name: str, place: str | None, device: str) -> TargetLLM:
    from neural_condense_core.llm.hf import load_target

    return load_target(name, device, "auto")


def _open_llama_cpp(name: str, place: str | None, device: str) -> TargetLLM:
    from neural_condense_core.llm import embedded
    from neural_condense_core.llm.gguf_files import embedded_gguf
    from neural_condense_core.llm.llama_cpp import LlamaCppTarget

    if place is None and name == embedded.NAME:
        return LlamaCppTarget(embedded_gguf(), name)
    file = place or (name if name.endswith(".gguf") else None)
    if file is None:
        raise TargetModelError(
            f"llama.cpp reads GGUF files, and none is known for {name!r}; give the file of the "
            "same model: --engine llama-cpp=PATH.gguf"
        )
    return LlamaCppTarget(Path(file), name)


def _open_vllm(name: str, place: str | None, device: str) -> TargetLLM:
    from neural_condense_core.llm.embedding_table import EmbeddingTable
    from neural_condense_core.llm.engine_http import EngineHTTP
    from neural_condense_core.llm.vllm import VLLMTarget

    source = _source(name)
    return VLLMTarget(
        EngineHTTP(str(place), "vLLM"), name, _tokenizer(source), EmbeddingTable(source)
    )


def _open_sglang(name: str, place: str | None, device: str) -> TargetLLM:
    from neural_condense_core.llm.embedding_table import EmbeddingTable
    from neural_condense_core.llm.engine_http import EngineHTTP
    from neural_condense_core.llm.sglang import SGLangTarget

    source = _source(name)
    return SGLangTarget(
        EngineHTTP(str(place), "SGLang"), name, _tokenizer(source), EmbeddingTable(source)
    )


def _source(name: str) -> str:
    from neural_condense_core.llm import embedded

    return str(embedded.model_path()) if name == embedded.NAME else name


def _tokenizer(source: str) -> object:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        raise TargetModelError(
            f"cannot load the tokenizer of {source!r}: {type(error).__name__}: {error}; give a "
            "folder, or a Hugging Face name that this machine can reach"
        ) from error


_OPENERS: dict[str, Callable[[str, str | None, str], TargetLLM]] = {
    "hf": _open_hf,
    "llama-cpp": _open_llama_cpp,
    "vllm": _open_vllm,
    "sglang": _open_sglang,
}
_SERVED = ("vllm", "sglang")
FORMS = ("hf", "llama-cpp", "llama-cpp=PATH", "vllm=URL", "sglang=URL")
"""How an engine may be written."""
