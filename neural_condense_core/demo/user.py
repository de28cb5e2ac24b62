"""A user of the subnet: has a text condensed by the best miner, and an LLM answer from it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from neural_condense_core.client.organic import OrganicClient
from neural_condense_core.demo.document import Document, Question
from neural_condense_core.errors import BackendError

if TYPE_CHECKING:
    from neural_condense_core.llm.base import TargetLLM

TIMEOUT_S = 60.0


def passage(document: Document, max_chars: int) -> tuple[str, Question]:
    """Return a stretch of a document that a tier takes, and a question that it can answer.

    Parameters
    ----------
    document : with its questions
    max_chars : most characters of the stretch
    """
    text = document.text
    chosen = next((each for each in document.questions if each.gold and each.gold in text), None)
    if chosen is None or chosen.gold is None:
        return _whole_words(text, 0, max_chars), document.questions[0]
    place = text.index(chosen.gold)
    if place + len(chosen.gold) <= max_chars:
        return _whole_words(text, 0, max_chars), chosen
    return _whole_words(text, place - max_chars // 2, max_chars), chosen


def _whole_words(text: str, start: int, n_chars: int) -> str:
    cut = text[start : start + n_chars]
    if start > 0:
        cut = cut.partition(" ")[2] or cut
    if start + n_chars < len(text):
        cut = cut.rpartition(" ")[0] or cut
    return cut.strip()


def ask_subnet(
    url: str, key: str, document: Document, target: TargetLLM, max_new_tokens: int
) -> dict[str, Any]:
    """Ask a question about a document whose text the subnet condenses.

    Parameters
    ----------
    url : of a validator's organic API
    key : for it
    document : with its questions
    target : the model that answers
    max_new_tokens : longest answer

    Returns
    -------
    JSON-ready: the question, the answers from the text, if that fits the model, and from the
    condensed tokens, who made those, and in how many milliseconds

    Raises
    ------
    BackendError
        What came is not for the model that answers.
    """
    from neural_condense_core.demo.measure import ROOM_FOR_QUESTION, answer
    from neural_condense_core.llm.base import TokenIds, as_segment

    with OrganicClient(url, api_key=key, timeout_s=TIMEOUT_S) as client:
        limits = {tier.name: tier.max_context_chars for tier in client.tiers().tiers}
        text, question = passage(document, min(limits.values()))
        started = time.perf_counter()
        served = client.serve(text)
        ms = (time.perf_counter() - started) * 1e3
    if served.tokens.hidden_size != target.hidden_size:
        raise BackendError(
            f"the subnet's tokens are {served.tokens.hidden_size} wide, but {target.name} takes "
            f"{target.hidden_size}"
        )
    ids = tuple(target.tokenize(text))
    said = answer(target, as_segment(served.tokens), [question], max_new_tokens)[0]
    said_full = None
    if len(ids) + ROOM_FOR_QUESTION <= target.max_positions:
        said_full = answer(target, TokenIds(ids), [question], max_new_tokens)[0]
    return {
        "question": question.question,
        "gold": question.gold,
        "answer": said,
        "answer_full": said_full,
        "uid": served.uid,
        "hotkey": served.hotkey,
        "tier": served.tier,
        "n_context_tokens": len(ids),
        "n_condensed_tokens": served.tokens.n_condensed_tokens,
        "ms": ms,
    }
