"""``Prefixes``: what the model has made of the beginnings of prompts, kept for the next question.

Where it sits: in the reader process, before an engine that keeps no such thing by itself. Condensed
tokens are read once and asked about many times; what stands up to the last of them in a prompt is
read once too.

Design decisions

* A beginning ends with condensed tokens: text behind them is the question, and differs. Prompts
  without any are left alone.
* Of a known beginning the longest is taken, unless more would still have to be read behind it than
  it saves; then the whole beginning is read and kept instead.
* The owner is part of the key. By how soon an answer comes nobody learns what others asked about.
* The bound is rows, of which each costs keys and values in every layer; the least used goes first,
  and goes before the new one is made.
* An engine that cannot is not asked again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

from neural_condense_core.errors import UnsupportedError
from neural_condense_core.llm.base import Embeds, Prefix, Prompt, TargetLLM

MIN_ROWS = 64
"""A shorter beginning is read again sooner than it is found."""


class Prefixes:
    """Beginnings of prompts that are read already; for one thread.

    Parameters
    ----------
    target : who read them
    max_rows : of all of them together; 0 = keep none
    """

    def __init__(self, target: TargetLLM, max_rows: int) -> None:
        self._target = target
        self._max_rows = max_rows
        self._kept: OrderedDict[bytes, Prefix] = OrderedDict()

    def split(self, prompt: Prompt, owner: str) -> tuple[Prefix | None, Prompt, int]:
        """Return what is read of a prompt, what is left to read, and how many rows were known.

        Parameters
        ----------
        prompt : what is asked
        owner : who asks
        """
        if not self._max_rows:
            return None, prompt, 0
        beginnings = list(_beginnings(prompt, owner))
        if not beginnings:
            return None, prompt, 0
        longest, n_longest, end = beginnings[-1]
        for key, n_rows, n_segments in reversed(beginnings):
            if key in self._kept and n_longest <= 2 * n_rows:
                self._kept.move_to_end(key)
                return self._kept[key], prompt[n_segments:], n_rows
        if not MIN_ROWS <= n_longest <= self._max_rows:
            return None, prompt, 0
        self._make_room(n_longest)
        try:
            self._kept[longest] = self._target.prefill(prompt[:end])
        except UnsupportedError:
            self._max_rows = 0
            return None, prompt, 0
        return self._kept[longest], prompt[end:], 0

    def _make_room(self, n_rows: int) -> None:
        while sum(each.n_tokens for each in self._kept.values()) + n_rows > self._max_rows:
            self._kept.popitem(last=False)


def _beginnings(prompt: Prompt, owner: str) -> Iterator[tuple[bytes, int, int]]:
    """Give key, rows and number of segments of each beginning, the shortest first."""
    digest = hashlib.sha256(len(owner).to_bytes(8, "little") + owner.encode())
    n_rows = 0
    for i, segment in enumerate(prompt[:-1], start=1):
        n_rows += len(segment)
        digest.update(len(segment).to_bytes(8, "little"))
        if not isinstance(segment, Embeds):
            digest.update(b"text" + repr(segment.ids).encode())
            continue
        digest.update(b"rows" + repr((segment.embeds.dtype.str, segment.span)).encode())
        digest.update(segment.embeds.tobytes())
        if segment.positions is not None:
            digest.update(segment.positions.tobytes())
        yield digest.digest(), n_rows, i
