"""How the target model is asked: a challenge's texts as an item of the judge.

Where it sits: between ``challenges.py``, which is text only, and ``judge.py``, which counts tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from neural_condense_core.errors import RequestError
from neural_condense_core.llm.base import TargetLLM
from neural_condense_core.scoring.judge import Item, Task
from neural_condense_core.wire.scoring import Challenge, ChallengeItem

ASKED_AS: Mapping[str, Task] = MappingProxyType({
    "reconstruction": "reconstruction",
    "question_answering": "answer",
    "conversation": "continuation",
    "cloze": "answer",
    "fact_recall": "answer",
    "counterfactual": "answer",
})
"""How the target model is asked for each task of ``challenges.TASKS``."""


def as_item(
    target: TargetLLM, challenge: Challenge, context_ids: tuple[int, ...], item: ChallengeItem
) -> Item:
    """Return a challenge's item as the judge takes it.

    Parameters
    ----------
    target : whose tokens
    challenge : what the item is of
    context_ids : the challenge's context, tokenized
    item : the item

    Raises
    ------
    RequestError
        The task is unknown, or lacks its question, or a text has no token.
    """
    asked_as = ASKED_AS.get(item.task)
    if asked_as is None:
        raise RequestError(
            f"a challenge has a task that is none of {', '.join(ASKED_AS)}",
            {"tasks": list(ASKED_AS)},
        )
    target_ids = tuple(target.tokenize(item.target))
    bridge_ids = tuple(target.tokenize(item.bridge)) if item.bridge else ()
    if not context_ids or not target_ids:
        raise RequestError("a challenge's context or target has no token")
    if asked_as == "answer" and not item.question:
        raise RequestError(f"an item of task {item.task!r} needs a question")
    return Item(
        task=asked_as,
        document=challenge.document,
        source=challenge.source,
        context_ids=context_ids,
        target_ids=target_ids,
        question=_question(item),
        bridge_ids=bridge_ids,
    )


def _question(item: ChallengeItem) -> str:
    if item.question and item.choices:
        return f"{item.question} Choose one of: {'; '.join(item.choices)}."
    return item.question or ""
