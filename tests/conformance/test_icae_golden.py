"""The published ICAE v2 variant computes what the published code computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.checkpoints import (
    CheckpointConfig,
    load_condenser,
    write_config,
)
from neural_condense_core.condensers.icae import IcaeCondenser
from neural_condense_core.errors import CheckpointError, RequestError
from neural_condense_core.llm.hf import _load_target

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "icae_v2"
BASE = str(GOLDEN / "base")
CASE = json.loads((GOLDEN / "case.json").read_text(encoding="utf-8"))
MAX_ABS = 1e-4
BOS = 1
FIRST_A = "icae.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
MEMORY = "memory_token_embed.weight"


def load(checkpoint=GOLDEN / "icae.safetensors", dtype="float32", base=BASE):
    return IcaeCondenser.load(LoadOptions(base, checkpoint, dtype=dtype))


def published_folder(folder, **config):
    folder.mkdir(exist_ok=True)
    shutil.copy(GOLDEN / "icae.safetensors", folder / "mistral_icae.safetensors")
    settings = {"variant": "published-v2", "lora_alpha": 32, **config}
    write_config(folder, CheckpointConfig("published", "icae", BASE, 32, (4,), settings))
    return folder


@pytest.mark.parametrize("name", CASE["texts"])
def test_matches_the_published_code(name):
    condenser = load()
    expected = load_file(GOLDEN / "expected.safetensors")[name]
    ids = condenser.tokenize(CASE["texts"][name])
    assert condenser.n_condensed_tokens(len(ids), 4) == len(expected)
    (found,) = condenser.condense([ids], 4)
    assert found.embeds.dtype == np.float32
    assert np.abs(found.embeds - expected).max() <= MAX_ABS
    assert (found.n_context_tokens, found.positions) == (len(ids), None)


def test_a_batch_matches_too():
    condenser = load()
    expected = load_file(GOLDEN / "expected.safetensors")
    contexts = [condenser.tokenize(text) for text in CASE["texts"].values()]
    for name, found in zip(CASE["texts"], condenser.condense(contexts, 4), strict=True):
        assert np.abs(found.embeds - expected[name]).max() <= MAX_ABS


def test_bfloat16_is_near():
    condenser = load(dtype="bfloat16")
    expected = load_file(GOLDEN / "expected.safetensors")["two_spans"]
    (found,) = condenser.condense([condenser.tokenize(CASE["texts"]["two_spans"])], 4)
    cosines = (found.embeds * expected).sum(1)
    cosines /= np.linalg.norm(found.embeds, axis=1) * np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99


def test_a_folder_loads_by_its_path(tmp_path):
    condenser = load_condenser(str(published_folder(tmp_path / "published")), dtype="float32")
    assert (condenser.name, condenser.ratios) == ("published", (4,))
    expected = load_file(GOLDEN / "expected.safetensors")["one_span"]
    (found,) = condenser.condense([condenser.tokenize(CASE["texts"]["one_span"])], 4)
    assert np.abs(found.embeds - expected).max() <= MAX_ABS


def test_alpha_of_the_config_counts(tmp_path):
    (alpha_32,) = load().condense([[1, 40, 41, 42]], 4)
    (alpha_1,) = load(published_folder(tmp_path, lora_alpha=1)).condense([[1, 40, 41, 42]], 4)
    assert np.abs(alpha_32.embeds - alpha_1.embeds).max() > MAX_ABS


def test_the_target_keeps_its_logits():
    ids = torch.tensor([[1, 40, 41, 42]])
    condenser = load()
    untouched = _load_target.__wrapped__(BASE, "cpu", "float32")
    with torch.no_grad():
        assert torch.equal(condenser.target.model(ids).logits, untouched.model(ids).logits)
    shared = condenser.decoder.layers[0].self_attn.q_proj.base_layer.weight
    own = condenser.target.decoder.layers[0].self_attn.q_proj.weight
    assert shared.data_ptr() == own.data_ptr()


def test_only_its_own_ratio_is_on_offer():
    with pytest.raises(RequestError, match="not offered"):
        load().condense([[1, 2]], 8)


def damaged(tmp_path, change):
    tensors = load_torch(GOLDEN / "icae.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "icae.safetensors")
    return tmp_path / "icae.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(FIRST_A), f"{FIRST_A} is missing"),
        (lambda t: t.pop(MEMORY), f"{MEMORY} is missing"),
        (lambda t: t.pop(FIRST_A.replace("q_proj", "v_proj")), "missing .*v_proj.lora_A"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda t: t.update({FIRST_A.replace("layers.0", "layers.2"): torch.zeros(8, 32)}),
            "unexpected .*layers.2",
        ),
        (
            lambda t: t.update({FIRST_A.replace("lora_A", "lora_B"): torch.zeros(32, 7)}),
            "is 32x7 and has to be 32x8",
        ),
        (lambda t: t.update({MEMORY: torch.zeros(131, 31)}), "is 131x31 and has to be 131x32"),
        (lambda t: t.update({MEMORY: torch.zeros(2, 32)}), "mem_size -1"),
        (lambda t: t[MEMORY].fill_(float("nan")), "NaN or infinity"),
        (lambda t: t.update({MEMORY: torch.zeros(131, 32, dtype=torch.int64)}), "is I64"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load(damaged(tmp_path, change))


def test_bytes_that_are_no_safetensors_are_refused(tmp_path):
    path = tmp_path / "icae.safetensors"
    path.write_bytes((GOLDEN / "icae.safetensors").read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged or not safetensors"):
        load(path)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(tmp_path)


def test_another_base_model_is_refused(tiny_llama):
    with pytest.raises(CheckpointError, match=r"has to be .*another target model"):
        load(base=tiny_llama)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lora_r": 16}, "has lora_r 8, its config says 16"),
        ({"mem_size": 64}, "has mem_size 128, its config says 64"),
        ({"lora_alpha": 0}, "lora_alpha must be a whole number"),
        ({"rank": 8}, "no setting 'rank'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, config, message):
    with pytest.raises(CheckpointError, match=message):
        load(published_folder(tmp_path, **config))


def test_a_folder_with_two_files_is_ambiguous(tmp_path):
    folder = published_folder(tmp_path, lora_r=8, mem_size=128)
    shutil.copy(folder / "mistral_icae.safetensors", folder / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 2 \.safetensors files"):
        load(folder)


@pytest.mark.parametrize(
    ("n_context", "n_spans"), [(1, 1), (512, 1), (513, 2), (1024, 2), (1025, 3), (16384, 32)]
)
def test_spans_are_counted_as_published(n_context, n_spans):
    condenser = load()
    assert condenser.n_condensed_tokens(n_context, 4) == 128 * n_spans
    for first, n_added in ((BOS, 0), (40, 1)):
        spans = condenser._spans([first, *[41] * (n_context - 1)])
        assert (len(spans), sum(map(len, spans))) == (n_spans, n_context + n_added)
        assert spans[0][0] == BOS
        assert max(map(len, spans)) == -(-(n_context + n_added) // n_spans)


@pytest.mark.parametrize("name", CASE["texts"])
def test_ids_without_the_first_token_match_the_published_code_too(name):
    condenser = load()
    expected = load_file(GOLDEN / "expected.safetensors")[name]
    ids = condenser.target.tokenize(CASE["texts"][name])
    assert condenser.tokenize(CASE["texts"][name]) == [BOS, *ids]
    (found,) = condenser.condense([ids], 4)
    assert found.n_context_tokens == len(ids)
    assert found.n_condensed_tokens == condenser.n_condensed_tokens(len(ids), 4)
    assert np.abs(found.embeds - expected).max() <= MAX_ABS


@pytest.mark.parametrize("first", [1, 40])
@pytest.mark.parametrize("n_context", [511, 512, 513, 1024])
def test_promised_lengths_are_kept_with_the_first_token_and_without(n_context, first):
    condenser = load()
    (found,) = condenser.condense([[first, *[41] * (n_context - 1)]], 4)
    assert found.n_condensed_tokens == condenser.n_condensed_tokens(n_context, 4)
    assert found.n_context_tokens == n_context


def test_a_tokenizer_that_puts_nothing_first_gets_nothing(tmp_path):
    base = shutil.copytree(BASE, tmp_path / "base")
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    (base / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    condenser = load(base=str(base))
    assert condenser._spans([40, 41]) == [[40, 41]]
