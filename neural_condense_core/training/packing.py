"""From Parquet files to a packed folder: tokenise once, at home, what a lent machine trains on.

Design decisions

* Only the tokenizer is loaded, never weights: an 8B target packs on a small machine.
* The size is a promise. Questions go first, since there are few; prose fills what is left, and
  every source keeps its weighted share, so small sources are kept whole and long ones are cut.
* A document is cut to one contiguous stretch from a random place: long contexts stay possible.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.data import (
    SEPARATOR,
    TokenRow,
    read_prose,
    read_questions,
    tokenise_question,
    weight_of,
)
from neural_condense_core.training.generated import QuestionGenerator, generate_rows
from neural_condense_core.training.packed import (
    PackedDocument,
    PackIndex,
    prompts_digest,
    write_pack,
)

SAMPLED_DOCUMENTS = 20
SAMPLED_CHARACTERS = 4000
MARGIN = 1.1
"""Characters read beyond what the tokens wanted should take up."""


@dataclass(frozen=True)
class PackLimits:
    """How much goes into a folder.

    Parameters
    ----------
    max_bytes : of all ids together
    n_generated : generated questions
    """

    max_bytes: int
    n_generated: int


def tokenizer_only(name: str) -> HFTarget:
    """Return a target whose weights have no values: for tokenising and prompts alone.

    Raises
    ------
    ConfigError
        There is no such model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from neural_condense_core.llm import embedded

    source = str(embedded.model_path()) if name == embedded.NAME else name
    try:
        config = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        return HFTarget(model, AutoTokenizer.from_pretrained(source), name)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"cannot load the tokenizer of {name!r}: {error}") from error


def pack(
    recipe: Recipe,
    prose: Path | None,
    qa: Path | None,
    folder: Path,
    limits: PackLimits,
    report: Callable[[str], None] = lambda _: None,
) -> PackIndex:
    """Write a packed folder for a recipe's target and sources.

    Parameters
    ----------
    recipe : says the target model, the weights of sources and kinds of generated questions
    prose, qa : Parquet files; at least one
    report : told what is being done

    Raises
    ------
    ConfigError
        There is nothing to pack, or the questions alone are too large.
    """
    if prose is None and qa is None:
        raise ConfigError("nothing to pack: give --prose FILE, --qa FILE or both")
    target = tokenizer_only(recipe.target_model)
    vocab_size = int(target.embedding.num_embeddings)
    width = 2 if vocab_size <= 1 << 16 else 4
    texts = read_prose(prose) if prose else []
    given = read_questions(qa) if qa else []
    generator = QuestionGenerator([row["text"] for row in texts], given)
    generated = generate_rows(generator, recipe.generated, limits.n_generated, recipe.seed)
    report(f"tokenising {len(given)} questions and {len(generated)} generated ones")
    contexts, rows = _tokenise_rows(target, [*given, *generated])
    used = sum(map(len, contexts)) + sum(len(r.tail_ids) + len(r.answer_ids) for _, r in rows)
    n_left = limits.max_bytes // width - used
    if n_left < 0:
        raise ConfigError(
            f"the questions alone take {used * width / 1e6:.1f} MB; allow more, or generate fewer"
        )
    report(f"tokenising prose, at most {n_left:,} tokens")
    sources = tuple(sorted({str(row["source"]) for row in texts}))
    documents = _tokenise_prose(target, texts, recipe, n_left, sources)
    index = PackIndex(
        target_model=recipe.target_model,
        prompts=prompts_digest(target),
        vocab_size=vocab_size,
        sources=sources,
        separator=tuple(target.tokenize(SEPARATOR)),
        n_prose_tokens=sum(len(document.ids) for document in documents),
        n_questions=len(given),
        n_generated=len(generated),
    )
    write_pack(folder, index, documents, contexts, rows)
    return index


def _tokenise_rows(
    target: HFTarget, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[Sequence[int]], list[tuple[int, TokenRow]]]:
    """Return distinct contexts, and per question (which of them, its ids)."""
    numbers: dict[str, int] = {}
    contexts: list[Sequence[int]] = []
    found = []
    for row in rows:
        context, answer = row["context"], str(row["answers"][0]).strip()
        number = numbers.setdefault(context, len(contexts))
        if number == len(contexts):
            contexts.append(target.tokenize(context))
        ids = contexts[number]
        found.append((number, tokenise_question(target, context, ids, row["question"], answer)))
    return contexts, found


def _tokenise_prose(
    target: HFTarget,
    rows: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    max_tokens: int,
    sources: Sequence[str],
) -> list[PackedDocument]:
    """Return the documents, each cut to its share."""
    if not rows:
        return []
    rng = random.Random(f"{recipe.seed}:pack")  # noqa: S311 - sampling, no secret
    per_token = _characters_per_token(target, rows, rng)
    lengths = [len(row["text"]) for row in rows]
    weights = [weight_of(row["source"], recipe.source_weights) for row in rows]
    shares = allot(lengths, weights, int(max_tokens * per_token))
    numbers = {name: number for number, name in enumerate(sources)}
    documents: list[PackedDocument] = []
    left = max_tokens
    for i in rng.sample(range(len(rows)), len(rows)):
        wanted = min(left, int(shares[i] / per_token) + 1)
        n_characters = int(shares[i] * MARGIN) + 1
        start = rng.randint(0, max(0, lengths[i] - n_characters))
        ids = target.tokenize(rows[i]["text"][start : start + n_characters])[:wanted]
        if ids:
            source = numbers[str(rows[i]["source"])]
            documents.append(PackedDocument(ids, source, lengths[i]))
            left -= len(ids)
    return documents


def _characters_per_token(
    target: HFTarget, rows: Sequence[Mapping[str, Any]], rng: random.Random
) -> float:
    sample = [rng.choice(rows)["text"][:SAMPLED_CHARACTERS] for _ in range(SAMPLED_DOCUMENTS)]
    return sum(map(len, sample)) / max(1, sum(len(target.tokenize(text)) for text in sample))


def allot(lengths: Sequence[int], weights: Sequence[float], total: int) -> list[float]:
    """Divide a total in proportion to length times weight, nobody getting more than its length.

    Parameters
    ----------
    lengths : what each can take
    weights : how much more than its length's share each is to get
    total : what there is

    Returns
    -------
    one a length; their sum is ``min(total, sum(lengths))``
    """
    shares = [0.0] * len(lengths)
    open_ = {i for i in range(len(lengths)) if weights[i] > 0 and lengths[i] > 0}
    left = float(total)
    while open_:
        scale = left / sum(lengths[i] * weights[i] for i in open_)
        full = {i for i in open_ if weights[i] * scale >= 1}
        if not full:
            for i in open_:
                shares[i] = lengths[i] * weights[i] * scale
            break
        for i in full:
            shares[i] = float(lengths[i])
            left -= lengths[i]
        open_ -= full
        if left <= 0:
            break
    return shares
