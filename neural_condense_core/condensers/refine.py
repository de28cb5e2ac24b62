"""``NAME+refine=STEPS`` and ``NAME+refine=2000ms``: any condenser's tokens, improved for one text.

Where it sits: around another condenser. What that one makes is where gradient steps through the
frozen target model begin (``refine_search.py``); what they ask of the tokens comes from the text
alone (``refine_probes.py``).

Design decisions

* It buys quality with time, text by text, so it stops inside a budget: steps, milliseconds a text,
  and the time that is left to a request.
* A long text is improved block by block, so that memory is bounded and cost grows linearly; steps
  count for each block, milliseconds for the text.
* Each text is condensed and improved by itself: gradient steps magnify the last bit by which a
  row of a batch may differ from the row alone.
* By steps the result depends on the seed alone; by time it depends on the machine too.

References
----------
Optimising input vectors for one text: arXiv:2502.13063. That such vectors can be brittle, and a
text recited without being understood: the ablations of that line of work. Hence the disturbed
steps, the held-out questions and the start from a condenser.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from neural_condense_core.condensers.around import AroundCondenser
from neural_condense_core.condensers.base import Condenser, check_contexts
from neural_condense_core.condensers.options import HurriedCondenser, RefineBudget
from neural_condense_core.condensers.refine_probes import make_probes
from neural_condense_core.condensers.refine_search import (
    Limit,
    RowReader,
    Search,
    SearchSettings,
)
from neural_condense_core.errors import ConfigError
from neural_condense_core.tokens import CondensedTokens

if TYPE_CHECKING:
    from neural_condense_core.llm.hf import HFTarget

BLOCK_TOKENS = 512
"""Context tokens that are improved at once."""
PROBE_ROWS = 256
"""Positions that a probe may need behind the condensed tokens."""
RESERVE_SHARE = 0.1
"""Share of a request's remaining time that is left for writing the reply."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """What refining one text came to.

    Parameters
    ----------
    tokens : the improved condensed tokens
    steps : gradient steps over all blocks
    before, after : mean held-out loss of the blocks that were measured, nats per token; None
        where there was no time for any
    """

    tokens: CondensedTokens
    steps: int
    before: float | None
    after: float | None


class RefinedCondenser(AroundCondenser, HurriedCondenser):
    """A condenser whose tokens are improved text by text.

    Parameters
    ----------
    inner : makes the tokens to start from; not query-aware
    budget : how much work a text is worth
    target : the model that reads them; the one that ``inner`` condenses for
    settings : of the gradient steps, with the seed; None = the defaults
    continuation : also train on the model's own words about the text
    clock : seconds

    Raises
    ------
    ConfigError
        ``inner`` is query-aware or makes tokens for another model, or the model has no room for
        a block and a question.
    """

    option, example = "refine", "STEPS"

    def __init__(
        self,
        inner: Condenser,
        budget: RefineBudget,
        target: HFTarget,
        *,
        settings: SearchSettings | None = None,
        continuation: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner, target, budget)
        self.budget = budget
        self._settings = settings or SearchSettings()
        self._continuation = continuation
        self._clock = clock
        reader = RowReader(target)
        self._search = Search(reader, self._settings, clock)
        room = (target.max_positions - reader.n_head - PROBE_ROWS) // 2
        self._block_tokens = min(BLOCK_TOKENS, room)
        if room < 1:
            raise ConfigError(
                f"{target.name} has {target.max_positions} positions, too few to refine with"
            )

    @classmethod
    def around(cls, inner: Condenser, value: str, *, device: str, dtype: str) -> Self:
        """Return one around a loaded condenser; see ``options.py``."""
        from neural_condense_core.llm.hf import load_target

        return cls(inner, RefineBudget.parse(value), load_target(inner.target_model, device, dtype))

    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense and refine one context after the other."""
        return self.condense_within(contexts, ratio, None)

    def condense_within(
        self, contexts: Sequence[Sequence[int]], ratio: float, remaining_s: float | None
    ) -> list[CondensedTokens]:
        """Condense a batch, and refine as far as time allows.

        Parameters
        ----------
        contexts, ratio : as in ``condense``
        remaining_s : seconds in which the whole batch should be done; None = the budget alone.
            However few, every context is condensed
        """
        check_contexts(contexts)
        self.check_ratio(ratio)
        end_s = None
        if remaining_s is not None:
            end_s = self._clock() + (1 - RESERVE_SHARE) * remaining_s
        starts = [self.inner.condense([ids], ratio)[0] for ids in contexts]
        found = []
        for i, (tokens, ids) in enumerate(zip(starts, contexts, strict=True)):
            allowed_s = None
            if end_s is not None:
                allowed_s = max(0.0, end_s - self._clock()) / (len(contexts) - i)
            found.append(self.refine(tokens, ids, allowed_s).tokens)
        return found

    def refine(
        self, tokens: CondensedTokens, ids: Sequence[int], allowed_s: float | None = None
    ) -> Refinement:
        """Improve the condensed tokens of one text, whoever made them.

        Parameters
        ----------
        tokens : for this target model
        ids : (n_context,) token ids of the text
        allowed_s : seconds, if less than the budget; None = the budget alone
        """
        deadline_s = self._deadline_s(allowed_s)
        rows = np.array(tokens.embeds, dtype=np.float32)
        blocks = cut(tokens, len(ids), self._block_tokens)
        measured: list[tuple[float, float]] = []
        steps = 0
        for done, (text, part) in enumerate(blocks):
            if part.stop - part.start >= text.stop - text.start:
                continue  # nothing was condensed, so there is nothing to win
            now_s = self._clock()
            block_s = None
            if deadline_s is not None:
                block_s = now_s + (deadline_s - now_s) / (len(blocks) - done)
                if block_s <= now_s:
                    break
            probes = make_probes(
                self.target, ids[text], self._settings.seed, continuation=self._continuation
            )
            result = self._search.run(
                rows[part], ids[text], probes, Limit(self.budget.steps, block_s)
            )
            rows[part] = result.rows
            steps += result.steps
            if result.before is not None and result.after is not None:
                measured.append((result.before, result.after))
        improved = replace(tokens, embeds=rows, checkpoint=self.name)
        if not measured:
            return Refinement(improved, steps, None, None)
        before, after = np.mean(measured, axis=0).tolist()
        return Refinement(improved, steps, before, after)

    def _deadline_s(self, allowed_s: float | None) -> float | None:
        limits = [] if allowed_s is None else [allowed_s]
        if self.budget.ms is not None:
            limits.append(self.budget.ms / 1000)
        return self._clock() + min(limits) if limits else None


def cut(tokens: CondensedTokens, n_context: int, block_tokens: int) -> list[tuple[slice, slice]]:
    """Cut a text and its condensed tokens into blocks that belong together.

    Parameters
    ----------
    tokens : of the text
    n_context : tokens of text
    block_tokens : most tokens of text, and of condensed tokens, in a block

    Returns
    -------
    per block its tokens of text and its rows; by the rows' positions where every block gets some
    of them, else evenly
    """
    n_rows = tokens.n_condensed_tokens
    n_blocks = min(n_rows, -(-max(n_context, n_rows) // block_tokens))
    edges = np.arange(n_blocks + 1) * n_context // n_blocks
    rows = np.arange(n_blocks + 1) * n_rows // n_blocks
    if tokens.positions is not None:
        placed = np.searchsorted(tokens.positions, edges)
        placed[0], placed[-1] = 0, n_rows
        if (np.diff(placed) > 0).all() and (np.diff(placed) <= block_tokens).all():
            rows = placed
    return [
        (slice(int(edges[i]), int(edges[i + 1])), slice(int(rows[i]), int(rows[i + 1])))
        for i in range(n_blocks)
    ]
