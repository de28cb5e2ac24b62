"""What every target model promises: text as ids and text as embeddings are the same thing."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from fake_sglang import FakeSGLang
from fake_vllm import FakeVLLM

from neural_condense_core.errors import RequestError, UnsupportedError
from neural_condense_core.llm.base import Embeds, Prompt, Sampling, TokenIds
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_http import EngineHTTP
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.llama_cpp import LlamaCppTarget
from neural_condense_core.llm.prompt import answer_prompt, chat
from neural_condense_core.llm.sglang import SGLangTarget
from neural_condense_core.llm.vllm import VLLMTarget

FAMILIES = ["llama", "gemma", "gemma3", "mistral", "qwen", "qwen2"]
ENGINES = [*FAMILIES, "vllm", "vllm-gemma", "sglang", "llama-cpp"]
TOLERANCE = 1e-4
CONTEXT = "The lighthouse was built in 1871 by Marta Quist, who painted it green."
SHORTER = "Rain fell."
Target = Any
"""Any engine's target model; all of them embed text too."""

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="the extra [llama-cpp] is not installed"
)


def _family(engine: str) -> str:
    return engine.partition("-")[2] if engine == "vllm-gemma" else "llama"


@pytest.fixture(
    scope="module",
    params=[pytest.param(e, marks=needs_llama_cpp) if e == "llama-cpp" else e for e in ENGINES],
)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reference(engine: str, tiny_models: dict[str, str]) -> HFTarget:
    """The same weights in transformers, float32."""
    family = engine if engine in FAMILIES else _family(engine)
    return load_target(tiny_models[family], dtype="float32")


@pytest.fixture(scope="module")
def target(engine: str, reference: HFTarget, tmp_path_factory: pytest.TempPathFactory) -> Target:
    if engine in FAMILIES:
        return reference
    table, tokenizer = EmbeddingTable(reference.name), reference.tokenizer
    if engine == "sglang":
        http = EngineHTTP("http://sglang", "SGLang", transport=FakeSGLang(reference).transport())
        return SGLangTarget(http, reference.name, tokenizer, table)
    if engine.startswith("vllm"):
        http = EngineHTTP("http://vllm", "vLLM", transport=FakeVLLM(reference).transport())
        return VLLMTarget(http, reference.name, tokenizer, table)
    from tiny_gguf import write_tiny_gguf

    path = write_tiny_gguf(reference, tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    return LlamaCppTarget(path, "tiny", n_threads=1, float32_cache=True)


@pytest.fixture
def scores(engine: str, target: Target) -> None:
    """Leave a test out where the engine gives no likelihoods behind embeddings."""
    if engine == "sglang":
        pytest.skip("SGLang gives no likelihoods behind embeddings")


def reference_logprobs(target: HFTarget, ids: list[int], n_target: int) -> np.ndarray:
    """The model's own answer to token ids, no embeddings, no padding, no cache."""
    with torch.no_grad():
        logits = target.model(input_ids=torch.tensor([ids])).logits[0].float()
    logprobs = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    return logprobs[-n_target:].numpy()


def flat(prompt: Prompt) -> list[int]:
    return [i for segment in prompt if isinstance(segment, TokenIds) for i in segment.ids]


def as_embeds(target: Target, text: str) -> Embeds:
    return Embeds(target.embed(target.tokenize(text)))


def as_ids(target: Target, text: str) -> TokenIds:
    return TokenIds(tuple(target.tokenize(text)))


@pytest.mark.usefixtures("scores")
def test_plain_embeddings_of_a_text_score_like_its_ids(target: Target, reference: HFTarget) -> None:
    reply = target.tokenize(" green, I think")
    ids_prompt = answer_prompt(target, as_ids(target, CONTEXT), "Which colour?")
    embeds_prompt = answer_prompt(target, as_embeds(target, CONTEXT), "Which colour?")
    expected = reference_logprobs(reference, [*flat(ids_prompt), *reply], len(reply))
    by_ids, by_embeds = target.loglikelihood([ids_prompt, embeds_prompt], [reply, reply])
    np.testing.assert_allclose(by_ids.logprobs, expected, atol=TOLERANCE)
    np.testing.assert_allclose(by_embeds.logprobs, expected, atol=TOLERANCE)


@pytest.mark.usefixtures("scores")
def test_a_padded_batch_scores_like_its_rows_alone(target: Target, reference: HFTarget) -> None:
    texts = [CONTEXT, SHORTER, CONTEXT + " " + SHORTER, ""]
    prompts = [answer_prompt(target, as_embeds(target, t) if t else None, "Who?") for t in texts]
    targets = [target.tokenize(reply) for reply in ("Marta", "no one at all", "x", "yes")]
    batch = target.loglikelihood(prompts, targets)
    for text, reply, found in zip(texts, targets, batch, strict=True):
        prompt = answer_prompt(target, as_ids(target, text) if text else None, "Who?")
        expected = reference_logprobs(reference, [*flat(prompt), *reply], len(reply))
        np.testing.assert_allclose(found.logprobs, expected, atol=TOLERANCE)


@pytest.mark.usefixtures("scores")
def test_a_shared_prefix_scores_like_the_whole_prompt(target: Target) -> None:
    context = as_embeds(target, CONTEXT)
    whole = [answer_prompt(target, context, question) for question in ("Who?", "Which colour?")]
    replies = [target.tokenize("Marta Quist"), target.tokenize("green")]
    prefix = target.prefill(whole[0][:2])
    suffixes = [prompt[2:] for prompt in whole]
    for _ in range(2):  # the second time shows that the first left the prefix as it was
        shared = target.loglikelihood(suffixes, replies, prefix=prefix)
        for one, other in zip(shared, target.loglikelihood(whole, replies), strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=TOLERANCE)


def test_generation_is_the_same_by_ids_by_embeddings_in_a_batch_and_behind_a_prefix(
    target: Target, reference: HFTarget
) -> None:
    questions = ["Who?", "Which colour was it painted?"]
    by_ids = [answer_prompt(target, as_ids(target, CONTEXT), q) for q in questions]
    by_embeds = [answer_prompt(target, as_embeds(target, CONTEXT), q) for q in questions]
    alone = [target.generate([prompt], 8)[0] for prompt in by_ids]
    assert target.generate(by_embeds, 8) == alone
    prefix = target.prefill(by_embeds[0][:2])
    assert target.generate([prompt[2:] for prompt in by_embeds], 8, prefix=prefix) == alone
    with torch.no_grad():
        ids = torch.tensor([flat(by_ids[0])])
        out = reference.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )
    assert target.decode(out[0, ids.shape[1] :].tolist()).strip() == alone[0]


@pytest.mark.usefixtures("scores")
def test_condensed_tokens_may_stand_anywhere(target: Target, reference: HFTarget) -> None:
    prompt = chat(target, "First ", as_embeds(target, SHORTER), " then")
    reply = target.tokenize("ok")
    (found,) = target.loglikelihood([(*prompt, as_embeds(target, CONTEXT))], [reply])
    ids = [*flat(chat(target, "First ", as_ids(target, SHORTER), " then"))]
    expected = reference_logprobs(reference, [*ids, *target.tokenize(CONTEXT), *reply], len(reply))
    np.testing.assert_allclose(found.logprobs, expected, atol=TOLERANCE)


def test_explicit_positions_place_what_follows_behind_the_whole_context(
    engine: str, target: Target
) -> None:
    if engine not in FAMILIES:
        ids = target.tokenize(SHORTER)
        gaps = Embeds(target.embed(ids), np.arange(len(ids)) * 2, 2 * len(ids))
        with pytest.raises(UnsupportedError, match="explicit positions"):
            target.generate([answer_prompt(target, gaps, "Who?")], 1)
        return
    ids = target.tokenize(CONTEXT)
    plain = answer_prompt(target, as_ids(target, CONTEXT), "Who?")
    same = Embeds(target.embed(ids), np.arange(len(ids)), len(ids))
    reply = target.tokenize("Marta")
    every_second = np.arange(0, len(ids), 2)
    sparse = Embeds(target.embed(ids)[every_second], every_second, len(ids))
    dense = Embeds(target.embed(ids)[every_second])
    prompts = [plain, *(answer_prompt(target, e, "Who?") for e in (same, sparse, dense))]
    a, b, c, d = target.loglikelihood(prompts, [reply] * 4)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=TOLERANCE)
    assert np.abs(c.logprobs - d.logprobs).max() > TOLERANCE
    assert target.prefill(prompts[2][:2]).next_position == target.prefill(plain[:2]).next_position


def pieces_of(target: Target, prompt: Prompt, n: int, **options: Any) -> list[Any]:
    pieces = list(target.stream(prompt, n, **options))
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish in ("stop", "length")
    return pieces


def test_a_stream_is_what_generate_says_and_counts_its_tokens(target: Target) -> None:
    prompt = answer_prompt(target, as_embeds(target, CONTEXT), "Who?")
    pieces = pieces_of(target, prompt, 12)
    text = "".join(piece.text for piece in pieces)
    assert text.strip() == target.generate([prompt], 12)[0]
    n_tokens = sum(piece.n_tokens for piece in pieces)
    assert n_tokens <= 12
    assert (n_tokens == 12) == (pieces[-1].finish == "length")
    prefix = target.prefill(prompt[:2])
    behind = pieces_of(target, prompt[2:], 12, prefix=prefix)
    assert "".join(piece.text for piece in behind) == text


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(target: Target) -> None:
    prompt = answer_prompt(target, as_embeds(target, CONTEXT), "Who?")
    whole = "".join(piece.text for piece in pieces_of(target, prompt, 24))
    stop = whole[3:5]
    assert stop
    pieces = pieces_of(target, prompt, 24, sampling=Sampling(stop=("never this", stop)))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


def test_a_seed_repeats_a_draw(engine: str, target: Target) -> None:
    prompt = answer_prompt(target, as_embeds(target, CONTEXT), "Who?")

    def said(seed: int) -> str:
        sampling = Sampling(temperature=2.0, top_p=0.95, seed=seed)
        return "".join(piece.text for piece in pieces_of(target, prompt, 16, sampling=sampling))

    if engine == "sglang":
        with pytest.raises(UnsupportedError, match="seed"):
            said(1)
        return
    assert said(1) == said(1)
    assert len({said(seed) for seed in range(4)}) > 1


def test_a_stream_that_is_left_early_leaves_nothing_behind(target: Target) -> None:
    prompt = answer_prompt(target, as_embeds(target, CONTEXT), "Who?")
    before = target.generate([prompt], 8)
    for _ in range(40):  # more than any engine has places for
        stream = target.stream(prompt, 8)
        next(stream)
        stream.close()
    assert target.generate([prompt], 8) == before


def test_what_cannot_fit_is_refused_before_anything_is_computed(target: Target) -> None:
    too_long = (TokenIds((5,) * target.max_positions),)
    for call in (target.stream, lambda prompt, n: target.generate([prompt], n)):
        with pytest.raises(RequestError, match="positions"):
            call(too_long, 1)


def test_a_prefix_of_another_model_is_refused(target: Target) -> None:
    with pytest.raises(TypeError, match="prefix of another model"):
        target.stream((TokenIds((5,)),), 1, prefix=object())


def test_likelihoods_behind_ids(target: Target, reference: HFTarget) -> None:
    prompt = answer_prompt(target, as_ids(target, CONTEXT), "Which colour?")
    reply = target.tokenize(" green")
    (found,) = target.loglikelihood([prompt], [reply])
    expected = reference_logprobs(reference, [*flat(prompt), *reply], len(reply))
    np.testing.assert_allclose(found.logprobs, expected, atol=TOLERANCE)
    (own,) = reference.loglikelihood([prompt], [reply])
    assert found.top1.tolist() == own.top1.tolist()


def test_likelihoods_behind_embeddings_are_refused_where_there_are_none(
    engine: str, target: Target
) -> None:
    prompt = answer_prompt(target, as_embeds(target, CONTEXT), "Who?")
    if engine == "sglang":
        with pytest.raises(UnsupportedError, match="likelihoods"):
            target.loglikelihood([prompt], [[5]])
    else:
        assert len(target.loglikelihood([prompt], [[5]])) == 1
