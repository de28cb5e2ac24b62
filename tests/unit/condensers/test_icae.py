"""Our own ICAE: memory tokens of spans, trained on a tiny random model."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.checkpoints import load_condenser, read_config, write_config
from neural_condense_core.condensers.icae import IcaeCondenser
from neural_condense_core.condensers.icae_spans import (
    NORM_RANGE,
    SpansConfig,
    embedding_statistics,
)
from neural_condense_core.errors import CheckpointError, ConfigError, RequestError
from neural_condense_core.llm.hf import _load_target, load_target

SMALL = {"n_layers": 2, "lora_r": 4, "lora_alpha": 8}
WEIGHTS = "condenser.safetensors"


def build(model, dtype="float32", **config):
    return IcaeCondenser.create(LoadOptions(model, dtype=dtype), {**SMALL, **config})


def trained(model, dtype="float32", **config):
    """Return a condenser whose every trained tensor is away from its start."""
    condenser = build(model, dtype, **config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in condenser.module.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return condenser


def contexts(*lengths):
    generator = np.random.default_rng(0)
    return [generator.integers(3, 259, n).tolist() for n in lengths]


@pytest.fixture(scope="module")
def condenser(tiny_models):
    return trained(tiny_models["llama"])


def run(module, ids, ratio):
    tensor = torch.tensor(ids)
    return module(tensor, torch.full((len(ids),), tensor.shape[1]), ratio)


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma3", "mistral", "qwen", "qwen2"])
def test_a_row_does_not_depend_on_its_batch(tiny_models, family):
    condenser = trained(tiny_models[family])
    batch = contexts(1, 7, 64, 100, 255, 600)
    for ratio in (2, 16):
        for ids, together in zip(batch, condenser.condense(batch, ratio), strict=True):
            (alone,) = condenser.condense([ids], ratio)
            assert np.abs(together.embeds - alone.embeds).max() <= 1e-4
            assert together.positions.tolist() == alone.positions.tolist()


def test_padding_is_never_read(condenser):
    ids = torch.tensor(contexts(40))
    n_context = torch.tensor([40])
    plain, _ = condenser.module(ids, n_context, 4)
    for filler in (0, 77):
        padded = torch.nn.functional.pad(ids, (0, 88), value=filler)
        found, _ = condenser.module(padded, n_context, 4)
        assert torch.allclose(found[:, :10], plain, atol=1e-5)


def test_every_memory_token_reads_the_whole_span(condenser):
    (ids,) = contexts(64)
    other = [*ids[:-1], ids[-1] ^ 1]
    (one,), (two,) = (condenser.condense([context], 8) for context in (ids, other))
    assert (np.abs(one.embeds - two.embeds).max(axis=1) > 1e-6).all()


def test_bfloat16_batches_agree_and_train_in_float32(tiny_llama):
    condenser = trained(tiny_llama, dtype="bfloat16")
    dtypes = {tensor.dtype for tensor in condenser.trained_state().values()}
    assert dtypes == {torch.float32}
    batch = contexts(30, 200, 300)
    for ids, together in zip(batch, condenser.condense(batch, 4), strict=True):
        (alone,) = condenser.condense([ids], 4)
        products = (together.embeds * alone.embeds).sum(1)
        norms = np.linalg.norm(together.embeds, axis=1) * np.linalg.norm(alone.embeds, axis=1)
        assert (products / norms).min() > 0.999


@settings(deadline=None, max_examples=40)
@given(n_context=st.integers(1, 700), ratio=st.sampled_from((2, 4, 8, 16)))
def test_the_promised_number_comes(condenser, n_context, ratio):
    (found,) = condenser.condense([[65] * n_context], ratio)
    promised = condenser.n_condensed_tokens(n_context, ratio)
    assert found.n_condensed_tokens == promised == math.ceil(n_context / ratio)
    assert (np.diff(found.positions) > 0).all()
    assert found.positions[0] >= 0
    assert found.positions[-1] < n_context


@pytest.mark.parametrize(
    ("contiguous", "n_context", "ratio", "places"),
    [
        (8, 13, 4, [4, 5, 6, 7]),
        (8, 260, 16, [*range(60, 68), *range(188, 196), 257]),
        (1, 13, 4, [1, 5, 9, 12]),
        (1, 260, 16, [*range(7, 256, 16), 257]),
    ],
)
def test_positions_lie_amid_what_a_token_stands_for(
    tiny_llama, contiguous, n_context, ratio, places
):
    condenser = build(tiny_llama, contiguous=contiguous)
    (found,) = condenser.condense(contexts(n_context), ratio)
    assert found.positions.tolist() == places


def test_without_aligned_positions_memory_tokens_stand_behind_the_span(tiny_llama, monkeypatch):
    condenser = build(tiny_llama, aligned=False)
    seen = {}
    forward = condenser.module.encoder.forward
    monkeypatch.setattr(
        condenser.module.encoder, "forward", lambda **given: seen.update(given) or forward(**given)
    )
    run(condenser.module, contexts(8), 4)
    assert seen["position_ids"][0].tolist() == list(range(seen["position_ids"].shape[1]))
    aligned = build(tiny_llama)
    for ids in contexts(40, 90):
        (one,), (other,) = (made.condense([ids], 4) for made in (condenser, aligned))
        assert one.positions.tolist() == other.positions.tolist()


@pytest.mark.parametrize("value", [1, "true", None])
def test_aligned_is_true_or_false(value):
    with pytest.raises(ConfigError, match="true or false"):
        SpansConfig.parse({"aligned": value})
    assert SpansConfig.parse({"aligned": False}).as_dict()["aligned"] is False


def test_memory_tokens_take_their_places_as_position_ids(condenser, monkeypatch):
    seen = {}
    forward = condenser.module.encoder.forward

    def spy(**inputs):
        seen.update(inputs)
        return forward(**inputs)

    monkeypatch.setattr(condenser.module.encoder, "forward", spy)
    run(condenser.module, contexts(8), 4)
    assert seen["position_ids"][0, :10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 3, 4]
    rows = condenser.module.memory[[0, 2]]
    assert torch.equal(seen["inputs_embeds"][0, 8:10], rows)


def test_untrained_output_looks_like_embeddings(tiny_llama):
    condenser = build(tiny_llama)
    mean, std = embedding_statistics(condenser.target)
    (found,) = condenser.condense(contexts(256), 2)
    spread = (found.embeds - mean.numpy()).std()
    assert 0.1 * std.mean() < spread < 1.5 * std.mean()


def test_norms_are_held_in_range(condenser):
    (found,) = condenser.condense(contexts(200), 2)
    mean_norm = condenser.target.embedding_scale * condenser.hidden_size**0.5
    with torch.no_grad():
        for factor, bound in ((1e3, NORM_RANGE[1]), (1e-3, NORM_RANGE[0])):
            states = factor * torch.from_numpy(found.embeds)
            saved = condenser.module.output.bias.clone()
            condenser.module.output.weight.mul_(factor)
            condenser.module.output.bias.mul_(factor)
            norms = condenser.module._project(states).norm(dim=-1) / mean_norm
            condenser.module.output.weight.div_(factor)
            condenser.module.output.bias.copy_(saved)
            assert torch.allclose(norms, torch.full_like(norms, bound), rtol=1e-3)


def test_statistics_are_those_of_the_embedding_layer(tiny_models):
    target = load_target(tiny_models["gemma3"], "cpu", "float32")
    rows = target.embed_ids(torch.arange(259))
    mean, std = embedding_statistics(target)
    assert torch.allclose(mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(std, rows.std(0, correction=0), atol=1e-5)


def test_the_target_keeps_its_logits(tiny_llama):
    ids = torch.tensor(contexts(20))
    condenser = trained(tiny_llama)
    run(condenser.module, ids.tolist(), 4)[0].sum().backward()
    untouched = _load_target.__wrapped__(tiny_llama, "cpu", "float32")
    with torch.no_grad():
        assert torch.equal(condenser.target.model(ids).logits, untouched.model(ids).logits)
    assert all(parameter.grad is None for parameter in condenser.target.model.parameters())


def test_the_generator_decides_the_start(tiny_llama):
    def start(seed):
        torch.manual_seed(seed)
        return build(tiny_llama).trained_state()

    one, two, other = start(3), start(3), start(4)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["memory"], other["memory"])


def reading_loss(condenser, ids, embeds):
    """Loss of the frozen target on naming the tokens of a context behind condensed tokens."""
    target = condenser.target
    inputs = torch.cat([embeds.to(target.dtype), target.embed_ids(ids[:, :3])], dim=1)
    logits = target.model(inputs_embeds=inputs).logits[:, embeds.shape[1] - 1 :].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, :4].flatten())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_overfits_and_tells_contexts_apart(tiny_llama, dtype):
    condenser = build(tiny_llama, dtype)
    module = condenser.module
    ids = torch.tensor([[65] * 32, [90] * 32])
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        with condenser.autocast():
            embeds, _ = run(module, ids.tolist(), 4)
            loss = reading_loss(condenser, ids, embeds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    grads = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    with torch.no_grad(), condenser.autocast():
        own, other = (reading_loss(condenser, ids, rows) for rows in (embeds, embeds.flip(0)))
    assert other > own + 0.1


def test_a_checkpoint_comes_back_bit_for_bit(tiny_llama, condenser, tmp_path):
    condenser.save(tmp_path / "mine", "mine", condenser.ratios, licence="MIT")
    loaded = load_condenser(str(tmp_path / "mine"), dtype="float32")
    assert (loaded.name, loaded.ratios, loaded.target_model) == ("mine", (2, 4, 8, 16), tiny_llama)
    stored = load_file(tmp_path / "mine" / WEIGHTS)
    state = loaded.trained_state()
    assert all(torch.equal(state[name], stored[name].float()) for name in stored)
    loaded.save(tmp_path / "again", "mine", loaded.ratios, licence="MIT")
    for file in (WEIGHTS, "config.json"):
        assert (tmp_path / "mine" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    again = load_condenser(str(tmp_path / "again"), dtype="float32")
    (one,), (two,) = (each.condense(contexts(300), 4) for each in (loaded, again))
    assert np.array_equal(one.embeds, two.embeds)
    (before,) = condenser.condense(contexts(300), 4)
    assert np.abs(one.embeds - before.embeds).max() < 0.05 * np.abs(before.embeds).max()


def test_what_is_saved_is_what_was_trained(condenser):
    names = condenser.trained_state().keys()
    assert {"memory", "norm.weight", "output.weight", "output.bias"} <= names
    adapters = [name for name in names if ".lora_" in name]
    assert len(names) == len(adapters) + 4
    assert len(adapters) == 2 * 7 * 2  # layers x linear layers x (A, B)


@pytest.fixture
def checkpoint(condenser, tmp_path):
    condenser.save(tmp_path, "mine", condenser.ratios)
    return tmp_path


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("memory"), "missing memory"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: t.update(memory=torch.zeros(3, 64)), "memory is 3x64 and has to be 128x64"),
        (lambda t: t["memory"].fill_(float("inf")), "memory holds NaN or infinity"),
        (lambda t: t.update(memory=torch.zeros(128, 64, dtype=torch.int8)), "memory is I8"),
    ],
)
def test_damaged_weights_are_refused_by_name(checkpoint, change, message):
    change_weights(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load_condenser(str(checkpoint), dtype="float32")


def test_a_refused_file_changes_nothing(checkpoint, condenser):
    before = {name: tensor.clone() for name, tensor in condenser.trained_state().items()}
    change_weights(checkpoint, lambda t: t["output.bias"].fill_(float("nan")))
    with pytest.raises(CheckpointError):
        condenser.load_weights(checkpoint / WEIGHTS)
    assert all(torch.equal(before[name], t) for name, t in condenser.trained_state().items())


@pytest.mark.parametrize("ratios", [(), (1, 2), (0,), ("4",)])
def test_ratios_beyond_its_settings_are_refused(checkpoint, ratios):
    write_config(checkpoint, dataclasses.replace(read_config(checkpoint), ratios=ratios))
    with pytest.raises(CheckpointError, match="its settings allow"):
        load_condenser(str(checkpoint), dtype="float32")


def test_missing_or_truncated_weights_are_refused(checkpoint):
    data = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged or not safetensors"):
        load_condenser(str(checkpoint), dtype="float32")
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no weights file"):
        load_condenser(str(checkpoint), dtype="float32")


def test_a_checkpoint_without_weights_of_its_own_is_refused(tiny_llama):
    with pytest.raises(CheckpointError, match="needs trained weights"):
        IcaeCondenser.load(LoadOptions(tiny_llama))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variant": "v3"}, "unknown variant 'v3'"),
        ({"depth": 3}, "no setting depth"),
        ({"n_layers": 3}, "n_layers is 3; .* has 2"),
        ({"n_layers": 0}, "n_layers must be at least 1"),
        ({"lora_r": "4"}, "lora_r must hold whole numbers"),
        ({"ratios": [4, 2]}, "ratios must be ascending"),
        ({"ratios": 4}, "ratios must be a list"),
        ({"ratios": [2, 3]}, "ratio 3 must be a multiple"),
        ({"span_tokens": 8}, "divide span_tokens 8"),
        ({"ratios": [2.0, 4]}, "ratios must hold whole numbers"),
    ],
)
def test_wrong_settings_are_refused(tiny_llama, checkpoint, config, message):
    with pytest.raises(ConfigError, match=message):
        build(tiny_llama, **config)
    stored = read_config(checkpoint)
    stored.config.update(config)
    write_config(checkpoint, stored)
    with pytest.raises(CheckpointError, match=message):
        load_condenser(str(checkpoint))


def test_settings_survive_json():
    config = SpansConfig(n_layers=3, ratios=(4, 8), min_ratio=4)
    assert SpansConfig.parse(config.as_dict()) == config


@pytest.mark.parametrize("ratio", [1, 3, 4.5, 32])
def test_only_offered_ratios_are_condensed(condenser, ratio):
    with pytest.raises(RequestError, match="not offered"):
        condenser.condense(contexts(10), ratio)


@pytest.mark.parametrize("batch", [[], [[]], [[65], []]])
def test_empty_batches_and_contexts_are_refused(condenser, batch):
    with pytest.raises(RequestError):
        condenser.condense(batch, 4)
