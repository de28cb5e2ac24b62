"""``TextExaminer``: contexts and questions from ``scoring/challenges.py``, users' texts as well."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

from neural_condense_core.scoring.challenges import (
    ContextDraft,
    ask,
    draw_items,
    make_contexts,
)
from neural_condense_core.scoring.texts import TextSource
from neural_condense_core.validator.rounds import Draft
from neural_condense_core.wire.scoring import Challenge

ORGANIC_SOURCE = "organic"


class TextExaminer:
    """Makes contexts from texts, and asks about them.

    Parameters
    ----------
    texts : where the texts are from
    """

    def __init__(self, texts: TextSource) -> None:
        self._texts = texts

    def contexts(self, seed: int, n: int, max_chars: int) -> Sequence[Draft]:
        """Return ``n`` texts of at most ``max_chars`` characters."""
        return make_contexts(seed, n, max_chars, self._texts)

    def draft_of(self, context: str) -> Draft | None:
        """Return a user's text as one that can be asked about; None where nothing can be.

        Nobody put facts into it, so what is asked for is the text itself.
        """
        name = hashlib.sha256(context.encode("utf-8", "replace")).hexdigest()[:24]
        draft = ContextDraft(name, context, ORGANIC_SOURCE, name, ())
        return draft if draw_items(draft, 0) else None

    def ask(self, drafts: Sequence[Draft], seed: int) -> Sequence[Challenge]:
        """Return the challenges, one a draft, in their order."""
        return ask(cast(Sequence[ContextDraft], drafts), seed)
