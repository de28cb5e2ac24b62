"""From a request to what the model reads: measure, decide, condense, and tell what was done.

Where it sits: between the routes (``app.py``) and the reader; ``policy.py`` decides.

Design decisions

* The decision is made on numbers; where condensing gives other numbers than were estimated, it is
  made again with those, so the prompt fits before it is sent.
* A context below the floor of content recovery goes as text, if there is room; where there is none
  it stays condensed, and the report says that it is below the floor.
* The report names every part by its place among the request's texts and by its id, never by text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from neural_condense_core.errors import ContextWindowError, RequestError
from neural_condense_core.gateway.contexts import Contexts
from neural_condense_core.gateway.dialogue import (
    SLACK_CHARS,
    Dialogue,
    Reference,
    Text,
    pieces,
)
from neural_condense_core.gateway.messages import CondenseOptions
from neural_condense_core.gateway.policy import Plan, Rules, Sizes, eligible, ladder, plan
from neural_condense_core.gateway.reader_messages import Lines, Measure
from neural_condense_core.gateway.reading import Reading
from neural_condense_core.gateway.settings import GatewaySettings
from neural_condense_core.gateway.store import Stored
from neural_condense_core.tokens import CondensedTokens

DEFAULT_ANSWER_SHARE = 0.25
"""Share of the window that an answer whose length nobody names leaves room for, at most."""
AIM_SHARE = 0.75
"""Share of the room that a prompt which did not fit is condensed to, as far as the gentlest ratio
goes: near the end of its window a small model hardly finds what it was told (docs/gateway.md)."""
GENTLEST = 2.0
"""Ratios below it are not worth the work."""
MAX_TRIES = 12
MAX_AT_ONCE = 4
MIN_BUDGET = 16


@dataclass(frozen=True)
class PartReport:
    """What became of one part.

    Parameters
    ----------
    part : its place among the texts of the request, from 0; None = a context named by id
    id : of the stored context
    sent_as : ``"condensed"`` or ``"text"``
    reason : why, in a word: ``policy``, ``reference``, ``below_floor``, ``below_floor_no_room``
    n_context_tokens, n_condensed_tokens, ratio : of it
    recovery : estimated content recovery; None = not known
    from_store : whether it was there already
    """

    part: int | None
    id: str
    sent_as: str
    reason: str
    n_context_tokens: int
    n_condensed_tokens: int
    ratio: float
    recovery: float | None
    from_store: bool


@dataclass(frozen=True)
class Report:
    """What was condensed of a request.

    Parameters
    ----------
    mode : that was used
    parts : every part that was condensed or tried
    """

    mode: str
    parts: tuple[PartReport, ...] = ()

    @property
    def tokens_saved(self) -> int:
        """Tokens of text less the rows that stand for them."""
        return sum(
            each.n_context_tokens - each.n_condensed_tokens
            for each in self.parts
            if each.sent_as == "condensed"
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the reader is to read.

    Parameters
    ----------
    lines : the prompt
    max_new_tokens : longest answer; None = not said
    report : what was done
    """

    lines: tuple[Lines, ...] = field(repr=False)
    max_new_tokens: int | None
    report: Report


@dataclass(eq=False)
class _Tried:
    """Contexts that were condensed for a request so far, by (part, ratio)."""

    found: dict[tuple[int, float], tuple[Stored, bool]] = field(default_factory=dict)

    def known(self) -> dict[tuple[int, float], int]:
        return {key: stored.about.n_condensed_tokens for key, (stored, _) in self.found.items()}


class Preparer:
    """Turns requests into prompts.

    Parameters
    ----------
    reading : counts, and knows the window
    contexts : condenses
    settings : what requests that say nothing get
    """

    def __init__(self, reading: Reading, contexts: Contexts, settings: GatewaySettings) -> None:
        self._reading = reading
        self._contexts = contexts
        self._settings = settings

    async def prepare(
        self, dialogue: Dialogue, options: CondenseOptions, longest: int | None, owner: str
    ) -> Prepared:
        """Prepare a request.

        Parameters
        ----------
        dialogue : its messages
        options : what it says about condensing
        longest : most tokens of the answer; None = not said
        owner : whose contexts may be used
        """
        stored = {each: await self._stored(owner, each) for each in set(dialogue.references)}
        rules = self._rules(options, longest)
        dialogue, sizes = await self._measured(dialogue, stored, rules)
        chosen, reports = await self._condensed(dialogue, sizes, rules, options, owner)
        reports += [_referenced(stored[each]) for each in dialogue.references]
        lines = _lines(dialogue, chosen, {key: each.tokens for key, each in stored.items()})
        return Prepared(lines, longest, Report(rules.mode, tuple(reports)))

    async def _stored(self, owner: str, context_id: str) -> Stored:
        found = await asyncio.to_thread(self._contexts.store.get, owner, context_id)
        model = self._reading.served().name
        if found.about.target_model != model:
            raise RequestError(
                f"a context was condensed for {found.about.target_model!r} and {model!r} answers; "
                "condense the text again",
                {"param": "condense.contexts", "id": context_id},
            )
        return found

    def _rules(self, options: CondenseOptions, longest: int | None) -> Rules:
        settings = self._settings
        window = self._reading.served().max_positions
        reserve = longest or min(settings.max_new_tokens, int(DEFAULT_ANSWER_SHARE * window))
        room = window - reserve
        if room < MIN_BUDGET:
            raise ContextWindowError(
                f"an answer of {reserve} tokens leaves no room for a prompt in a window of "
                f"{window}; ask for fewer",
                {"window": window, "param": "max_tokens"},
            )
        mode = options.mode or settings.mode
        wanted = options.budget or settings.budget
        return Rules(
            mode=mode,
            ratio=options.ratio or settings.ratio or self._first_ratio(mode),
            threshold=options.threshold or settings.threshold,
            keep_tokens=(
                settings.keep_tokens if options.keep_tokens is None else options.keep_tokens
            ),
            budget=room if mode == "never" else min(room, wanted or room),
            aim=None if wanted else int(AIM_SHARE * room),
        )

    def _first_ratio(self, mode: str) -> float:
        source = self._contexts.source
        if mode != "auto":
            return source.ratio
        # Under auto ratios rise as the window asks for it, so it begins with the gentlest.
        offered = [each for each in source.ratios or () if each >= GENTLEST]
        return min(offered) if offered else min(GENTLEST, source.ratio)

    async def _measured(
        self, dialogue: Dialogue, stored: dict[str, Stored], rules: Rules
    ) -> tuple[Dialogue, Sizes]:
        counts, total = await self._count(dialogue)
        wholes: tuple[int, ...] = ()
        needed = [
            self._pieces_of(text, n) if n >= rules.threshold else 1
            for text, n in zip(dialogue.texts, counts, strict=True)
        ]
        needed[-1:] = [1] * bool(needed)  # the question
        if rules.mode != "never" and max(needed, default=1) > 1:
            # Too long to be condensed in one piece; where it stays text it is joined again.
            cut = [pieces(text, n) for text, n in zip(dialogue.texts, needed, strict=True)]
            wholes = tuple(n for part, n in zip(cut, counts, strict=True) for _ in part)
            dialogue = dialogue.with_texts(cut)
            counts, total = await self._count(dialogue)
        rows = sum(stored[each].about.n_condensed_tokens for each in dialogue.references)
        return dialogue, Sizes(counts, max(0, total - sum(counts)) + rows, wholes)

    def _pieces_of(self, text: str, n_tokens: int) -> int:
        needed = -(-n_tokens // self._settings.max_context_tokens)
        max_chars = self._contexts.source.max_chars
        if max_chars is not None:
            # Pieces end at a space, so they differ in length.
            needed = max(needed, -(-len(text) // max(1, max_chars - SLACK_CHARS)))
        return max(1, min(needed, len(text)))

    async def _count(self, dialogue: Dialogue) -> tuple[tuple[int, ...], int]:
        lines = _lines(dialogue, {}, {})
        measured = await self._reading.measure(Measure(tuple(dialogue.texts), lines))
        return measured.texts, measured.total

    async def _condensed(
        self,
        dialogue: Dialogue,
        sizes: Sizes,
        rules: Rules,
        options: CondenseOptions,
        owner: str,
    ) -> tuple[dict[int, CondensedTokens], list[PartReport]]:
        floor = self._settings.floor if options.floor is None else options.floor
        tried = _Tried()
        steps = self._steps(sizes, rules)
        chosen = plan(sizes, rules, steps)
        for _ in range(MAX_TRIES):
            missing = [key for key in chosen.ratios.items() if key not in tried.found]
            if not missing:
                break
            await self._try(dialogue.texts, missing, owner, tried, estimates=floor > 0)
            chosen = plan(sizes, rules, steps, tried.known())
        return self._above_floor(sizes, rules, chosen, tried, floor)

    def _steps(self, sizes: Sizes, rules: Rules) -> Sequence[float]:
        if rules.mode == "never" or not eligible(sizes, rules):
            return ()
        source = self._contexts.source
        return ladder(source.ratios, rules, max(self._settings.max_ratio, source.ratio))

    async def _try(
        self,
        texts: Sequence[str],
        missing: Iterable[tuple[int, float]],
        owner: str,
        tried: _Tried,
        *,
        estimates: bool,
    ) -> None:
        slots = asyncio.Semaphore(MAX_AT_ONCE)

        async def one(index: int, ratio: float) -> None:
            async with slots:
                tried.found[index, ratio] = await self._contexts.condensed(
                    owner, texts[index], ratio, estimates=estimates
                )

        tasks = [asyncio.create_task(one(index, ratio)) for index, ratio in missing]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # where one fails, nobody waits for the others
                task.cancel()

    @staticmethod
    def _above_floor(
        sizes: Sizes, rules: Rules, chosen: Plan, tried: _Tried, floor: float
    ) -> tuple[dict[int, CondensedTokens], list[PartReport]]:
        kept = {index: tried.found[index, ratio] for index, ratio in chosen.ratios.items()}
        saved = {
            index: sizes.parts[index] - stored.about.n_condensed_tokens
            for index, (stored, _) in kept.items()
        }
        total = sizes.rest + sum(sizes.parts) - sum(saved.values())
        used: dict[int, CondensedTokens] = {}
        reports = []
        # The newest first: what there is room for as text is the more likely to be asked about.
        for index in sorted(kept, reverse=True):
            stored, was_stored = kept[index]
            recovery = stored.about.recovery
            sent_as, reason = "condensed", "policy"
            if recovery is not None and recovery < floor:
                fits = total + saved[index] <= rules.budget
                sent_as = "text" if fits else sent_as
                reason = "below_floor" if fits else "below_floor_no_room"
            if sent_as == "text":
                total += saved[index]
            else:
                used[index] = stored.tokens
            reports.append(_reported(index, stored, sent_as, reason, was_stored))
        return used, reports[::-1]


def _reported(
    index: int | None, stored: Stored, sent_as: str, reason: str, was_stored: bool
) -> PartReport:
    about = stored.about
    return PartReport(
        part=index,
        id=about.id,
        sent_as=sent_as,
        reason=reason,
        n_context_tokens=about.n_context_tokens,
        n_condensed_tokens=about.n_condensed_tokens,
        ratio=about.ratio,
        recovery=about.recovery,
        from_store=was_stored,
    )


def _referenced(stored: Stored) -> PartReport:
    return _reported(None, stored, "condensed", "reference", True)


def _lines(
    dialogue: Dialogue, chosen: dict[int, CondensedTokens], stored: dict[str, CondensedTokens]
) -> tuple[Lines, ...]:
    index = -1
    found = []
    for message in dialogue.messages:
        parts: list[str | CondensedTokens] = []
        for part in message.parts:
            if isinstance(part, Text):
                index += 1
                parts.append(chosen.get(index, part.text))
            elif isinstance(part, Reference) and part.id in stored:
                parts.append(stored[part.id])
        found.append(Lines(message.role, tuple(parts)))
    return tuple(found)
