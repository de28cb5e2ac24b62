"""What the target model writes by itself behind a context, and how near it comes to the text.

Where it sits: beside the likelihoods of ``reading.py``. Tokens that were only fitted to a
likelihood fail here.

Design decisions

* Answers are compared as SQuAD does: lower case, without punctuation and articles, word by word,
  with the nearest of the good answers. Where the reply was begun for the model, it goes on behind
  the answer too; then as many words count as the answer has.
* A repeated text is compared as a whole (ROUGE-L on words, BLEU), from its beginning (exact
  prefix), place by place, and by its numbers and names, which averages hide.
* BLEU is sacrebleu's; ROUGE-L is the F measure of the longest common subsequence of words.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from neural_condense_core.evaluation.cloze import RECALLED
from neural_condense_core.evaluation.mentions import Kind, mentions, stands_in
from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.llm.base import Segment, TargetLLM
from neural_condense_core.scoring.judge import prompt_for

ANSWER_TOKENS = 32
"""Tokens the model may write as an answer."""

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"\w+")

Figures = dict[str, float | int | None]


@dataclass(frozen=True)
class Reply:
    """What the model wrote for one item.

    Parameters
    ----------
    text : stripped
    wanted : the item's target as text, stripped
    written_ids, wanted_ids : token ids of both
    golds : good answers; empty where the text is to be repeated
    is_begun : whether the reply was begun for the model, so that it goes on behind the answer
    """

    text: str
    wanted: str
    written_ids: tuple[int, ...]
    wanted_ids: tuple[int, ...]
    golds: tuple[str, ...] = ()
    is_begun: bool = False

    @cached_property
    def f1(self) -> float:
        """Word overlap with the nearest good answer, in [0, 1]."""
        return max((_f1(*self._words_beside(gold)) for gold in self.golds), default=0.0)

    @cached_property
    def is_exact(self) -> bool:
        """Whether it is one of the good answers, normalised."""
        return any(written == wanted for written, wanted in map(self._words_beside, self.golds))

    def _words_beside(self, gold: str) -> tuple[list[str], list[str]]:
        written, wanted = _words(self.text), _words(gold)
        return (written[: len(wanted)] if self.is_begun else written), wanted

    @cached_property
    def in_place(self) -> float:
        """Share of the wanted tokens that stand at their place."""
        pairs = zip(self.wanted_ids, self.written_ids, strict=False)
        return sum(a == b for a, b in pairs) / max(1, len(self.wanted_ids))

    @cached_property
    def exact_prefix(self) -> int:
        """Tokens that are right from the beginning on."""
        pairs = zip(self.wanted_ids, self.written_ids, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    @cached_property
    def rouge_l(self) -> float:
        """ROUGE-L against the wanted text, in [0, 1]."""
        wanted, written = _WORD.findall(self.wanted.lower()), _WORD.findall(self.text.lower())
        common = _longest_common(wanted, written)
        return 2 * common / (len(wanted) + len(written)) if common else 0.0

    def recalled(self, kind: Kind) -> tuple[int, int]:
        """Return how many numbers or names of the wanted text stand here, and how many it has."""
        distinct = {mention.text for mention in mentions(self.wanted, (kind,))}
        return sum(stands_in(words, self.text) for words in distinct), len(distinct)


def write(
    target: TargetLLM, probes: Sequence[Probe], contexts: Sequence[Segment | None]
) -> list[Reply]:
    """Let the model write for each item; all are questions, or all are texts to repeat.

    Parameters
    ----------
    contexts : one an item
    """
    prompts = [
        prompt_for(target, probe, context) for probe, context in zip(probes, contexts, strict=True)
    ]
    asks = all(probe.golds for probe in probes)
    room = ANSWER_TOKENS if asks else max(len(probe.target_ids) for probe in probes)
    replies = []
    for probe, text in zip(probes, target.generate(prompts, room), strict=True):
        # generated text comes stripped: compare with the target in the same form
        wanted = target.decode(probe.target_ids).strip()
        replies.append(
            Reply(
                text,
                wanted,
                tuple(target.tokenize(text)),
                tuple(target.tokenize(wanted)),
                probe.golds,
                bool(probe.bridge_ids),
            )
        )
    return replies


def is_written(probe: Probe) -> bool:
    """Tell whether an item is one that the model can write by itself."""
    return bool(probe.golds) or (probe.task == "reconstruction" and not probe.bridge_ids)


def figures(replies: Sequence[Reply]) -> Figures:
    """Sum replies up; at least one, all of a kind."""
    if replies[0].golds:
        return {
            "n": len(replies),
            "f1": _mean(reply.f1 for reply in replies),
            "exact_match": _mean(reply.is_exact for reply in replies),
        }
    found: Figures = {
        "n": len(replies),
        "rouge_l": _mean(reply.rouge_l for reply in replies),
        "bleu": _bleu(replies),
        "exact_prefix": _mean(reply.exact_prefix for reply in replies),
        "prefix_share": _mean(
            reply.exact_prefix / max(1, len(reply.wanted_ids)) for reply in replies
        ),
    }
    counts = {kind: [reply.recalled(kind) for reply in replies] for kind in RECALLED}
    for kind, pairs in counts.items():
        total = sum(n for _, n in pairs)
        found[f"{kind}s_recalled"] = sum(hits for hits, _ in pairs) / total if total else None
    return found | {f"n_{kind}s": sum(n for _, n in pairs) for kind, pairs in counts.items()}


def _bleu(replies: Sequence[Reply]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    texts, wanted = zip(*((reply.text, reply.wanted) for reply in replies), strict=True)
    return float(BLEU().corpus_score(list(texts), [list(wanted)]).score)


def _mean(values: Iterable[float]) -> float:
    known = [float(value) for value in values]
    return sum(known) / len(known)


def _words(text: str) -> list[str]:
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return _ARTICLES.sub(" ", plain).split()


def _f1(written: Sequence[str], wanted: Sequence[str]) -> float:
    common = (Counter(written) & Counter(wanted)).total()
    if not written or not wanted:
        return float(list(written) == list(wanted))
    return 2 * common / (len(written) + len(wanted))


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        previous = row
        row = [0]
        for j, against in enumerate(other):
            row.append(previous[j] + 1 if word == against else max(previous[j + 1], row[j]))
    return row[-1]
