"""Opens the engine that reads: ``hf``, ``llama-cpp``, ``vllm=URL`` or ``sglang=URL``.

Where it sits: ``engine_choice.py`` reads the text that names one.

Design decisions

* One text says it all, so that a flag, a file and an environment variable can hold it.
* The model's name means the same to every engine: the embedded model, a folder, or a Hugging Face
  name. llama.cpp alone may be given a GGUF file of its own, ``llama-cpp=PATH``.
* No torch in this module; an engine's own is imported when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neural_condense_core.errors import TargetModelError
from neural_condense_core.llm.base import TargetLLM
from neural_condense_core.llm.engine_choice import SERVED, EngineChoice, parse_engine
from neural_condense_core.llm.engine_http import DEFAULT_TIMEOUT_S


def open_engine(
    choice: EngineChoice | str,
    name: str,
    *,
    device: str = "cpu",
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> TargetLLM:
    """Open a target model on an engine.

    Parameters
    ----------
    choice : the engine, or the text that says it
    name : the model: ``"smollm2-135m-instruct"`` (embedded), a folder, or a Hugging Face name
    device : torch device, for ``hf`` alone
    timeout_s : for one whole answer of an engine's server
    """
    chosen = parse_engine(choice) if isinstance(choice, str) else choice
    if chosen.engine in SERVED:
        return _open_served(chosen, name, timeout_s)
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


def _open_served(choice: EngineChoice, name: str, timeout_s: float) -> TargetLLM:
    from neural_condense_core.llm.embedding_table import EmbeddingTable
    from neural_condense_core.llm.engine_http import EngineHTTP
    from neural_condense_core.llm.sglang import SGLangTarget
    from neural_condense_core.llm.vllm import VLLMTarget

    kind: type[VLLMTarget | SGLangTarget]
    kind, shown = (VLLMTarget, "vLLM") if choice.engine == "vllm" else (SGLangTarget, "SGLang")
    source = _source(name)
    http = EngineHTTP(str(choice.place), shown, timeout_s=timeout_s)
    return kind(http, name, _tokenizer(source), EmbeddingTable(source))


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
}
