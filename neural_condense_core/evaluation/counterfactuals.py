"""Counterfactual facts: whether an answer follows the text or what the model has read before.

Design decisions

* A text states one fact of each kind, each contradicting the world, between sentences about
  nothing. The four choices are what the text says, what the world says, and two more of that kind;
  only the first stands in the text: the facts of a text are drawn together, again if a sentence of
  one holds a choice of another. Which of several values in a text belongs to which subject is
  what needles ask: with several facts of a kind, the full text itself was hardly followed.
* The question is put and the reply already begins as the text says it, as for needles.
* Generated from a seed, so no file is needed; subjects, values and order are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from neural_condense_core.evaluation.hay import hay
from neural_condense_core.evaluation.probes import Probe, choices
from neural_condense_core.evaluation.windows import turns
from neural_condense_core.evaluation.world_facts import FACT_KINDS, FactKind
from neural_condense_core.llm.base import TargetLLM

SOURCE = "counterfactual facts"
HAY_SENTENCES = 7
N_VALUES = 4


def counterfactual_probes(target: TargetLLM, limit: int, seed: int) -> list[Probe]:
    """Return at most ``limit`` items of four choices each; there are as many as are asked for.

    Parameters
    ----------
    target : whose tokens are made
    limit : items; one text has as many as there are kinds of facts
    seed : same seed, same texts
    """
    n_texts = max(2, -(-limit // len(FACT_KINDS)))
    return list(islice(turns([_probes_of(target, seed, k) for k in range(n_texts)]), limit))


def _probes_of(target: TargetLLM, seed: int, k: int) -> Iterator[Probe]:
    rng = np.random.default_rng([seed, k])
    facts = _draw(rng)
    sentences = [f"{fact.stem} {fact.said}." for fact in facts]
    sentences += islice(hay(rng), HAY_SENTENCES)
    ids = tuple(target.tokenize(" ".join(sentences[i] for i in rng.permutation(len(sentences)))))
    for i in rng.permutation(len(facts)):
        fact = facts[i]
        found = choices(target, f"{fact.stem} ", fact.said, fact.unsaid)
        if found is not None:
            yield Probe(
                "answer",
                f"{SOURCE} {k}",
                SOURCE,
                ids,
                found.right,
                question=fact.kind.question.format(subject=fact.subject),
                bridge_ids=found.before,
                distractors=found.wrong,
                golds=(fact.said,),
                labels=(("kind", fact.kind.name),),
            )


def _draw(rng: np.random.Generator) -> list[_Fact]:
    """Draw a fact of each kind, no value of which stands in what another one says."""
    while True:
        facts = [_Fact(kind, rng) for kind in FACT_KINDS]
        if not any(
            fact.is_told_by(other) for fact in facts for other in facts if other is not fact
        ):
            return facts


class _Fact:
    """A subject with the value of another one."""

    def __init__(self, kind: FactKind, rng: np.random.Generator) -> None:
        names = [str(name) for name in rng.choice(list(kind.values), N_VALUES, replace=False)]
        self.kind = kind
        self.subject = names[0]
        self.said = kind.values[names[1]]
        self.unsaid = [kind.values[name] for name in (names[0], *names[2:])]
        stem = kind.stem.format(subject=self.subject)
        self.stem = stem[:1].upper() + stem[1:]

    def is_told_by(self, other: _Fact) -> bool:
        """Return whether another fact's sentence holds one of the choices of this one."""
        told = f"{other.stem} {other.said}".lower()
        return any(value.lower() in told for value in (self.said, *self.unsaid))
