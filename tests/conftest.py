"""Fixtures for all tests: tiny random models, a private home, loopback sockets only.

Design decisions

* The environment is isolated when this file is imported, before any test module imports
  ``huggingface_hub``, which reads its variables once.
* The tiny models are written to disk once a session, so that tests load them as users load theirs.
* Two of the tokenizers add a beginning-of-sequence token by themselves, as Gemma's and Mistral's
  do: code that forgets to switch that off fails here.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
import pytest

_REAL_HOME = os.environ.get("HOME", "")
_REAL_CACHE = os.environ.get("CONDENSE_CACHE") or platformdirs.user_cache_dir(
    "neural-condense", appauthor=False
)
_SANDBOX = tempfile.TemporaryDirectory(prefix="neural-condense-tests-", ignore_cleanup_errors=True)


def _isolate(home: Path) -> None:
    cache = home / ".cache"
    cache.mkdir()
    os.environ.update(
        HOME=str(home),
        XDG_CACHE_HOME=str(cache),
        XDG_CONFIG_HOME=str(home / ".config"),
        XDG_DATA_HOME=str(home / ".local" / "share"),
        HF_HOME=str(cache / "huggingface"),
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        NO_COLOR="1",
    )
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    for name in [name for name in os.environ if name.startswith("CONDENSE_")]:
        if not name.startswith("CONDENSE_TEST_"):  # those say what to test against
            del os.environ[name]
    for name in ("FORCE_COLOR", "HF_TOKEN", "HF_HUB_CACHE", "HF_ENDPOINT"):
        os.environ.pop(name, None)


_isolate(Path(_SANDBOX.name))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started by a shell in the background: what tests send themselves would be lost.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ForbiddenNetworkError(RuntimeError):
    """A test tried to leave this machine.

    Not an OSError: code under test that tolerates an unreachable host must not swallow it.
    """


def _is_loopback(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _require_loopback(host: object) -> None:
    if not _is_loopback(host):
        raise ForbiddenNetworkError(f"tests may reach loopback only, not {host!r}")


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    """Refuse name look-ups and connections that leave this machine."""
    originals = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    getaddrinfo = socket.getaddrinfo

    def guarded(name: str) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _require_loopback(address[0])
            return originals[name](self, address)

        return call

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _require_loopback(host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in originals:
            patch.setattr(socket.socket, name, guarded(name))
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(autouse=True)
def _restore_environment() -> Iterator[None]:
    """Give every test the environment that the session began with."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_byte_tokenizer(*, adds_bos: bool) -> Any:
    """Return a tokenizer with one token a byte (ids 3 to 258) and three special tokens (0 to 2)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos = SPECIAL_TOKENS[0]
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocab[bos])]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=SPECIAL_TOKENS[2],
        pad_token=bos,
        additional_special_tokens=list(SPECIAL_TOKENS[1:2]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = ("{{ bos_token }}" if adds_bos else "") + CHAT_TEMPLATE
    return fast


def _tiny_configs() -> dict[str, Any]:
    from transformers import (
        Gemma2Config,
        Gemma3TextConfig,
        LlamaConfig,
        MistralConfig,
        Qwen2Config,
        Qwen3Config,
    )

    shape: dict[str, Any] = {
        "vocab_size": 256 + len(SPECIAL_TOKENS),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    gemma: dict[str, Any] = {
        "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    return {
        "llama": LlamaConfig(**shape, head_dim=16, tie_word_embeddings=True),
        "gemma": Gemma2Config(**shape, **gemma),
        "gemma3": Gemma3TextConfig(**shape, **gemma),
        "mistral": MistralConfig(
            **shape, head_dim=16, sliding_window=None, tie_word_embeddings=False
        ),
        "qwen": Qwen3Config(**shape, head_dim=16, tie_word_embeddings=True),
        "qwen2": Qwen2Config(**shape, tie_word_embeddings=False),
    }


def build_tiny_model(config: Any, folder: Path, *, adds_bos: bool, seed: int = 0) -> None:
    """Write a random float32 model of a configuration, with its byte tokenizer, to a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval().save_pretrained(folder)
    build_byte_tokenizer(adds_bos=adds_bos).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny random models by family.

    All have 2 layers, hidden size 64, 2,048 positions and a byte tokenizer. ``gemma`` is Gemma 2
    and ``qwen`` is Qwen 3.
    """
    root = tmp_path_factory.mktemp("tiny_models")
    folders: dict[str, str] = {}
    for seed, (family, config) in enumerate(_tiny_configs().items()):
        folder = root / f"tiny-{family}"
        build_tiny_model(
            config, folder, adds_bos=family in ("gemma", "gemma3", "mistral"), seed=seed
        )
        folders[family] = str(folder)
    return folders


@pytest.fixture(scope="session")
def tiny_llama(tiny_models: dict[str, str]) -> str:
    """Folder of the tiny random Llama."""
    return tiny_models["llama"]


@pytest.fixture
def real_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give back the user's home, where pip finds its index settings."""
    monkeypatch.setenv("HOME", _REAL_HOME)
    monkeypatch.delenv("XDG_CONFIG_HOME")


@pytest.fixture
def embedded_cache(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Use the user's own cache of the embedded model; fetch and convert it when it is missing.

    Returns the folder of the converted model.
    """
    from neural_condense_core.llm import embedded

    monkeypatch.setenv("CONDENSE_CACHE", _REAL_CACHE)
    if not embedded.is_cached():
        request.getfixturevalue("real_home")
    return embedded.model_path(progress=False)
