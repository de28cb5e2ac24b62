"""Which parts of a prompt are condensed, and how far: pure.

Where it sits: ``preparing.py`` measures a conversation, asks here, condenses what it is told to and
asks again with what came of it.

Design decisions

* A prompt is a row of parts, oldest first. The last part of all is the question and stays text.
* ``always`` condenses every part of ``threshold`` tokens or more; ``auto`` none, as long as the
  prompt keeps within its budget, then the oldest first, and only as many as it takes to come down
  to its aim: a little below the budget, so that the next turn does not condense other parts.
* The newest tokens stay text under ``auto``: recent turns are read closely, old ones for a fact.
* Where every part is condensed and the prompt is still too long, ratios rise, the oldest first, one
  step of what the condenser offers at a time.
* What a part was found to take once condensed counts instead of the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from neural_condense_core.errors import ContextWindowError, RequestError
from neural_condense_core.tokens import n_condensed_for

KEPT_SHARE = 4
"""The newest tokens that stay text take no more than one part in so many of the budget."""
STEP = 2.0
"""By which a ratio rises where the condenser takes any."""


@dataclass(frozen=True)
class Rules:
    """What a request wants.

    Parameters
    ----------
    mode : ``"auto"``, ``"always"`` or ``"never"``
    ratio : compression ratio to begin with
    threshold : parts below it stay text, tokens
    keep_tokens : so many of the newest tokens stay text
    budget : most rows of the prompt
    aim : once a prompt is above its budget, how many rows the first ratio alone brings it down to;
        None = the budget
    """

    mode: str
    ratio: float
    threshold: int
    keep_tokens: int
    budget: int
    aim: int | None = None


@dataclass(frozen=True)
class Sizes:
    """A measured prompt.

    Parameters
    ----------
    parts : tokens of each text, oldest first
    rest : rows that cannot be condensed: the template and stored contexts
    wholes : tokens of the text that each is a piece of; empty = each is whole
    """

    parts: tuple[int, ...]
    rest: int
    wholes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Which part is condensed at which ratio; the others stay text.

    Parameters
    ----------
    ratios : index of a part -> compression ratio
    """

    ratios: Mapping[int, float] = field(default_factory=dict)


def ladder(offered: Sequence[float] | None, rules: Rules, max_ratio: float) -> tuple[float, ...]:
    """Return the ratios that may be used, ascending, the first to begin with.

    Parameters
    ----------
    offered : by the condenser; None = any
    rules : of the request
    max_ratio : never above it

    Raises
    ------
    RequestError
        The ratio to begin with is not offered, or above ``max_ratio``.
    """
    if rules.ratio > max_ratio:
        raise RequestError(
            f"condense.ratio is at most {max_ratio:g} here", {"param": "condense.ratio"}
        )
    if offered is None:
        found = [rules.ratio]
        while found[-1] * STEP <= max_ratio:
            found.append(found[-1] * STEP)
        return tuple(found)
    if rules.ratio not in offered:
        listed = ", ".join(f"{each:g}" for each in offered)
        raise RequestError(f"condense.ratio must be one of {listed}", {"param": "condense.ratio"})
    return tuple(each for each in sorted(offered) if rules.ratio <= each <= max_ratio)


def eligible(sizes: Sizes, rules: Rules) -> list[int]:
    """Return the parts that may be condensed, oldest first."""
    kept = min(rules.keep_tokens, rules.budget // KEPT_SHARE) if rules.mode == "auto" else 0
    wholes = sizes.wholes or sizes.parts
    newest = len(sizes.parts) - 1
    found = []
    behind = sizes.parts[newest] if sizes.parts else 0
    for index in range(newest - 1, -1, -1):
        size = sizes.parts[index]
        behind += size
        if wholes[index] >= rules.threshold and behind > kept:
            found.append(index)
    return found[::-1]


def plan(
    sizes: Sizes,
    rules: Rules,
    steps: Sequence[float],
    known: Mapping[tuple[int, float], int] | None = None,
    barred: frozenset[int] = frozenset(),
) -> Plan:
    """Decide.

    Parameters
    ----------
    sizes : the measured prompt
    rules : of the request
    steps : ratios that may be used, ascending
    known : (part, ratio) -> condensed tokens, where that was tried
    barred : parts that stay text

    Raises
    ------
    ContextWindowError
        Nothing that may be condensed makes the prompt short enough.
    """
    draft = _Draft(sizes, rules, dict(known or {}))
    parts = [index for index in eligible(sizes, rules) if index not in barred]
    if rules.mode == "auto" and draft.fits():
        return draft.plan()
    if rules.mode != "never":
        for step in steps:
            is_first = step == steps[0]
            for index in parts:
                is_wanted = rules.mode == "always" and is_first
                if not is_wanted and draft.fits(rules.aim if is_first else None):
                    return draft.plan()
                draft.take(index, step)
    if not draft.fits():
        raise ContextWindowError(
            _too_long(draft.total(), rules),
            {"n_tokens": draft.total(), "budget": rules.budget, "param": "messages"},
        )
    return draft.plan()


class _Draft:
    def __init__(self, sizes: Sizes, rules: Rules, known: dict[tuple[int, float], int]) -> None:
        self._sizes = sizes
        self._budget = rules.budget
        self._known = known
        self._ratios: dict[int, float] = {}
        self._total = sizes.rest + sum(sizes.parts)

    def fits(self, limit: int | None = None) -> bool:
        return self._total <= (self._budget if limit is None else limit)

    def total(self) -> int:
        return self._total

    def take(self, index: int, ratio: float) -> None:
        self._total += self._size(index, ratio) - self._size(index, self._ratios.get(index))
        self._ratios[index] = ratio

    def plan(self) -> Plan:
        return Plan(self._ratios)

    def _size(self, index: int, ratio: float | None) -> int:
        whole = self._sizes.parts[index]
        if ratio is None:
            return whole
        return self._known.get((index, ratio), n_condensed_for(whole, ratio))


def _too_long(total: int, rules: Rules) -> str:
    advice = "send less text, or a smaller max_tokens"
    if rules.mode == "never":
        advice = "let it be condensed (condense.mode auto), or send less text"
    return (
        f"the prompt takes {total} tokens, of which {rules.budget} fit beside the answer; {advice}"
    )
