"""Refinement: that it helps by its own measure, stops in time, and never makes it worse."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.budgets import UnevenCondenser
from neural_condense_core.condensers.checkpoints import load_condenser, resolve
from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.condensers.options import RefineBudget, split_options
from neural_condense_core.condensers.refine import BLOCK_TOKENS, RefinedCondenser, cut
from neural_condense_core.condensers.refine_probes import (
    WINDOW,
    Probe,
    completions,
    make_probes,
    own_words,
)
from neural_condense_core.condensers.refine_search import (
    Limit,
    RowReader,
    Search,
    SearchSettings,
    rounded,
)
from neural_condense_core.condensers.stride import StrideCondenser
from neural_condense_core.condensers.truncate import TruncateHeadCondenser
from neural_condense_core.errors import ConfigError, RequestError, UnknownNameError
from neural_condense_core.llm.base import Embeds, TokenIds
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.prompt import reconstruction_prompt
from neural_condense_core.tokens import CondensedTokens

TEXT = (
    "The harbour was quiet when the two brothers carried the last of the nets ashore, and 14 "
    "small boats waited for the tide beyond the breakwater."
)


class Clock:
    """Seconds that pass by a fixed amount at every look."""

    def __init__(self, tick_s: float) -> None:
        self.now_s = 0.0
        self.tick_s = tick_s

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


@pytest.fixture(scope="module")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, "cpu", "float32")


@pytest.fixture(scope="module")
def ids(target: HFTarget) -> list[int]:
    return target.tokenize(TEXT)


def refined(target: HFTarget, budget: str, **options) -> RefinedCondenser:
    return RefinedCondenser(StrideCondenser(target), RefineBudget.parse(budget), target, **options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8", RefineBudget(steps=8)), ("2000ms", RefineBudget(ms=2000)), ("0.5e", None)],
)
def test_a_budget_is_steps_or_milliseconds(text, expected):
    if expected is None:
        with pytest.raises(ConfigError, match="STEPS"):
            RefineBudget.parse(text)
    else:
        assert RefineBudget.parse(text) == expected
        assert str(expected) == text


@pytest.mark.parametrize("text", ["0", "", "-1", "ms", "1.5", "99999", "0ms", "900000ms", "8 ms"])
def test_budgets_out_of_range_are_refused(text):
    with pytest.raises(ConfigError):
        RefineBudget.parse(text)


def test_one_of_steps_and_milliseconds_is_given():
    for both in ({}, {"steps": 1, "ms": 1.0}):
        with pytest.raises(ConfigError, match="not both"):
            RefineBudget(**both)


def test_names_carry_options(tiny_llama):
    assert split_options("spans+budget=tail+refine=8") == (
        "spans",
        {"budget": "tail", "refine": "8"},
    )
    assert split_options("a:B+refine=20ms") == ("a:B", {"refine": "20ms"})
    assert split_options("c++") == ("c++", {})
    assert resolve("stride+refine=8") == (StrideCondenser, None)
    loaded = load_condenser("stride+budget=recent+refine=1", tiny_llama, dtype="float32")
    assert isinstance(loaded, RefinedCondenser)
    assert isinstance(loaded.inner, UnevenCondenser)
    assert loaded.name == "stride+budget=recent+refine=1"


def test_a_folder_whose_name_looks_like_an_option_is_a_folder(tmp_path):
    folder = tmp_path / "mine+refine=8"
    folder.mkdir()
    assert split_options(str(folder)) == (str(folder), {})


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("stride+refined=8", UnknownNameError, "Did you mean 'refine'"),
        ("stride+refine=fast", ConfigError, "STEPS"),
        ("stride+budget=even", ConfigError, "unknown budget"),
        ("stride+refine=8+budget=tail", ConfigError, "each once"),
        ("stride+refine=8+refine=9", ConfigError, "each once"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(spec, error, message):
    with pytest.raises(error, match=message):
        resolve(spec)


def test_a_reader_agrees_with_the_targets_own_likelihood(target, ids):
    reader = RowReader(target)
    rows = torch.from_numpy(target.embed(ids[::4]))
    probes = [Probe(tuple(ids[3:9]), tuple(ids[9:20])), Probe(tuple(ids[3:7]), tuple(ids[7:12]))]
    head = reconstruction_prompt(target, None)[0]
    for chosen in (probes, probes[:1]):
        expected = target.loglikelihood(
            [(head, Embeds(rows.numpy()), TokenIds(p.prompt_ids)) for p in chosen],
            [p.target_ids for p in chosen],
        )
        means = [each.loss / len(each.logprobs) for each in expected]
        assert reader.loss(rows, chosen) == pytest.approx(np.mean(means), abs=1e-4)


def test_the_gradient_in_slices_is_that_of_the_whole_loss(target, ids, monkeypatch):
    reader = RowReader(target)
    probes = make_probes(target, ids, 0).trained
    found = []
    for size in (7, 10_000):
        monkeypatch.setattr("neural_condense_core.condensers.refine_search.LABELS_PER_SLICE", size)
        rows = torch.from_numpy(target.embed(ids[::4])).requires_grad_()
        reader.backward(rows, probes, None, 0.0)
        found.append(rows.grad)
    torch.testing.assert_close(found[0], found[1])
    states, labels = reader.states(
        torch.from_numpy(target.embed(ids[::4])).requires_grad_(), probes
    )
    whole = torch.nn.functional.cross_entropy(target.logits(states), labels)
    assert whole.grad_fn is not None
    assert not any(parameter.requires_grad for parameter in target.model.parameters())


def test_the_full_text_is_its_own_teacher(target, ids):
    reader = RowReader(target)
    probes = list(own_words(target, ids))
    assert probes
    assert all(probe.taught for probe in probes)
    text = target.embed_ids(torch.tensor(ids))
    teacher = reader.teacher(text, probes)
    rows = text.clone().requires_grad_()
    reader.backward(rows, probes, teacher, 1.0)
    assert rows.grad.abs().max() < 1e-5


def test_probes_cover_the_text_and_hold_some_out(target, ids):
    probes = make_probes(target, ids, 0)
    assert [token for probe in probes.trained for token in probe.target_ids] == ids
    assert not set(probes.held_out) & set(probes.trained)
    assert len(probes.held_out) > 1
    assert make_probes(target, ids, 0) == probes
    assert make_probes(target, ids[:1], 0).held_out


def test_completions_show_some_words_and_ask_for_the_next(target, ids):
    found = completions(target, ids, np.random.default_rng(0), 4)
    assert len(found) == 4
    for probe in found:
        _, _, shown = target.decode(probe.prompt_ids).partition("Complete: ")
        shown = shown.partition(" ...")[0]
        wanted = target.decode(probe.target_ids)
        assert f"{shown}{wanted}" in TEXT or f"{shown} {wanted}" in TEXT
    assert completions(target, ids[:15], np.random.default_rng(0), 4) == []


def test_rounding_is_that_of_the_wire_and_lets_the_gradient_through():
    rows = torch.tensor([[1.0, -0.5, 0.26], [0.0, 0.0, 0.0]], requires_grad=True)
    found = rounded(rows)
    np.testing.assert_allclose(found[0].detach() * 127, [127, -64, 33], atol=1e-4)
    found.sum().backward()
    np.testing.assert_array_equal(rows.grad, np.ones((2, 3)))


def test_steps_lower_the_held_out_loss(target, ids):
    condenser = refined(target, "24")
    (start,) = condenser.inner.condense([ids], 4)
    result = condenser.refine(start, ids)
    assert result.steps == 24
    assert result.after < result.before
    assert result.tokens.embeds.shape == start.embeds.shape
    np.testing.assert_array_equal(result.tokens.positions, start.positions)
    assert result.tokens.checkpoint == "stride+refine=24"
    probes = make_probes(target, ids, 0).trained
    reader = RowReader(target)
    before, after = (
        reader.loss(torch.from_numpy(tokens.embeds), probes) for tokens in (start, result.tokens)
    )
    assert after < before - 0.1


def test_a_model_that_has_judged_before_can_be_refined_through(tiny_models):
    target = load_target(tiny_models["qwen2"], "cpu", "bfloat16")
    text = target.tokenize(TEXT)
    target.loglikelihood([(TokenIds(tuple(text[:9])),)], [text[9:12]])
    condenser = refined(target, "2")
    with torch.inference_mode():
        (found,) = condenser.condense([text], 4)
    assert np.isfinite(found.embeds).all()


@pytest.mark.parametrize("later", [3.0, float("nan")])
def test_steps_that_only_harm_give_back_what_was_there(target, ids, later):
    reader = RowReader(target)
    losses = [2.0, *[later] * 9]
    reader.loss = lambda rows, probes: losses.pop(0)
    start = target.embed(ids[::4])
    search = Search(reader, SearchSettings(check_every=2), Clock(0.0))
    found = search.run(start, ids, make_probes(target, ids, 0), Limit(steps=3))
    assert (found.steps, found.before, found.after) == (3, 2.0, 2.0)
    np.testing.assert_array_equal(found.rows, start)
    assert len(losses) == 10 - 3


def test_the_same_seed_gives_the_same_tokens_in_a_batch_or_alone(target, ids):
    contexts = [ids, ids[20:], ids[:3]]
    together = refined(target, "3").condense(contexts, 4)
    for context, tokens in zip(contexts, together, strict=True):
        (alone,) = refined(target, "3").condense([context], 4)
        np.testing.assert_array_equal(tokens.embeds, alone.embeds)
    (other,) = refined(target, "3", settings=SearchSettings(seed=1)).condense([ids], 4)
    assert np.abs(other.embeds - together[0].embeds).max() > 0


def test_norms_stay_in_range(target, ids):
    condenser = refined(target, "8")
    mean = target.embedding_scale * target.hidden_size**0.5
    (start,) = condenser.inner.condense([ids], 4)
    search = Search(RowReader(target), SearchSettings(learning_rate=3.0), Clock(0.0))
    search._better = lambda moved, kept, best, noise, probes: (moved.detach().clone(), best)
    found = search.run(start.embeds, ids, make_probes(target, ids, 0), Limit(steps=8))
    norms = np.linalg.norm(found.rows, axis=1)
    assert np.abs(found.rows - start.embeds).max() > 0.1
    assert norms.max() <= 3 * mean * 1.001
    assert norms.min() >= 0.3 * mean * 0.999


@pytest.mark.parametrize("budget", ["200ms", "1000"])
def test_it_stops_inside_its_budget(target, ids, budget):
    clock = Clock(0.004)
    condenser = refined(target, budget, clock=clock)
    (start,) = condenser.inner.condense([ids], 4)
    begun_s = clock.now_s
    result = condenser.refine(start, ids, allowed_s=0.2)
    assert clock.now_s - begun_s <= 0.2 + 0.02
    assert 0 < result.steps < 25


def test_a_request_without_time_is_condensed_all_the_same(target, ids):
    condenser = refined(target, "8", clock=Clock(0.001))
    (plain,) = condenser.inner.condense([ids], 4)
    (found,) = condenser.condense_within([ids], 4, 0.0)
    np.testing.assert_array_equal(found.embeds, plain.embeds)
    assert found.checkpoint == "stride+refine=8"


def test_what_would_not_end_in_time_is_not_begun_a_second_time(target, ids):
    clock = Clock(0.004)
    condenser = refined(target, "1000", clock=clock)
    (start,) = condenser.inner.condense([ids], 4)
    assert condenser.refine(start, ids, allowed_s=0.2).steps > 0
    result = condenser.refine(start, ids, allowed_s=0.02)
    assert (result.steps, result.before) == (0, None)


def test_the_time_of_a_batch_is_shared(target, ids):
    clock = Clock(0.004)
    condenser = refined(target, "1000", clock=clock)
    begun_s = clock.now_s
    found = condenser.condense_within([ids, ids, ids], 4, 0.3)
    assert clock.now_s - begun_s <= 0.3 + 0.02
    plain = condenser.inner.condense([ids], 4)[0].embeds
    assert all(np.abs(tokens.embeds - plain).max() > 0 for tokens in found)


def test_where_nothing_was_condensed_nothing_is_refined(target, ids):
    result = refined(target, "4").refine(*refined(target, "4").inner.condense([ids], 1), ids)
    assert (result.steps, result.before, result.after) == (0, None, None)
    np.testing.assert_array_equal(result.tokens.embeds, target.embed(ids))


def test_long_texts_are_refined_in_blocks(target):
    text = np.random.default_rng(0).integers(40, 120, BLOCK_TOKENS + 300).tolist()
    condenser = refined(target, "1", settings=SearchSettings(check_every=1, learning_rate=0.02))
    (start,) = condenser.inner.condense([text], 16)
    result = condenser.refine(start, text)
    assert result.steps == 2
    assert result.tokens.n_condensed_tokens == start.n_condensed_tokens


@pytest.mark.parametrize(("n", "rows"), [(1300, 82), (513, 33), (2000, 2), (1024, 256), (20, 30)])
@pytest.mark.parametrize("placed", [None, "even", "head"])
def test_blocks_cover_the_text_and_the_rows(n, rows, placed):
    positions = None
    if placed is not None:
        every = np.arange(rows) * n // rows if placed == "even" else np.arange(rows)
        positions = every.astype(np.int64)
    tokens = CondensedTokens(np.ones((rows, 4), np.float32), "m", n, positions)
    blocks = cut(tokens, n, BLOCK_TOKENS)
    texts, parts = ([pair[side] for pair in blocks] for side in (0, 1))
    for pieces, size in ((texts, n), (parts, rows)):
        assert pieces[0].start == 0
        assert pieces[-1].stop == size
        assert all(a.stop == b.start for a, b in pairwise(pieces))
        assert all(piece.stop > piece.start for piece in pieces)


def test_its_own_words_can_be_trained_on_too(target, ids):
    condenser = refined(target, "12", continuation=True)
    (start,) = condenser.inner.condense([ids], 4)
    result = condenser.refine(start, ids)
    assert result.after < result.before


def test_what_cannot_be_refined_is_refused(target, tiny_llama, ids):
    with pytest.raises(ConfigError, match="one question"):
        load_condenser("sentence-retrieval+refine=1", tiny_llama, dtype="float32")
    with pytest.raises(ConfigError, match="width 64"):
        RefinedCondenser(EchoCondenser(), RefineBudget(steps=1), target)
    with pytest.raises(ConfigError, match="NAME"):
        RefinedCondenser.load(LoadOptions(tiny_llama))
    other_tokens = StrideCondenser(target)
    other_tokens.reads_target_tokens = False
    with pytest.raises(ConfigError, match="tokens of its own"):
        RefinedCondenser(other_tokens, RefineBudget(steps=1), target)
    with pytest.raises(RequestError):
        refined(target, "1").condense([ids], 0.5)
    with pytest.raises(RequestError):
        refined(target, "1").condense([[]], 2)


def test_a_model_without_room_for_a_question_is_refused(target, monkeypatch):
    monkeypatch.setattr(target, "max_positions", 200)
    with pytest.raises(ConfigError, match="200 positions"):
        refined(target, "1")


def test_a_step_trains_every_probe_once_before_any_again(target, ids):
    long = (ids * 9)[: 9 * WINDOW]
    probes = make_probes(target, long, 0)
    seen = []
    reader = RowReader(target)
    original = reader.backward
    reader.backward = lambda rows, chosen, *rest: (
        seen.extend(chosen),
        original(rows, chosen, *rest),
    )
    search = Search(reader, SearchSettings(), Clock(0.0))
    search.run(target.embed(long[::8]), long, probes, Limit(steps=3))
    assert sorted(seen, key=probes.trained.index) == list(probes.trained)


def test_truncated_heads_are_spread_over_their_blocks(target):
    head = TruncateHeadCondenser(target)
    (tokens,) = head.condense([list(range(40, 120)) * 15], 8)
    parts = [part for _, part in cut(tokens, 1200, BLOCK_TOKENS)]
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert replace(tokens, positions=None).n_condensed_tokens == sum(sizes)
