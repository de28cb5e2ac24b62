"""Condensed tokens in each engine's own form."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch

from neural_condense_core.llm.handoff import (
    to_hf,
    to_llama_cpp,
    to_sglang,
    to_vllm_chat_part,
    to_vllm_completion,
)
from neural_condense_core.tokens import CondensedTokens


@pytest.fixture(params=[np.float32, np.float16])
def tokens(request: pytest.FixtureRequest) -> CondensedTokens:
    rows = np.random.default_rng(3).normal(size=(5, 8)).astype(request.param)
    return CondensedTokens(rows, "tiny", 20)


def unpacked(payload: str) -> torch.Tensor:
    """What vLLM makes of a payload; the bytes are our own."""
    raw = base64.b64decode(payload, validate=True)
    found: torch.Tensor = torch.load(io.BytesIO(raw), weights_only=True)
    return found


def test_to_hf_is_a_batch_of_one_that_shares_no_memory(tokens: CondensedTokens) -> None:
    found = to_hf(tokens, dtype=torch.bfloat16)
    assert found.shape == (1, 5, 8)
    assert found.dtype == torch.bfloat16
    plain = to_hf(tokens)
    np.testing.assert_array_equal(plain[0].numpy(), tokens.embeds)
    plain.zero_()
    assert tokens.embeds.any()


def test_to_llama_cpp_is_contiguous_float32(tokens: CondensedTokens) -> None:
    found = to_llama_cpp(tokens)
    assert (found.dtype, found.flags.c_contiguous, found.flags.owndata) == (np.float32, True, True)
    np.testing.assert_array_equal(found, tokens.embeds.astype(np.float32))


def test_to_vllm_chat_part_holds_the_matrix_in_its_own_dtype(tokens: CondensedTokens) -> None:
    part = to_vllm_chat_part(tokens)
    assert part["type"] == "prompt_embeds"
    found = unpacked(part["data"]).numpy()
    assert found.dtype == tokens.embeds.dtype
    np.testing.assert_array_equal(found, tokens.embeds)


def test_to_vllm_completion_joins_the_text_around(tokens: CondensedTokens) -> None:
    alone = to_vllm_completion(tokens)
    assert list(alone) == ["prompt_embeds"]
    assert unpacked(alone["prompt_embeds"]).numpy().tobytes() == tokens.embeds.tobytes()
    before, after = np.ones((2, 8), np.float32), np.zeros((1, 8), np.float32)
    joined = unpacked(to_vllm_completion(tokens, before=before, after=after)["prompt_embeds"])
    np.testing.assert_array_equal(joined, np.concatenate([before, tokens.embeds, after]))


def test_to_sglang_is_plain_floats_that_come_back_exactly(tokens: CondensedTokens) -> None:
    rows = to_sglang(tokens, after=np.ones((1, 8), np.float32))["input_embeds"]
    assert type(rows[0][0]) is float
    np.testing.assert_array_equal(np.array(rows[:5], np.float32), tokens.embeds.astype(np.float32))
    assert rows[5] == [1.0] * 8


def test_rows_of_another_model_do_not_join(tokens: CondensedTokens) -> None:
    with pytest.raises(ValueError, match="dimension"):
        to_vllm_completion(tokens, before=np.ones((2, 9), np.float32))
