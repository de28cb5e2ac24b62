"""Fits the head that says which tokens are worth keeping (``condensers/salience.py``).

Where it sits: before a pooled condenser's first training step, after its token counts.

Design decisions

* Labels are counted, nobody writes them: a token of a context is *answer* if an answer to one of
  its questions stands there, *question* if its word is one of a question's, *recurrence* if its
  word comes back in the text that follows. Questions give the first two, prose gives the third;
  a label that a text cannot give is not counted.
* Words are compared by their first letters, so that forms of one word count as the same.
* Everything starts from token ids, so packed texts serve as well as files of text.
* The states come from layers that are never adapted, so they are computed once and the head is
  fitted on them in a minute or two.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from neural_condense_core.condensers.pooled import PooledModule
from neural_condense_core.condensers.salience import GUESSES
from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.base import token_ids
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.llm.prompt import answer_prompt
from neural_condense_core.training.data import ProseSource, QuestionRows, TokenRow

MAX_TOKENS = 384
CONTEXT_TOKENS = 256
SKIPPED_TOKENS = 24
"""Tokens right behind a context whose words do not count: they come back by themselves."""
FOLLOWING_TOKENS = 168
QUESTIONS_SHARE = 0.6
"""Share of the contexts that come from questions, where there are both kinds."""
ROWS_PER_CONTEXT = 3
STEM = 5
MIN_WORD = 3
BATCH = 16
STATES_BATCH = 64
"""Contexts whose states are computed at once, those of like length together."""
PEAK_LR = 1e-3
DROPOUT = 0.1
COMMON = frozenset({
    "about",
    "all",
    "and",
    "are",
    "been",
    "but",
    "can",
    "could",
    "did",
    "does",
    "for",
    "from",
    "had",
    "has",
    "have",
    "her",
    "him",
    "his",
    "how",
    "into",
    "its",
    "many",
    "much",
    "not",
    "one",
    "other",
    "out",
    "she",
    "should",
    "some",
    "than",
    "that",
    "the",
    "their",
    "them",
    "then",
    "there",
    "they",
    "this",
    "was",
    "were",
    "what",
    "when",
    "where",
    "which",
    "who",
    "whom",
    "whose",
    "why",
    "will",
    "with",
    "would",
    "you",
})
"""Words that say nothing about a text."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class LabelledContext:
    """A context and what its tokens are.

    Parameters
    ----------
    input_ids : (n,) token ids
    labels : per guess (n,) of 0 and 1; None where this text cannot say
    """

    input_ids: tuple[int, ...]
    labels: tuple[tuple[int, ...] | None, ...]


def label_questions(
    tokenizer: Tokenizer, context: str, questions: Sequence[tuple[str, str]]
) -> LabelledContext:
    """Label a context by what was asked about it.

    Parameters
    ----------
    questions : (question, answer) each
    """
    encoded = tokenizer.encode(context, add_special_tokens=False)
    spans = [
        (found.start(), found.end())
        for _, answer in questions
        if (found := re.search(re.escape(answer.strip().strip(".")), context, re.IGNORECASE))
        and answer.strip()
    ]
    asked = _stems(" ".join(question for question, _ in questions))
    offsets = encoded.offsets[:MAX_TOKENS]
    return LabelledContext(
        tuple(encoded.ids[:MAX_TOKENS]),
        (
            tuple(int(any(s < end and e > start for start, end in spans)) for s, e in offsets),
            _marked(context, offsets, asked),
            None,
        ),
    )


def label_following(tokenizer: Tokenizer, context: str, following: str) -> LabelledContext:
    """Label a context by the words that come back in the text that follows it."""
    encoded = tokenizer.encode(context, add_special_tokens=False)
    offsets = encoded.offsets[:MAX_TOKENS]
    again = _marked(context, offsets, _stems(following))
    return LabelledContext(tuple(encoded.ids[:MAX_TOKENS]), (None, None, again))


def gather_examples(
    target: HFTarget,
    prose: ProseSource | None,
    questions: QuestionRows | None,
    n_contexts: int,
    rng: random.Random,
) -> list[LabelledContext]:
    """Draw contexts and label them.

    Parameters
    ----------
    prose, questions : where they come from, at least one of them
    n_contexts : how many, fewer if there are fewer questions

    Raises
    ------
    ConfigError
        The target's tokenizer cannot say which characters a token stands for.
    """
    found = target.tokenizer_json()
    if found is None:
        raise ConfigError(
            f"salience needs a tokenizer of the tokenizers library; {target.name} has another: "
            "set salience_contexts = 0"
        )
    tokenizer = Tokenizer.from_str(found)
    has_questions = questions is not None and len(questions) > 0
    n_asked = int(n_contexts * (QUESTIONS_SHARE if prose else 1.0)) if has_questions else 0
    examples = []
    if questions is not None and n_asked:
        examples = _asked(target, tokenizer, questions, n_asked, rng)
    if prose is not None:
        for _ in range(n_contexts - n_asked):
            ids = prose.draw(rng, CONTEXT_TOKENS + SKIPPED_TOKENS + FOLLOWING_TOKENS)
            context = tokenizer.decode(ids[:CONTEXT_TOKENS])
            following = tokenizer.decode(ids[CONTEXT_TOKENS + SKIPPED_TOKENS :])
            examples.append(label_following(tokenizer, context, following))
    return examples


def _asked(
    target: HFTarget, tokenizer: Tokenizer, questions: QuestionRows, n: int, rng: random.Random
) -> list[LabelledContext]:
    """Draw questions, bring those about one context together and label it."""
    drawn = rng.sample(range(len(questions)), min(len(questions), n * ROWS_PER_CONTEXT))
    by_context: dict[tuple[int, ...], list[TokenRow]] = {}
    for index in drawn:
        row = questions[index]
        by_context.setdefault(tuple(row.context_ids), []).append(row)
    prompt = _stems(tokenizer.decode(token_ids(answer_prompt(target, None, "")[-1])))
    examples = []
    for context_ids, rows in list(by_context.items())[:n]:
        context = tokenizer.decode(context_ids)
        asked = [
            (
                " ".join(_stems(tokenizer.decode(row.tail_ids)) - prompt),
                tokenizer.decode(row.answer_ids),
            )
            for row in rows
        ]
        examples.append(label_questions(tokenizer, context, asked))
    return examples


def fit_salience(
    module: PooledModule, examples: Sequence[LabelledContext], *, epochs: int = 3, seed: int = 0
) -> list[float]:
    """Fit the head.

    Parameters
    ----------
    module : whose ``salience`` is fitted in place
    examples : at least one batch of them

    Returns
    -------
    (epochs,) mean loss, nats a label
    """
    states = _states(module, examples)
    with torch.random.fork_rng():  # what is dropped out depends on the seed alone
        torch.manual_seed(seed)
        return _fit(module, examples, states, epochs, seed)


def _fit(
    module: PooledModule,
    examples: Sequence[LabelledContext],
    states: Sequence[Tensor],
    epochs: int,
    seed: int,
) -> list[float]:
    head = module.salience.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=PEAK_LR, weight_decay=0.05)
    rng = random.Random(seed)  # noqa: S311 - sampling, no secret
    n_steps = epochs * -(-len(examples) // BATCH)
    losses: list[float] = []
    step = 0
    for _ in range(epochs):
        order = rng.sample(range(len(examples)), len(examples))
        total = 0.0
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            loss = _loss(module, [states[i] for i in chosen], [examples[i] for i in chosen])
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LR * (1 + math.cos(math.pi * step / n_steps)) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            total += float(loss.detach()) * len(chosen)
        losses.append(total / len(order))
    head.requires_grad_(False).eval()
    return losses


@torch.no_grad()
def _states(module: PooledModule, examples: Sequence[LabelledContext]) -> list[Tensor]:
    """Return what the head reads of each example, (n, hidden)."""
    device = module.informativeness.device
    layers = module.early_layers()
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    found: dict[int, Tensor] = {}
    for first in range(0, len(by_length), STATES_BATCH):
        chosen = by_length[first : first + STATES_BATCH]
        rows = [torch.tensor(examples[i].input_ids, device=device) for i in chosen]
        states = module.target[0].embed_ids(pad_sequence(rows, batch_first=True))
        if layers is not None:
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            states = layers(
                inputs_embeds=states, attention_mask=mask, use_cache=False
            ).last_hidden_state
        for i, row, own in zip(chosen, rows, states.to(torch.bfloat16), strict=True):
            found[i] = own[: len(row)]
    return [found[i] for i in range(len(examples))]


def _loss(
    module: PooledModule, states: Sequence[Tensor], examples: Sequence[LabelledContext]
) -> Tensor:
    """Return the mean cross-entropy over all labels that are known, nats."""
    padded = pad_sequence(list(states), batch_first=True).float()
    n_context = torch.tensor([len(e.input_ids) for e in examples], device=padded.device)
    labels = torch.zeros(*padded.shape[:2], len(GUESSES))
    known = torch.zeros_like(labels)
    for row, example in enumerate(examples):
        for kind, marks in enumerate(example.labels):
            if marks is not None:
                labels[row, : len(marks), kind] = torch.tensor(marks, dtype=torch.float32)
                known[row, : len(marks), kind] = 1.0
    disturbed = torch.nn.functional.dropout(padded, DROPOUT)
    logits = module.salience.guess(disturbed, n_context)
    losses = binary_cross_entropy_with_logits(
        logits, labels.to(logits.device), reduction="none"
    ) * known.to(logits.device)
    return losses.sum() / known.sum().clamp(min=1)


def _stems(text: str) -> set[str]:
    words = (word.lower() for word in _WORD.findall(text))
    return {word[:STEM] for word in words if len(word) >= MIN_WORD and word not in COMMON}


def _marked(text: str, offsets: Sequence[tuple[int, int]], stems: set[str]) -> tuple[int, ...]:
    """Mark the tokens that belong to a word with one of the stems."""
    inside = bytearray(len(text))
    for found in _WORD.finditer(text):
        if _stems(found.group()) & stems:
            inside[found.start() : found.end()] = b"\1" * (found.end() - found.start())
    return tuple(int(any(inside[start:end])) for start, end in offsets)
