"""LCLM: the published layout, against an independent computation."""

from __future__ import annotations

import json
import shutil
from math import erf

import numpy as np
import pytest
import torch
from published_checkpoints import write_lclm
from safetensors.numpy import load_file

from neural_condense_core.commands import pulling
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.errors import CheckpointError
from neural_condense_core.llm.base import TokenIds, as_segment
from neural_condense_core.llm.hf import load_target

RATIO, WINDOW = 4, 32


@pytest.fixture(scope="module")
def raw(tmp_path_factory, tiny_models):
    folder = tmp_path_factory.mktemp("lclm") / "raw"
    write_lclm(folder, tiny_models, ratio=RATIO, window=WINDOW)
    return folder


@pytest.fixture
def copied(raw, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(raw, tmp_path / "changed")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))


def install(folder, **settings):
    request = pulling.Request(str(folder), name="pair", settings=tuple(settings.items()))
    return pulling.install(pulling.plan(request))


def reference(raw, ids):
    """Condense one text: left-padded windows as published, means, the adapter in plain numpy."""
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(raw / "encoder").eval()
    adapter = {name: t.astype(np.float64) for name, t in load_file(
        raw / "adapter" / "adapter.safetensors"
    ).items()}  # fmt: skip
    windows = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
    longest = max(map(len, windows))
    rows, mask, places = (torch.zeros(len(windows), longest, dtype=torch.long) for _ in range(3))
    for i, window in enumerate(windows):
        start = longest - len(window)
        rows[i, start:] = torch.tensor(window)
        mask[i, start:] = 1
        places[i, start:] = torch.arange(len(window))
    with torch.no_grad():
        states = encoder(rows, attention_mask=mask, position_ids=places).last_hidden_state
    out = []
    for window, row in zip(windows, states.double().numpy(), strict=True):
        real = row[longest - len(window) :]
        for start in range(0, len(window), RATIO):
            x = real[start : start + RATIO].mean(0)
            x = x / np.sqrt((x**2).mean() + 1e-6) * adapter["norm.weight"]
            x = adapter["fc1.weight"] @ x + adapter["fc1.bias"]
            x = np.array([value * 0.5 * (1 + erf(value / 2**0.5)) for value in x])
            out.append(adapter["fc2.weight"] @ x + adapter["fc2.bias"])
    return np.array(out)


@pytest.mark.parametrize("length", [1, 4, 5, 31, 32, 33, 100])
def test_computes_what_an_independent_reading_computes(raw, length):
    install(raw)
    condenser = load_condenser("pair", dtype="float32")
    ids = np.random.default_rng(length).integers(3, 259, length).tolist()
    (found,) = condenser.condense([ids], RATIO)
    assert found.n_condensed_tokens == condenser.n_condensed_tokens(length, RATIO)
    np.testing.assert_allclose(found.embeds[1:-1], reference(raw, ids), atol=2e-4)


def test_condenser_and_target_model_are_a_pair(raw):
    folder = install(raw)
    condenser = load_condenser("pair", dtype="float32")
    assert condenser.target_model == str(folder / "published" / "decoder")
    target = load_target(condenser.target_model, "cpu", "float32")
    (found,) = condenser.condense([condenser.tokenize("A text for its own decoder.")], RATIO)
    markers = [
        target.tokenizer.convert_tokens_to_ids(f"<|memory_{end}|>") for end in ("start", "end")
    ]
    np.testing.assert_array_equal(found.embeds[[0, -1]], target.embed(markers))
    assert condenser.reads_target_tokens
    answer = target.generate([(as_segment(found), TokenIds((5, 6)))], 2)
    assert len(answer) == 1


def test_no_other_target_model_is_accepted(raw, tiny_llama):
    install(raw)
    with pytest.raises(CheckpointError, match="makes condensed tokens for"):
        load_condenser("pair", tiny_llama)


def test_a_decoder_in_several_files_is_read_by_its_index(copied):
    from transformers import AutoModelForCausalLM

    decoder = AutoModelForCausalLM.from_pretrained(copied / "decoder")
    (copied / "decoder" / "model.safetensors").unlink()
    decoder.save_pretrained(copied / "decoder", max_shard_size="100KB")
    assert (copied / "decoder" / "model.safetensors.index.json").is_file()
    install(copied)
    (found,) = load_condenser("pair", dtype="float32").condense([[5]], RATIO)
    table = decoder.get_input_embeddings().weight.detach().numpy()
    assert (table == found.embeds[0]).all(1).any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pooling", "eos"), ("encoder_mask_type", "bidirectional"), ("boundary_overlap", 64),
        ("adapter_type", "mlp_attn"), ("compression_ratio", 0), ("compression_ratio", 5),
        ("encoder_window_size", None),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_before_anything_is_installed(copied, key, value):
    path = copied / "model_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError):
        install(copied)


@pytest.mark.parametrize("part", ["encoder", "decoder", "adapter"])
def test_half_a_pair_is_refused(copied, part):
    shutil.rmtree(copied / part)
    with pytest.raises(CheckpointError):
        install(copied)


def damaged(folder, relative, body=b"{}"):
    (folder / "published" / relative).write_bytes(body)


@pytest.mark.parametrize(
    ("relative", "said"),
    [
        ("encoder/tokenizer.json", "no readable tokenizer"),
        ("decoder/tokenizer.json", "no readable tokenizer"),
        ("decoder/model.safetensors", "cannot read model.embed_tokens.weight"),
        ("encoder/model.safetensors", "cannot load the encoder"),
        ("adapter/adapter.safetensors", "damaged or not safetensors"),
    ],
)
def test_a_damaged_part_is_an_error_of_ours(raw, relative, said):
    folder = install(raw)
    damaged(folder, relative)
    with pytest.raises(CheckpointError, match=said):
        load_condenser("pair", dtype="float32")


def test_an_index_cannot_lead_out_of_the_folder(raw):
    folder = install(raw)
    index = {"weight_map": {"model.embed_tokens.weight": "../../../../elsewhere.safetensors"}}
    damaged(folder, "decoder/model.safetensors.index.json", json.dumps(index).encode())
    with pytest.raises(CheckpointError, match="leads out"):
        load_condenser("pair", dtype="float32")


def test_a_vocabulary_without_the_markers_is_refused(copied, tiny_models):
    shutil.copy(f"{tiny_models['qwen2']}/tokenizer.json", copied / "decoder" / "tokenizer.json")
    install(copied)
    with pytest.raises(CheckpointError, match="memory_start"):
        load_condenser("pair", dtype="float32")
