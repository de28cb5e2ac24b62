"""Tiny random checkpoints in the layouts that the authors of ARC-Encoder and LCLM publish."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

ARC_SHAPE: dict[str, Any] = {
    "dim": 32, "n_layers": 5, "head_dim": 8, "hidden_dim": 48, "n_heads": 4, "n_kv_heads": 2,
    "norm_eps": "1e-05", "vocab_size": 259, "rope_theta": 10000.0, "max_batch_size": 1,
    "sliding_window": None, "model_type": "transformer",
}  # fmt: skip
TRUNCATED = 2
BRIDGE_DIM = 24


def write_arc_encoder(
    folder: Path, out_dim: int = 64, *, pooling: int = 4, n_decoders: int = 1, cont_tok: bool = True
) -> dict[str, np.ndarray]:
    """Write model.safetensors and config.json as published; return the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(7)
    config = {
        "bridge_args": {
            "bridge_type": "mlp" if n_decoders == 1 else "multi_module",
            "hidden_dim": BRIDGE_DIM, "in_dim": ARC_SHAPE["dim"], "out_dim": out_dim,
        },
        "embedder": None,
        "embedder_args": {
            "causal_embedder": False, "compress_rates": [-pooling], "cont_tok": cont_tok,
            "memory_tokens": 0, "n_truncated_layers": TRUNCATED,
            "pooling_module": {"pool_type": "mean_pooled_queries", "where": "before"},
            "rec_tok": True, "train_embedding_mtx": True, "trained_layers": 27,
        },
        "empty_init": n_decoders, "llms": [], "model_args": ARC_SHAPE,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, scale: float = 1.0) -> None:
        tensors[name] = (scale * draw.normal(size=shape)).astype(np.float32)

    dim, inner, width = ARC_SHAPE["dim"], ARC_SHAPE["hidden_dim"], ARC_SHAPE["head_dim"]
    queries, keys = ARC_SHAPE["n_heads"] * width, ARC_SHAPE["n_kv_heads"] * width
    add("embedder.tok_embeddings.weight", ARC_SHAPE["vocab_size"], dim)
    for i in range(ARC_SHAPE["n_layers"] - TRUNCATED):
        layer = f"embedder.layers.{i}."
        add(f"{layer}attention.wq.weight", queries, dim, scale=dim**-0.5)
        add(f"{layer}attention.wk.weight", keys, dim, scale=dim**-0.5)
        add(f"{layer}attention.wv.weight", keys, dim, scale=dim**-0.5)
        add(f"{layer}attention.wo.weight", dim, queries, scale=dim**-0.5)
        add(f"{layer}feed_forward.w1.weight", inner, dim, scale=dim**-0.5)
        add(f"{layer}feed_forward.w2.weight", dim, inner, scale=inner**-0.5)
        add(f"{layer}feed_forward.w3.weight", inner, dim, scale=dim**-0.5)
        for norm in ("attention_norm", "ffn_norm"):
            tensors[f"{layer}{norm}.weight"] = draw.uniform(0.5, 1.5, dim).astype(np.float32)
    for decoder in range(n_decoders):
        bridge = f"bridge_module.{decoder}." if n_decoders > 1 else "bridge_module."
        add(f"{bridge}layer1.weight", BRIDGE_DIM, dim, scale=dim**-0.5)
        add(f"{bridge}layer2.weight", out_dim, BRIDGE_DIM, scale=BRIDGE_DIM**-0.5)
        add(f"embedder.rec_tok.{decoder}.weight", 1, dim)
        if cont_tok:
            add(f"embedder.cont_tok.{decoder}.weight", 1, dim)
    save_file(tensors, folder / "model.safetensors")
    return tensors


def write_lclm(
    folder: Path, tiny_models: dict[str, str], *, ratio: int = 4, window: int = 32
) -> dict[str, np.ndarray]:
    """Write encoder/, decoder/, adapter/ and model_config.json as published; return the adapter."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(tiny_models["qwen"], folder / "encoder")
    decoder = AutoModelForCausalLM.from_pretrained(tiny_models["qwen2"])
    tokenizer = AutoTokenizer.from_pretrained(tiny_models["qwen2"])
    markers = ["<|memory_start|>", "<|memory_end|>", "<|memory|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": markers})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        decoder.resize_token_embeddings(len(tokenizer))
    decoder.save_pretrained(folder / "decoder")
    tokenizer.save_pretrained(folder / "decoder")
    settings = {
        "compression_ratio": ratio, "encoder_window_size": window, "pooling": "mean",
        "encoder_mask_type": "causal", "boundary_overlap": 0, "adapter_type": "mlp",
    }  # fmt: skip
    (folder / "model_config.json").write_text(json.dumps(settings), encoding="utf-8")
    draw = np.random.default_rng(11)
    tensors = {
        "norm.weight": draw.uniform(0.5, 1.5, 64), "fc1.weight": draw.normal(size=(64, 64)) / 8,
        "fc1.bias": draw.normal(size=64), "fc2.weight": draw.normal(size=(64, 64)) / 8,
        "fc2.bias": draw.normal(size=64),
    }  # fmt: skip
    adapter = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    (folder / "adapter").mkdir()
    save_file(adapter, folder / "adapter" / "adapter.safetensors")
    return adapter
