"""The pooled residual condenser: its plan, its start, its weights on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.checkpoints import load_condenser, read_config
from neural_condense_core.condensers.pooled import (
    DIGIT_NATS,
    NORM_RANGE,
    RATIOS,
    PooledCondenser,
)
from neural_condense_core.errors import CheckpointError, RequestError

CONFIG = {"n_layers": 1, "lora_r": 4, "lora_alpha": 8}


@pytest.fixture(scope="module")
def options(tiny_llama: str) -> LoadOptions:
    return LoadOptions(tiny_llama, dtype="float32")


@pytest.fixture
def untrained(options: LoadOptions) -> PooledCondenser:
    torch.manual_seed(0)
    return PooledCondenser.create(options, CONFIG)


@pytest.fixture
def trained(untrained: PooledCondenser) -> PooledCondenser:
    """Not trained, but as good: nothing is zero any more."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in untrained.trained_state().items():
            if not name.startswith("salience."):
                tensor.normal_(0.0, 0.2)
    return untrained


def ids_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 250, n).tolist()


@pytest.mark.parametrize("ratio", RATIOS)
def test_untrained_it_is_a_selection_of_runs(untrained: PooledCondenser, ratio: int) -> None:
    rng = np.random.default_rng(3)
    untrained.fit_statistics([rng.integers(3, 60, 500).tolist()])
    ids = ids_of(200)
    (made,) = untrained.condense([ids], ratio)
    assert made.positions is not None
    chosen = [ids[i] for i in made.positions]
    np.testing.assert_array_equal(made.embeds, untrained.target.embed(chosen))


def test_statistics_make_rare_tokens_informative(untrained: PooledCondenser) -> None:
    untrained.fit_statistics([[5] * 90 + [6] * 10])
    table = untrained.module.informativeness
    assert table[5] < table[6] < table[7]


def test_digits_are_informative_however_common(untrained: PooledCondenser) -> None:
    tokenize = untrained.target.tokenize
    digit, letter = tokenize("7")[-1], tokenize("e")[-1]
    untrained.fit_statistics([[digit, letter] * 50])
    table = untrained.module.informativeness
    assert table[digit] == pytest.approx(table[letter] + DIGIT_NATS)


def test_the_residual_reads_dropped_tokens(trained: PooledCondenser) -> None:
    ids = ids_of(64)
    (before,) = trained.condense([ids], 8)
    assert before.positions is not None
    dropped = next(i for i in range(63) if i not in before.positions)
    changed = [*ids[:dropped], ids[dropped] + 1, *ids[dropped + 1 :]]
    trained.module.informativeness.zero_()
    (a,), (b,) = trained.condense([ids], 8), trained.condense([changed], 8)
    assert np.abs(a.embeds - b.embeds).max() > 1e-3


def test_norms_stay_in_range(trained: PooledCondenser) -> None:
    with torch.no_grad():
        trained.module.down.weight.mul_(1000)
    (made,) = trained.condense([ids_of(256)], 4)
    norms = np.linalg.norm(made.embeds, axis=1) / trained.module.mean_norm
    assert norms.max() <= NORM_RANGE[1] + 1e-4
    assert norms.min() >= NORM_RANGE[0] - 1e-4


def test_long_contexts_are_windows_joined_in_order(trained: PooledCondenser) -> None:
    ids = ids_of(600)
    (whole,) = trained.condense([ids], 4)
    parts = trained.condense([ids[:256], ids[256:512], ids[512:]], 4)
    np.testing.assert_allclose(whole.embeds, np.concatenate([p.embeds for p in parts]), atol=1e-5)
    assert whole.positions is not None
    assert whole.positions.tolist() == sorted(whole.positions)
    assert whole.n_condensed_tokens == trained.n_condensed_tokens(600, 4) == 150


def test_a_checkpoint_gives_back_what_was_saved(
    trained: PooledCondenser, options: LoadOptions, tmp_path: Path
) -> None:
    trained.save(tmp_path / "mine", "mine", [2, 4], licence="MIT")
    config = read_config(tmp_path / "mine")
    assert (config.name, config.method, config.ratios) == ("mine", "pooled", (1, 2, 4))
    loaded = load_condenser(str(tmp_path / "mine"), dtype="float32")
    assert isinstance(loaded, PooledCondenser)
    assert loaded.ratios == (1, 2, 4)
    for name, tensor in loaded.trained_state().items():
        own = trained.trained_state()[name]
        exact = name in trained.saved_buffers()
        stored = own if exact else own.bfloat16().float()
        assert torch.equal(tensor, stored), name
    with pytest.raises(RequestError, match="not offered"):
        loaded.condense([ids_of(9)], 8)


def test_a_checkpoint_of_other_settings_is_refused(
    trained: PooledCondenser, options: LoadOptions, tmp_path: Path
) -> None:
    trained.save(tmp_path, "mine", [4])
    other = PooledCondenser.create(options, {**CONFIG, "lora_r": 8})
    with pytest.raises(CheckpointError, match="lora_"):
        other.load_weights(tmp_path / "condenser.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_layer": 3}, "unknown settings"),
        ({"n_layers": 99}, "n_layers is 99"),
        ({"n_layers": "1"}, "whole number"),
        ({"lora_r": 0}, "whole number"),
        ({"tail_eighths": -1}, "whole number from 0"),
        ({"tail_eighths": 9}, "8 is all"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    options: LoadOptions, config: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        PooledCondenser.create(options, config)


def test_a_checkpoint_that_offers_an_impossible_ratio_is_refused(
    trained: PooledCondenser, tmp_path: Path
) -> None:
    trained.save(tmp_path, "mine", [3, 4])
    with pytest.raises(CheckpointError, match="offers ratios"):
        load_condenser(str(tmp_path), dtype="float32")


def test_at_ratio_1_even_a_trained_one_gives_the_plain_embeddings(
    trained: PooledCondenser,
) -> None:
    ids = ids_of(40)
    (made,) = trained.condense([ids], 1)
    np.testing.assert_array_equal(made.embeds, trained.target.embed(ids))


def test_without_a_checkpoint_nothing_untrained_is_served(options: LoadOptions) -> None:
    with pytest.raises(CheckpointError, match="needs trained weights"):
        PooledCondenser.load(options)


def test_adapters_do_not_touch_the_target(trained: PooledCondenser) -> None:
    trainable = [p for p in trained.module.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in trainable)
    assert not any(p.requires_grad for p in trained.target.model.parameters())
    own = {p.data_ptr() for p in trainable}
    assert own.isdisjoint({p.data_ptr() for p in trained.target.model.parameters()})
