"""ARC-Encoder: the published layout, against an independent computation in plain numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from published_checkpoints import ARC_SHAPE, TRUNCATED, write_arc_encoder
from safetensors.numpy import load_file, save_file

from neural_condense_core.commands import pulling
from neural_condense_core.condensers.arc_encoder import ArcConfig
from neural_condense_core.condensers.arc_encoder_network import pooling_weights
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.errors import CheckpointError, ConfigError, RequestError
from neural_condense_core.evaluation.evaluator import EvaluationConfig, Evaluator
from neural_condense_core.llm.hf import load_target

WINDOW = 1024


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))


def install(folder, target, name="arc", **settings):
    request = pulling.Request(
        str(folder), name=name, target_model=target, settings=tuple(settings.items()), replace=True
    )
    return pulling.install(pulling.plan(request))


def rms(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + float(ARC_SHAPE["norm_eps"])) * weight


def rotary(heads):
    """Turn (n, heads, width) by complex numbers, pairs being neighbours."""
    n, _, width = heads.shape
    frequency = float(ARC_SHAPE["rope_theta"]) ** (-np.arange(0, width, 2) / width)
    turn = np.exp(1j * np.arange(n)[:, None] * frequency)[:, None]
    turned = (heads[..., ::2] + 1j * heads[..., 1::2]) * turn
    return np.stack([turned.real, turned.imag], -1).reshape(heads.shape)


def layer_of(tensors, i, x, kv):
    def weight(name):
        return tensors[f"embedder.layers.{i}.{name}.weight"].astype(np.float64)

    width, groups = ARC_SHAPE["head_dim"], ARC_SHAPE["n_heads"] // ARC_SHAPE["n_kv_heads"]
    normed = rms(kv, weight("attention_norm"))
    query = (rms(x, weight("attention_norm")) @ weight("attention.wq").T).reshape(len(x), -1, width)
    key = (normed @ weight("attention.wk").T).reshape(len(kv), -1, width)
    value = (normed @ weight("attention.wv").T).reshape(len(kv), -1, width)
    query, key = rotary(query), rotary(key)
    read = np.zeros_like(query)
    for head in range(ARC_SHAPE["n_heads"]):
        scores = query[:, head] @ key[:, head // groups].T / np.sqrt(width)
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        read[:, head] = odds / odds.sum(-1, keepdims=True) @ value[:, head // groups]
    x = x + read.reshape(len(x), -1) @ weight("attention.wo").T
    inner = rms(x, weight("ffn_norm"))
    gate = inner @ weight("feed_forward.w1").T
    gated = gate / (1 + np.exp(-gate)) * (inner @ weight("feed_forward.w3").T)
    return x + gated @ weight("feed_forward.w2").T


def reference(tensors, ids, pooling, bridge="bridge_module.", decoder=0):
    """Condense one text: bidirectional layers, mean queries in the last, two linear maps."""
    x = tensors["embedder.tok_embeddings.weight"][ids].astype(np.float64)
    n_layers = ARC_SHAPE["n_layers"] - TRUNCATED
    for i in range(n_layers - 1):
        x = layer_of(tensors, i, x, x)
    groups = np.array_split(x, -(-len(ids) // pooling))
    pooled = layer_of(tensors, n_layers - 1, np.stack([group.mean(0) for group in groups]), x)
    task = tensors.get(f"embedder.cont_tok.{decoder}.weight")
    states = pooled if task is None else np.concatenate([pooled, task])
    return states @ tensors[f"{bridge}layer1.weight"].T @ tensors[f"{bridge}layer2.weight"].T


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 64, 65, 203])
@pytest.mark.parametrize(("pooling", "cont_tok"), [(4, True), (8, True), (4, False)])
def test_computes_what_an_independent_reading_computes(
    tmp_path, tiny_llama, length, pooling, cont_tok
):
    tensors = write_arc_encoder(tmp_path / "raw", pooling=pooling, cont_tok=cont_tok)
    install(tmp_path / "raw", tiny_llama)
    condenser = load_condenser("arc", dtype="float32")
    ids = np.random.default_rng(length).integers(0, 259, length).tolist()
    (found,) = condenser.condense([ids], pooling)
    expected = reference(tensors, ids, pooling)
    assert len(expected) == condenser.n_condensed_tokens(length, pooling)
    np.testing.assert_allclose(found.embeds, expected, atol=2e-4)
    assert (found.target_model, found.n_context_tokens) == (tiny_llama, length)


def test_each_target_model_of_several_has_its_own_maps(tmp_path, tiny_llama):
    tensors = write_arc_encoder(tmp_path / "raw", n_decoders=2)
    install(tmp_path / "raw", tiny_llama, decoder=1)
    (found,) = load_condenser("arc", dtype="float32").condense([[5, 6, 7, 8, 9]], 4)
    expected = reference(tensors, [5, 6, 7, 8, 9], 4, "bridge_module.1.", 1)
    np.testing.assert_allclose(found.embeds, expected, atol=2e-4)


def test_a_long_text_is_cut_into_windows_with_one_task_token_behind(tmp_path, tiny_llama):
    tensors = write_arc_encoder(tmp_path / "raw")
    install(tmp_path / "raw", tiny_llama, window_tokens=48)
    ids = np.random.default_rng(0).integers(0, 259, 100).tolist()
    (found,) = load_condenser("arc", dtype="float32").condense([ids], 4)
    pieces = [reference(tensors, ids[i : i + 48], 4) for i in range(0, 100, 48)]
    expected = np.concatenate([pieces[0][:-1], pieces[1][:-1], pieces[2]])
    np.testing.assert_allclose(found.embeds, expected, atol=2e-4)


@pytest.mark.parametrize(
    ("length", "pooling", "sizes"),
    [(8, 4, [4, 4]), (9, 4, [3, 3, 3]), (7, 4, [4, 3]), (2, 4, [2]), (11, 8, [6, 5])],
)
def test_groups_differ_by_at_most_one_token_the_larger_first(length, pooling, sizes):
    (weights,) = pooling_weights(torch.tensor([length]), 16, pooling)
    assert [int((row > 0).sum()) for row in weights if row.any()] == sizes
    assert weights.sum().item() == pytest.approx(len(sizes))


def test_the_tokenizer_is_the_file_s_where_there_is_one(tmp_path, tiny_models):
    from tokenizers import Tokenizer

    write_arc_encoder(tmp_path / "raw")
    tokenizer = Tokenizer.from_file(f"{tiny_models['mistral']}/tokenizer.json")
    tokenizer.save(str(tmp_path / "raw" / "tokenizer.json"))
    install(tmp_path / "raw", tiny_models["mistral"])
    condenser = load_condenser("arc", dtype="float32")
    expected = tokenizer.encode("Any text", add_special_tokens=False).ids
    assert condenser.tokenize("Any text") == expected
    assert len(expected) == len("Any text"), "no token of its own in front"
    assert condenser.reads_target_tokens, "both are of the same vocabulary"


def test_another_tokenizer_than_the_target_s_has_to_be_given(tmp_path, tiny_llama, monkeypatch):
    monkeypatch.setitem(ARC_SHAPE, "vocab_size", 300)
    write_arc_encoder(tmp_path / "raw")
    install(tmp_path / "raw", tiny_llama)
    with pytest.raises(CheckpointError, match="--tokenizer"):
        load_condenser("arc", dtype="float32")
    request = pulling.Request(
        str(tmp_path / "raw"), name="told", target_model=tiny_llama, tokenizer=tiny_llama
    )
    pulling.install(pulling.plan(request))
    condenser = load_condenser("told", dtype="float32")
    assert condenser.tokenize("ab")
    with pytest.raises(RequestError, match="tokenize with told"):
        condenser.condense([[5], [5, 300]], 4)


def test_token_ids_of_another_tokenizer_are_told_apart(tmp_path, tiny_llama):
    from tokenizers import Tokenizer

    write_arc_encoder(tmp_path / "raw")
    stored = json.loads((Path(tiny_llama) / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = stored["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    Tokenizer.from_str(json.dumps(stored)).save(str(tmp_path / "raw" / "tokenizer.json"))
    install(tmp_path / "raw", tiny_llama)
    condenser = load_condenser("arc", dtype="float32")
    assert not condenser.reads_target_tokens
    target = load_target(tiny_llama, "cpu", "float32")
    with pytest.raises(ConfigError, match="tokenizes otherwise"):
        Evaluator(target, [condenser], [], EvaluationConfig()).check()


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("embedder_args", "causal_embedder", True, "causal_embedder is True"),
        ("embedder_args", "memory_tokens", 8, "memory_tokens is 8"),
        ("embedder_args", "compress_rates", [-8, -2], "one number"),
        ("embedder_args", "compress_rates", [32], "-2 or lower"),
        ("embedder_args", "pooling_module", {"pool_type": "svd", "where": "before"}, "pool_type"),
        ("bridge_args", "bridge_type", None, "bridge_type"),
        ("model_args", "dim", "3072", "dim must be a whole number"),
        ("model_args", "norm_eps", "tiny", "norm_eps must be a number"),
        ("model_args", "rope_theta", -1, "rope_theta must be positive"),
        ("model_args", "n_kv_heads", 3, "multiple of n_kv_heads"),
        ("model_args", "n_layers", 2, "positive: n_layers"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_is_installed(
    tmp_path, tiny_llama, section, key, value, said
):
    write_arc_encoder(tmp_path / "raw")
    path = tmp_path / "raw" / "config.json"
    config = json.loads(path.read_text())
    config[section][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        install(tmp_path / "raw", tiny_llama)
    assert not (tmp_path / "cache" / "condensers" / "arc").exists()


def change(folder, name, tensor):
    path = folder / "published" / "model.safetensors"
    tensors = load_file(path)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("bridge_module.layer1.weight", None, "missing bridge_module.layer1.weight"),
        ("embedder.norm.weight", np.ones(32, np.float32), "unexpected embedder.norm.weight"),
        ("bridge_module.layer2.weight", np.ones((64, 9), np.float32), "64x9 and has to be 64x24"),
        ("bridge_module.layer2.weight", np.full((64, 24), np.nan, np.float32), "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, tiny_llama, name, tensor, said):
    write_arc_encoder(tmp_path / "raw")
    folder = install(tmp_path / "raw", tiny_llama)
    change(folder, name, tensor)
    with pytest.raises(CheckpointError, match=said):
        load_condenser("arc", dtype="float32")


def test_a_target_model_of_another_width_is_refused(tmp_path, tiny_llama):
    write_arc_encoder(tmp_path / "raw", out_dim=48)
    install(tmp_path / "raw", tiny_llama)
    with pytest.raises(CheckpointError, match="width 48"):
        load_condenser("arc")


def test_without_a_target_model_it_asks_for_one(tmp_path, tiny_llama):
    write_arc_encoder(tmp_path / "raw")
    install(tmp_path / "raw", None)
    with pytest.raises(CheckpointError, match="does not say which target model"):
        load_condenser("arc")
    assert load_condenser("arc", tiny_llama, dtype="float32").hidden_size == 64


def test_only_its_own_ratio_is_offered(tmp_path, tiny_llama):
    write_arc_encoder(tmp_path / "raw")
    install(tmp_path / "raw", tiny_llama)
    with pytest.raises(RequestError, match="not offered"):
        load_condenser("arc", dtype="float32").condense([[1, 2, 3]], 8)


def test_the_method_s_bare_name_says_what_to_do(tiny_llama):
    with pytest.raises(CheckpointError, match="condense models pull"):
        load_condenser("arc-encoder", tiny_llama)


@pytest.mark.parametrize("settings", [{"dim": 3}, {"unknown": 1}, {"dim": "3"}])
def test_settings_of_an_installed_one_are_checked(settings):
    with pytest.raises(CheckpointError):
        ArcConfig.parse(settings)
