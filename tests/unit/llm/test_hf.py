"""HFTarget beyond its contract: loading, batches, limits, layers to adapt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neural_condense_core.errors import RequestError, TargetModelError
from neural_condense_core.llm.base import TokenIds
from neural_condense_core.llm.hf import HFTarget, load_target, resolve_dtype


@pytest.fixture(scope="module")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, dtype="float32")


def test_the_same_arguments_give_the_same_object(target: HFTarget, tiny_llama: str) -> None:
    assert load_target(tiny_llama, dtype="float32") is target


@pytest.mark.parametrize("name", ["/nowhere/at/all", "no-such-model-0815"])
def test_a_model_that_is_not_there_is_one_clear_error(name: str) -> None:
    with pytest.raises(TargetModelError, match="cannot load target model") as caught:
        load_target(name)
    assert caught.value.exit_code == 3


def test_a_pickled_checkpoint_is_refused(tiny_llama: str, tmp_path: Path) -> None:
    for path in Path(tiny_llama).iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(TargetModelError):
        load_target(str(tmp_path))


def test_dtypes() -> None:
    assert resolve_dtype("float32", "cpu") == torch.float32
    assert resolve_dtype("auto", "cuda") == torch.bfloat16
    with pytest.raises(TargetModelError, match="unknown dtype"):
        resolve_dtype("float64", "cpu")


def test_more_rows_than_one_batch_holds_keep_their_order(
    target: HFTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [(TokenIds(tuple(range(3, 3 + n))),) for n in (5, 90, 17, 130, 64)]
    targets = [[7, 8], [9], [10, 11, 12], [13], [14]]
    expected = target.loglikelihood(prompts, targets)
    monkeypatch.setattr("neural_condense_core.llm.hf.MAX_BATCH_TOKENS", {"cpu": 128})
    for found, whole in zip(target.loglikelihood(prompts, targets), expected, strict=True):
        np.testing.assert_allclose(found.logprobs, whole.logprobs, atol=1e-5)


def test_a_prompt_beyond_the_models_positions_is_refused(target: HFTarget) -> None:
    too_long = TokenIds((5,) * (target.max_positions + 1))
    with pytest.raises(RequestError, match="positions"):
        target.generate([(too_long,)], 1)


def test_a_foreign_prefix_is_refused(target: HFTarget) -> None:
    with pytest.raises(TypeError, match="prefix of another model"):
        target.generate([(TokenIds((5,)),)], 1, prefix=object())  # type: ignore[arg-type]


def test_surprisal_is_the_models_own_loss_and_the_first_token_takes_the_highest(
    target: HFTarget,
) -> None:
    ids = target.tokenize("Some words, then more.")
    found, single = target.surprisal([ids, ids[:1]])
    with torch.no_grad():
        logits = target.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = -logits[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()
    np.testing.assert_allclose(found[1:], expected, atol=1e-4)
    assert found[0] == found[1:].max()
    assert single.tolist() == [0.0]


def test_top1_says_where_the_model_would_have_said_the_same(target: HFTarget) -> None:
    prompt = (TokenIds((5, 6, 7)),)
    with torch.no_grad():
        best = int(target.model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].argmax())
    hit, miss = target.loglikelihood([prompt, prompt], [[best], [(best + 1) % 100]])
    assert hit.top1.tolist() == [True]
    assert miss.top1.tolist() == [False]


def test_first_layers_are_copies(target: HFTarget) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    before = target.model(input_ids=ids).logits
    layers = target.first_layers(1)
    states = layers(inputs_embeds=target.embed_ids(ids)).last_hidden_state
    hidden = target.model(input_ids=ids, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(states, hidden)
    with torch.no_grad():
        for parameter in layers.layers.parameters():
            parameter.zero_()
    torch.testing.assert_close(target.model(input_ids=ids).logits, before)
    with pytest.raises(RequestError, match="layers"):
        target.first_layers(99)


def test_embedding_scale_is_the_mean_rms_of_the_table(target: HFTarget) -> None:
    table = target.embedding.weight.detach().float()
    assert target.embedding_scale == pytest.approx(float(table.pow(2).mean(-1).sqrt().mean()))
