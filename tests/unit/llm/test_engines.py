"""Which engine is meant; what opening one says when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from neural_condense_core.errors import BackendError, ConfigError, TargetModelError
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_choice import EngineChoice, parse_engine
from neural_condense_core.llm.engines import open_engine
from neural_condense_core.llm.hf import load_target


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("hf", EngineChoice("hf")),
        ("llama-cpp", EngineChoice("llama-cpp")),
        ("llama-cpp=/m/x.gguf", EngineChoice("llama-cpp", "/m/x.gguf")),
        ("vllm=http://h:1/a?b=c", EngineChoice("vllm", "http://h:1/a?b=c")),
        ("sglang=https://h", EngineChoice("sglang", "https://h")),
    ],
)
def test_an_engine_is_one_text(text: str, choice: EngineChoice) -> None:
    assert parse_engine(text) == choice
    assert str(choice) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lama-cpp", "Did you mean 'llama-cpp'"),
        ("", "known: hf"),
        ("vllm", "needs the server's address"),
        ("sglang=", "needs the server's address"),
        ("hf=cuda", "write one of"),
        ("llama-cpp=", "write one of"),
    ],
)
def test_anything_else_is_refused_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_engine(text)


def test_transformers_is_the_same_target_as_ever(tiny_llama: str) -> None:
    assert open_engine("hf", tiny_llama) is load_target(tiny_llama)


def test_llama_cpp_needs_a_file_for_a_model_that_is_not_embedded(tiny_llama: str) -> None:
    with pytest.raises(TargetModelError, match=r"--engine llama-cpp=PATH.gguf"):
        open_engine("llama-cpp", tiny_llama)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_server_that_is_not_there_is_one_clear_error(engine: str, tiny_llama: str) -> None:
    with pytest.raises(BackendError, match="cannot be reached") as caught:
        open_engine(f"{engine}=http://127.0.0.1:1", tiny_llama)
    assert caught.value.exit_code == 3


def test_an_address_must_be_http(tiny_llama: str) -> None:
    with pytest.raises(ConfigError, match="http://"):
        open_engine("vllm=localhost:8000", tiny_llama)


def test_a_model_without_a_table_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TargetModelError, match="input embeddings"):
        EmbeddingTable(str(tmp_path))
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    with pytest.raises(TargetModelError, match="max_position_embeddings"):
        EmbeddingTable(str(tmp_path))


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma3", "mistral", "qwen", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_table_gives_what_the_embedding_layer_returns(
    family: str, dtype: str, tiny_models: dict[str, str], tmp_path: Path
) -> None:
    target = load_target(tiny_models[family], dtype=dtype)
    target.model.save_pretrained(tmp_path)
    ids = [0, 5, 258, 5]
    assert EmbeddingTable(str(tmp_path)).rows(ids).tobytes() == target.embed(ids).tobytes()
