"""The fixtures themselves: isolation holds and the tiny models are what tests take them for."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

FAMILIES = ("llama", "gemma", "gemma3", "mistral", "qwen", "qwen2")


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.com"])
def test_other_machines_are_out_of_reach(host):
    with pytest.raises(RuntimeError, match="loopback only"):
        socket.create_connection((host, 80), timeout=0.1)


def test_loopback_is_in_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_home_is_private():
    assert "neural-condense-tests-" in os.environ["HOME"]
    assert Path.home() == Path(os.environ["HOME"])
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "CONDENSE_CACHE" not in os.environ


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_models_are_small_and_of_their_family(tiny_models, family):
    config = json.loads((Path(tiny_models[family]) / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"]) == (64, 2)
    assert config["model_type"].startswith(family[:5])


@pytest.mark.parametrize("family", FAMILIES)
def test_byte_tokenizer_loses_nothing(tiny_models, family):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_models[family])
    text = "héllo\x00 wörld 😀\n two  spaces"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert tokenizer("a").input_ids[0] == (0 if family in ("gemma", "gemma3", "mistral") else 67)
