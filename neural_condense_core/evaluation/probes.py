"""``Probe``: an item of an evaluation, with wrong choices beside the right one and labels.

Where it sits: made by the tasks, asked of the judge, summed up in rows. The judge knows only the
``Item`` in it.

Design decisions

* ``Item.task`` says how the target model is asked, the name of an evaluation's task is the key it
  is kept under: a needle and a fact are both asked as a question.
* Labels part a task's rows (by length, depth, kind); what is swapped with what follows the source
  and the length, so that a long text is never compared with a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from neural_condense_core.llm.base import TargetLLM
from neural_condense_core.scoring.judge import Item

TaskName = Literal[
    "continuation", "answer", "cloze", "reconstruction", "recall", "needle", "counterfactual"
]
Label = Literal["length", "depth", "kind"]

LABELS: tuple[Label, ...] = ("length", "depth", "kind")


@dataclass(frozen=True)
class Probe(Item):
    """One thing to ask about a context.

    Parameters
    ----------
    distractors : token ids of the wrong choices beside ``target_ids``; empty = nothing to choose
    golds : texts that count as the answer when the model writes by itself; empty = not asked
    labels : pairs of a label's name and its value
    """

    distractors: tuple[tuple[int, ...], ...] = ()
    golds: tuple[str, ...] = ()
    labels: tuple[tuple[Label, str], ...] = ()

    def label(self, name: Label) -> str | None:
        """Return a label's value, None without it."""
        return dict(self.labels).get(name)

    @property
    def swap_group(self) -> str:
        """Within which the other document is chosen."""
        return f"{self.source}\n{self.label('length') or ''}"


def tail_ids(target: TargetLLM, before: str, tail: str) -> tuple[tuple[int, ...], ...] | None:
    """Return the token ids of a text and of what follows it, as they are when tokenised together.

    Parameters
    ----------
    before, tail : texts; white space between them belongs to the tail, as in most vocabularies

    Returns
    -------
    (ids of before, ids of tail); None where the two do not part at a token
    """
    stripped = before.rstrip()
    head = tuple(target.tokenize(stripped))
    whole = tuple(target.tokenize(before + tail))
    if not head or len(whole) <= len(head) or whole[: len(head)] != head:
        return None
    return head, whole[len(head) :]


@dataclass(frozen=True)
class Choices:
    """Right and wrong words behind a text, as token ids of the target model.

    Parameters
    ----------
    before : of the text
    right : of the right words
    wrong : of the wrong ones
    """

    before: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[tuple[int, ...], ...]


def choices(
    target: TargetLLM, before: str, right: str, wrong: Sequence[str], n_wrong: int | None = None
) -> Choices | None:
    """Tokenise right and wrong words behind the same text.

    Parameters
    ----------
    before : text
    right, wrong : words that may follow it
    n_wrong : how many of the wrong ones to take, the nearest in length; None = all

    Returns
    -------
    None where fewer wrong words can be told from the right ones, or the text ends inside a token
    """
    parted = tail_ids(target, before, right)
    if parted is None:
        return None
    head, found = parted
    others = [tail_ids(target, before, words) for words in wrong]
    n = len(wrong) if n_wrong is None else n_wrong
    near = nearest_in_length(
        found, [ids[1] for ids in others if ids is not None and ids[0] == head], n
    )
    return Choices(head, found, near) if len(near) == n else None


def nearest_in_length(
    wanted: Sequence[int], candidates: Sequence[tuple[int, ...]], n: int
) -> tuple[tuple[int, ...], ...]:
    """Return the ``n`` candidates whose number of tokens is nearest, the first of equals first.

    A candidate that begins as the wanted ids do, or they as it, is left out: of two such choices
    the shorter one is always the likelier.
    """
    apart = [
        ids
        for ids in dict.fromkeys(candidates)
        if ids and ids[: len(wanted)] != tuple(wanted) and tuple(wanted[: len(ids)]) != ids
    ]
    return tuple(sorted(apart, key=lambda ids: abs(len(ids) - len(wanted)))[:n])
