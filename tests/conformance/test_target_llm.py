"""What every target model promises: text as ids and text as embeddings are the same thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neural_condense_core.llm.base import Embeds, Prompt, TokenIds
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.prompt import answer_prompt, chat

FAMILIES = ["llama", "gemma", "gemma3", "mistral", "qwen", "qwen2"]
TOLERANCE = 1e-4
CONTEXT = "The lighthouse was built in 1871 by Marta Quist, who painted it green."
SHORTER = "Rain fell."


@pytest.fixture(scope="module", params=FAMILIES)
def target(request: pytest.FixtureRequest, tiny_models: dict[str, str]) -> HFTarget:
    return load_target(tiny_models[request.param], dtype="float32")


def reference_logprobs(target: HFTarget, ids: list[int], n_target: int) -> np.ndarray:
    """The model's own answer to token ids, no embeddings, no padding, no cache."""
    with torch.no_grad():
        logits = target.model(input_ids=torch.tensor([ids])).logits[0].float()
    logprobs = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    return logprobs[-n_target:].numpy()


def flat(prompt: Prompt) -> list[int]:
    return [i for segment in prompt if isinstance(segment, TokenIds) for i in segment.ids]


def as_embeds(target: HFTarget, text: str) -> Embeds:
    return Embeds(target.embed(target.tokenize(text)))


def as_ids(target: HFTarget, text: str) -> TokenIds:
    return TokenIds(tuple(target.tokenize(text)))


def test_plain_embeddings_of_a_text_score_like_its_ids(target: HFTarget) -> None:
    reply = target.tokenize(" green, I think")
    ids_prompt = answer_prompt(target, as_ids(target, CONTEXT), "Which colour?")
    embeds_prompt = answer_prompt(target, as_embeds(target, CONTEXT), "Which colour?")
    expected = reference_logprobs(target, [*flat(ids_prompt), *reply], len(reply))
    by_ids, by_embeds = target.loglikelihood([ids_prompt, embeds_prompt], [reply, reply])
    np.testing.assert_allclose(by_ids.logprobs, expected, atol=TOLERANCE)
    np.testing.assert_allclose(by_embeds.logprobs, expected, atol=TOLERANCE)


def test_a_padded_batch_scores_like_its_rows_alone(target: HFTarget) -> None:
    texts = [CONTEXT, SHORTER, CONTEXT + " " + SHORTER, ""]
    prompts = [answer_prompt(target, as_embeds(target, t) if t else None, "Who?") for t in texts]
    targets = [target.tokenize(reply) for reply in ("Marta", "no one at all", "x", "yes")]
    batch = target.loglikelihood(prompts, targets)
    for text, reply, found in zip(texts, targets, batch, strict=True):
        prompt = answer_prompt(target, as_ids(target, text) if text else None, "Who?")
        expected = reference_logprobs(target, [*flat(prompt), *reply], len(reply))
        np.testing.assert_allclose(found.logprobs, expected, atol=TOLERANCE)


def test_a_shared_prefix_scores_like_the_whole_prompt(target: HFTarget) -> None:
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
    target: HFTarget,
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
        out = target.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )
    assert target.decode(out[0, ids.shape[1] :].tolist()).strip() == alone[0]


def test_condensed_tokens_may_stand_anywhere(target: HFTarget) -> None:
    prompt = chat(target, "First ", as_embeds(target, SHORTER), " then")
    reply = target.tokenize("ok")
    (found,) = target.loglikelihood([(*prompt, as_embeds(target, CONTEXT))], [reply])
    ids = [*flat(chat(target, "First ", as_ids(target, SHORTER), " then"))]
    expected = reference_logprobs(target, [*ids, *target.tokenize(CONTEXT), *reply], len(reply))
    np.testing.assert_allclose(found.logprobs, expected, atol=TOLERANCE)


def test_explicit_positions_place_what_follows_behind_the_whole_context(target: HFTarget) -> None:
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
