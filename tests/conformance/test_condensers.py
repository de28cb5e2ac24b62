"""What holds for every condenser: training-free, trained, wrapped, and all checkpoints that ship.

Trained methods take part with random weights on a tiny random Llama, written to a checkpoint and
loaded again as users load theirs; shipped checkpoints take part on the target they were made for.
Published methods take part with random weights in their authors' layout, pulled as users pull them.
Exceptions, all of them stated here: ``echo`` makes rows for no model, so it has no mean embedding
norm to be near to (its rows' norms are at most 8); ``noise`` is no selection, so nothing of it is
an embedding; published methods make one or two rows more than
their groups, so a text of a few tokens becomes longer, and their norms are what their authors made
them; ``lclm`` condenses for the decoder it comes with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_checkpoints import write_arc_encoder, write_lclm

from neural_condense_core.commands import pulling
from neural_condense_core.condensers.base import Condenser, LoadOptions
from neural_condense_core.condensers.checkpoints import load_condenser, shipped_names
from neural_condense_core.condensers.icae import IcaeCondenser
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.condensers.registry import METHODS
from neural_condense_core.condensers.selection import EmbeddingCondenser, SelectionCondenser
from neural_condense_core.condensers.trainable import TrainableCondenser
from neural_condense_core.errors import ContextTooLongError, RequestError
from neural_condense_core.llm.hf import load_target
from neural_condense_core.tokens import CondensedTokens

TINY = {"n_layers": 2, "lora_r": 4, "lora_alpha": 8}
TRAINED = ("pooled", "icae")
PUBLISHED = {"arc-encoder": 1, "lclm": 2}
"""Published methods -> rows that they make besides those of the text."""
SHIPPED = "shipped: "
WRAPPED = (
    "pooled+refine=1",
    "truncate-head+budget=recent+refine=1",
    "pooled+budget=dense",
    "icae+budget=recent",
    "spans+budget=tail",
)
ALL = (*METHODS.names(), *WRAPPED, *(SHIPPED + name for name in shipped_names()))
SELECTIONS = tuple(
    name
    for name in METHODS.names()
    if name not in {*TRAINED, *PUBLISHED, "noise"}
    and issubclass(METHODS.get(name), EmbeddingCondenser)
)
TEXTS = {
    "one token": "a",
    "spaces": " \t \n  \n",
    "line ends": "one\r\ntwo\rthree\n\n\nfour",
    "chinese": "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002\u6211\u4eec\u53bb\u516c\u56ed",
    "arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "combining": "e\u0301\u0308 Z\u0351\u0343\u0329a\u0321lgo",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd!",
    "control characters": "a\x00b\x07\x1b[31mred\x7f\x85\ufeff\u202edone",
    "template markers": "<|im_start|>user\nIgnore that.<|im_end|> <s> </s> [INST]",
    "not a character": "\ufffd\ufffe\U0010ffff",
    "no sentence end": "word " * 90,
}
Load = Callable[[str, str], Condenser]


def write_random_checkpoint(method: str, target: str, folder: Path) -> None:
    """Write a checkpoint whose weights are random, so that no part of it is switched off."""
    options = LoadOptions(target, dtype="float32")
    draw = torch.Generator().manual_seed(1)
    condenser: TrainableCondenser
    if method == "pooled":
        condenser = PooledCondenser.create(options, TINY)
        table = condenser.module.informativeness
        table.copy_(torch.rand(table.shape, generator=draw))
    else:
        condenser = IcaeCondenser.create(options, {**TINY, "span_tokens": 64})
    with torch.no_grad():
        for parameter in condenser.module.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    condenser.save(folder, folder.name, condenser.ratios or ())


def pull_random_checkpoint(
    method: str, target: str, tiny_models: dict[str, str], root: Path
) -> Path:
    """Write random weights in a published layout and install them into a cache of their own."""
    raw = root / f"published-{method}"
    if method == "arc-encoder":
        write_arc_encoder(raw)
    else:
        write_lclm(raw, tiny_models)
    request = pulling.Request(str(raw), name=f"random-{method}", target_model=target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDENSE_CACHE", str(root / "cache"))
        return pulling.install(pulling.plan(request))


@pytest.fixture(scope="session")
def load(
    tiny_llama: str, tiny_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Load:
    """Load a condenser by name and dtype, each once a session."""
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def checkpoint(method: str) -> str:
        folder = root / f"random-{method}"
        write_random_checkpoint(method, tiny_llama, folder)
        return str(folder)

    @cache
    def pulled(method: str) -> str:
        return str(pull_random_checkpoint(method, tiny_llama, tiny_models, root))

    @cache
    def loaded(name: str, dtype: str) -> Condenser:
        if name.startswith(SHIPPED):
            return load_condenser(name.removeprefix(SHIPPED), dtype=dtype)
        if name in PUBLISHED:
            return load_condenser(pulled(name), dtype=dtype)
        base, plus, options = name.partition("+")
        spec = checkpoint(base) if base in TRAINED else base
        return load_condenser(spec + plus + options, tiny_llama, dtype=dtype)

    return loaded


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    if request.param.startswith(SHIPPED):
        request.getfixturevalue("embedded_cache")
    return str(request.param)


@pytest.fixture
def condenser(load: Load, name: str) -> Condenser:
    return load(name, "float32")


def condense(
    condenser: Condenser, contexts: Sequence[Sequence[int]], ratio: float
) -> list[CondensedTokens]:
    queries = ["Which word comes first?"] * len(contexts) if condenser.query_aware else None
    return condenser.condense(contexts, ratio, queries=queries)


def offered(condenser: Condenser) -> tuple[float, float, float]:
    """Return the lowest, a middle and the highest ratio."""
    ratios = condenser.ratios or (1, 2.5, 16)
    return float(ratios[0]), float(ratios[len(ratios) // 2]), float(ratios[-1])


def contexts_of(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Return random printable text as token ids of the byte tokenizers, never of one value."""
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 259, size=length).tolist() for length in lengths]


@pytest.mark.parametrize(
    "lengths", [(1, 2, 7, 40), (64, 64, 64), (33, 300, 5, 300, 32), (600, 31)], ids=str
)
def test_a_row_of_a_batch_equals_the_row_alone(condenser, lengths):
    contexts = contexts_of(*lengths)
    for ratio in offered(condenser):
        batch = condense(condenser, contexts, ratio)
        for ids, together in zip(contexts, batch, strict=True):
            (alone,) = condense(condenser, [ids], ratio)
            np.testing.assert_allclose(together.embeds, alone.embeds, rtol=0, atol=1e-4)
            np.testing.assert_array_equal(together.positions, alone.positions)


def test_a_row_of_a_batch_equals_the_row_alone_in_bfloat16(load, name):
    condenser = load(name, "bfloat16")
    contexts = contexts_of(33, 300, 5, 64)
    ratio = offered(condenser)[1]
    for ids, together in zip(contexts, condense(condenser, contexts, ratio), strict=True):
        (alone,) = condense(condenser, [ids], ratio)
        norms = np.linalg.norm(together.embeds, axis=1) * np.linalg.norm(alone.embeds, axis=1)
        assert ((together.embeds * alone.embeds).sum(1) / norms).min() > 0.999


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.data())
def test_the_promised_number_of_tokens_is_kept(condenser, name, lengths, data):
    ratios = st.sampled_from(condenser.ratios) if condenser.ratios else st.floats(1, 40)
    ratio = float(data.draw(ratios))
    found = condense(condenser, contexts_of(*lengths), ratio)
    assert [tokens.n_condensed_tokens for tokens in found] == [
        condenser.n_condensed_tokens(length, ratio) for length in lengths
    ]
    for length, tokens in zip(lengths, found, strict=True):
        assert tokens.n_condensed_tokens <= length + PUBLISHED.get(name, 0)


def test_the_result_says_what_it_is(condenser):
    contexts = contexts_of(50, 300)
    for ratio in offered(condenser):
        for ids, tokens in zip(contexts, condense(condenser, contexts, ratio), strict=True):
            assert tokens.target_model == condenser.target_model
            assert tokens.checkpoint == condenser.name
            assert tokens.n_context_tokens == len(ids)
            assert tokens.hidden_size == condenser.hidden_size
            assert tokens.embeds.dtype == np.float32
            if tokens.positions is not None:
                assert tokens.positions.dtype == np.int64
                assert (np.diff(tokens.positions) >= 0).all()
                assert tokens.positions[0] >= 0
                assert tokens.positions[-1] < len(ids)


def test_norms_are_near_those_of_embeddings(condenser, name):
    low, high = 0.0, 8.0
    if name in PUBLISHED:
        high = np.inf
    elif condenser.name != "echo":
        target = load_target(condenser.target_model, "cpu", "float32")
        mean = target.embedding_scale * condenser.hidden_size**0.5
        low, high = 0.3 * mean, 3 * mean
    for ratio in offered(condenser):
        for tokens in condense(condenser, contexts_of(1, 80, 300), ratio):
            assert np.isfinite(tokens.embeds).all()
            norms = np.linalg.norm(tokens.embeds, axis=1)
            assert norms.min() >= low * 0.99
            assert norms.max() <= high * 1.01


@pytest.mark.parametrize("contexts", [[], [[]], [[5, 6], []]], ids=str)
def test_a_context_without_tokens_is_refused(condenser, contexts):
    with pytest.raises(RequestError):
        condense(condenser, contexts, offered(condenser)[0])


@pytest.mark.parametrize("ratio", [0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_nobody_offers_is_refused(condenser, ratio):
    with pytest.raises(RequestError):
        condense(condenser, contexts_of(20), ratio)
    if condenser.ratios:
        with pytest.raises(RequestError):
            condense(condenser, contexts_of(20), condenser.ratios[-1] + 1)


@pytest.mark.parametrize("kind", TEXTS)
def test_any_text_can_be_condensed(condenser, kind):
    ids = condenser.tokenize(TEXTS[kind])
    assert ids
    for ratio in (offered(condenser)[0], offered(condenser)[-1]):
        (tokens,) = condense(condenser, [ids], ratio)
        assert tokens.n_condensed_tokens == condenser.n_condensed_tokens(len(ids), ratio)
        assert np.isfinite(tokens.embeds).all()


@pytest.mark.parametrize("kind", TEXTS)
def test_a_tokenizer_that_is_handed_out_gives_the_same_ids(condenser, kind):
    from tokenizers import Tokenizer

    handed_out = condenser.tokenizer_json()
    if handed_out is None:
        pytest.skip("this condenser hands out no tokenizer")
    found = Tokenizer.from_str(handed_out).encode(TEXTS[kind], add_special_tokens=False).ids
    assert found == condenser.tokenize(TEXTS[kind])


def test_a_context_longer_than_the_targets_positions_is_condensed_or_refused(name, condenser):
    (ids,) = contexts_of(9000 if name.startswith(SHIPPED) else 2600)
    ratio = offered(condenser)[-1]
    try:
        (tokens,) = condense(condenser, [ids], ratio)
    except ContextTooLongError:
        return
    assert tokens.n_condensed_tokens == condenser.n_condensed_tokens(len(ids), ratio)
    assert np.isfinite(tokens.embeds).all()


def test_the_input_stays_as_it_was_and_calls_leave_nothing_behind(condenser):
    contexts = contexts_of(90, 20)
    before = [list(ids) for ids in contexts]
    ratio = offered(condenser)[1]
    first = condense(condenser, contexts, ratio)
    condense(condenser, contexts_of(70, seed=1), ratio)
    again = condense(condenser, [tuple(ids) for ids in contexts], ratio)
    assert contexts == before
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.embeds, other.embeds)


def test_only_query_aware_methods_read_queries(condenser):
    contexts = contexts_of(60)
    ratio = offered(condenser)[1]
    if condenser.query_aware:
        with pytest.raises(RequestError):
            condenser.condense(contexts, ratio)
        return
    (without,) = condenser.condense(contexts, ratio)
    (with_query,) = condenser.condense(contexts, ratio, queries=["Why?"])
    np.testing.assert_array_equal(without.embeds, with_query.embeds)


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma3", "mistral", "qwen"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_at_ratio_one_a_training_free_method_is_the_plain_embeddings(tiny_models, name, family):
    condenser = load_condenser(name, tiny_models[family], dtype="float32")
    (ids,) = contexts_of(75)
    (tokens,) = condense(condenser, [ids], 1)
    plain = load_target(tiny_models[family], "cpu", "float32").embed(ids)
    np.testing.assert_array_equal(tokens.embeds, plain)
    np.testing.assert_array_equal(tokens.positions, np.arange(75))


@pytest.mark.parametrize("name", [name for name in SELECTIONS if name != "mean-embedding"])
def test_a_selection_is_embeddings_of_the_text_at_their_places(load, name):
    condenser = load(name, "float32")
    assert isinstance(condenser, SelectionCondenser)
    (ids,) = contexts_of(75)
    (tokens,) = condense(condenser, [ids], 4)
    chosen = [ids[index] for index in tokens.positions]
    assert (np.diff(tokens.positions) > 0).all()
    np.testing.assert_array_equal(tokens.embeds, condenser.target.embed(chosen))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma", "mistral", "qwen"])
def test_untrained_pooled_at_ratio_one_is_the_plain_embeddings_bit_for_bit(
    tiny_models, family, dtype
):
    condenser = PooledCondenser.create(LoadOptions(tiny_models[family], dtype=dtype), TINY)
    contexts = contexts_of(1, 64, 256, 257, 700)
    for ids, tokens in zip(contexts, condenser.condense(contexts, 1), strict=True):
        plain = load_target(tiny_models[family], "cpu", dtype).embed(ids)
        np.testing.assert_array_equal(tokens.embeds, plain)
        np.testing.assert_array_equal(tokens.positions, np.arange(len(ids)))
