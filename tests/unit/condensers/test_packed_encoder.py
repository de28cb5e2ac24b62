"""The encoder for CPUs: the same states as the layers it replaces, whatever lies beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neural_condense_core.condensers import packed_encoder
from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.int8 import is_fast
from neural_condense_core.condensers.packed_encoder import PackedEncoder, packed_or_none
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.llm.hf import load_target

needs_int8 = pytest.mark.skipif(not is_fast(), reason="no fast products of 8-bit integers here")
CONFIG = {"n_layers": 2, "lora_r": 4, "lora_alpha": 8}


def decoder_of(folder: str) -> tuple[Any, torch.Tensor]:
    target = load_target(folder, dtype="float32")
    return target.first_layers(2), target.embed_ids(torch.arange(3, 67))


def expected_states(decoder: Any, embeds: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        out = decoder(
            inputs_embeds=embeds[None],
            attention_mask=torch.ones(1, len(embeds), dtype=torch.long),
            output_hidden_states=True,
        )
    return [out.last_hidden_state[0], out.hidden_states[1][0]]


@needs_int8
@pytest.mark.parametrize("attention", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_states_are_those_of_the_layers(
    tiny_models: dict[str, str], family: str, attention: torch.dtype
) -> None:
    decoder, probe = decoder_of(tiny_models[family])
    packed = PackedEncoder(decoder, 1, 64, probe)
    packed.attention_dtype, packed.ahead = attention, packed.ahead.to(attention)
    lengths, start = [37, 1, 64], 0
    embeds = probe[torch.randint(0, len(probe), (sum(lengths),))]
    with torch.inference_mode():
        found = packed(embeds, lengths)
    for length in lengths:
        window = slice(start, start + length)
        for states, expected in zip(found, expected_states(decoder, embeds[window]), strict=True):
            cosine = torch.cosine_similarity(states[window], expected)
            assert cosine.mean() > 0.998, (family, length)
            assert cosine.min() > 0.98, (family, length)
        start += length


@needs_int8
def test_another_architecture_keeps_its_own_layers(tiny_models: dict[str, str]) -> None:
    for family in ("gemma", "qwen"):
        decoder, probe = decoder_of(tiny_models[family])
        assert packed_or_none(decoder, 1, 64, probe) is None
    decoder, probe = decoder_of(tiny_models["llama"])
    assert packed_or_none(decoder, 1, 64, probe) is not None


@needs_int8
def test_layers_that_only_look_alike_are_found_out(tiny_llama: str) -> None:
    decoder, probe = decoder_of(tiny_llama)
    decoder.layers[0].mlp.act_fn = nn.Tanh()
    assert packed_or_none(decoder, 1, 64, probe) is None


def test_without_fast_products_there_is_none(
    tiny_llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_encoder, "is_fast", lambda: False)
    decoder, probe = decoder_of(tiny_llama)
    assert packed_or_none(decoder, 1, 64, probe) is None


@needs_int8
def test_a_packed_condenser_condenses_as_before(tiny_llama: str) -> None:
    torch.manual_seed(0)
    condenser = PooledCondenser.create(LoadOptions(tiny_llama, dtype="float32"), CONFIG)
    with torch.no_grad():
        for name, tensor in condenser.trained_state().items():
            if not name.startswith(("salience.", "informativeness")) and "lora" not in name:
                tensor.normal_(0.0, 0.1)
    rng = np.random.default_rng(0)
    contexts = [rng.integers(3, 250, n).tolist() for n in (300, 5, 256, 40)]
    before = condenser.condense(contexts, 4)
    condenser.module.pack(condenser.window_tokens, contexts[0])
    assert condenser.module.packed is not None
    together = condenser.condense(contexts, 4)
    for ids, one, two in zip(contexts, before, together, strict=True):
        np.testing.assert_array_equal(one.positions, two.positions)
        products = (one.embeds * two.embeds).sum(1)
        norms = np.linalg.norm(one.embeds, axis=1) * np.linalg.norm(two.embeds, axis=1)
        assert (products / norms).min() > 0.98
        (alone,) = condenser.condense([ids], 4)
        np.testing.assert_allclose(alone.embeds, two.embeds, atol=1e-4)


@needs_int8
def test_only_the_automatic_choice_packs(tiny_llama: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    condenser = PooledCondenser.create(LoadOptions(tiny_llama, dtype="float32"), CONFIG)
    condenser.save(tmp_path, "mine", [4])
    for dtype, is_packed in (("auto", True), ("float32", False), ("bfloat16", False)):
        loaded = PooledCondenser.load(LoadOptions(tiny_llama, tmp_path, dtype=dtype))
        assert (loaded.module.packed is not None) == is_packed
