"""The tiny random Llama of the tests as a GGUF file, float32, for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

from neural_condense_core.llm.hf import HFTarget

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Order the rows of a head as llama.cpp's rotation wants them: pairs side by side."""
    n_rows, n_columns = weight.shape
    split = weight.reshape(n_heads, 2, n_rows // n_heads // 2, n_columns)
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(n_rows, n_columns))


def write_tiny_gguf(target: HFTarget, path: Path) -> Path:
    """Write a tiny Llama with its byte tokenizer."""
    config = target.model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _write_tokenizer(writer, target)
    _write_weights(writer, target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer: GGUFWriter, target: HFTarget) -> None:
    tokenizer = target.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([
        TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(tokens))
    ])
    # the format wants one; the two bytes never stand in a text of UTF-8
    writer.add_token_merges(["ÿ þ"])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _write_weights(writer: GGUFWriter, target: HFTarget) -> None:
    config = target.model.config
    weights = {name: value.float().numpy() for name, value in target.model.state_dict().items()}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for i in range(config.num_hidden_layers):
        for name, ours in _LAYER.items():
            value = weights[f"model.layers.{i}.{ours}.weight"]
            if name in heads:
                value = _interleaved(value, heads[name])
            writer.add_tensor(f"blk.{i}.{name}.weight", value)
