"""From logits to pieces of an answer: drawing a token, whole characters, stop texts.

The engines that run in this process (transformers, llama.cpp) share it, so that they draw, cut and
count alike. Pure: no torch, no clock, no engine.

Design decisions

* Bytes of one character may come in several tokens; text is held back until its characters are
  whole.
* Text that may turn out to be the beginning of a stop text is held back too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from neural_condense_core.llm.base import Piece, Sampling

Decode = Callable[[Sequence[int]], str]

_BROKEN = "\ufffd"
"""What decoders write for bytes that are no character (yet)."""


def pick(
    logits: npt.NDArray[np.float32], sampling: Sampling, generator: np.random.Generator
) -> int:
    """Draw the next token.

    Parameters
    ----------
    logits : (vocab,), of which one may be minus infinity but not all
    sampling : how to draw
    generator : where chance comes from; not asked when greedy
    """
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    order = np.argsort(-weights, kind="stable")
    cumulated = np.cumsum(weights[order]) / weights.sum()
    # the token that passes top_p still belongs to it, so at least one is kept
    kept = int(np.searchsorted(cumulated, sampling.top_p)) + 1
    cumulated = cumulated[:kept] / cumulated[min(kept, len(cumulated)) - 1]
    drawn = int(np.searchsorted(cumulated, generator.random(), side="right"))
    return int(order[min(drawn, len(cumulated) - 1)])


class Detokenizer:
    """Tokens in, whole characters out.

    Parameters
    ----------
    decode : text of token ids
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._shown = 0  # ids[:shown] are out as text, ids[shown:] are not

    def push(self, token: int) -> str:
        """Add a token; return the text that is certain by now."""
        self._ids.append(token)
        return self._take(final=False)

    def flush(self) -> str:
        """Return what is left, broken or not."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        # A token's text may depend on the one before it (a space, half a character), so new text
        # is what the window has with the new tokens and did not have without them.
        known = self._decode(self._ids[: self._shown])
        text = self._decode(self._ids)
        if not final and (len(text) <= len(known) or text.endswith(_BROKEN)):
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text[len(known) :]


class StopTexts:
    """Text in, text out up to the first stop text.

    Parameters
    ----------
    stop : texts that end the answer
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; return what may be shown, and whether a stop text ended it."""
        self._held += text
        found = [at for at in map(self._held.find, self._stop) if at >= 0]
        if found:
            ready, self._held = self._held[: min(found)], ""
            return ready, True
        cut = len(self._held) - self._beginning()
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready, False

    def flush(self) -> str:
        """Return what was held back for a stop text that did not come."""
        ready, self._held = self._held, ""
        return ready

    def _beginning(self) -> int:
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        for n in range(longest, 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stop):
                return n
        return 0


def answer_pieces(
    tokens: Iterator[int],
    decode: Decode,
    is_end: Callable[[int], bool],
    max_new_tokens: int,
    stop: Sequence[str],
) -> Iterator[Piece]:
    """Turn the tokens that a model makes into the pieces of an answer.

    Parameters
    ----------
    tokens : one after the other, each computed when it is asked for; never ends by itself
    decode : text of token ids, special tokens left out
    is_end : whether a token ends the model's turn
    max_new_tokens : how many to ask for at most
    stop : texts that end the answer

    Returns
    -------
    pieces; the last has a ``finish``
    """
    letters, gate = Detokenizer(decode), StopTexts(stop)
    n_since = 0
    for n_made, token in enumerate(tokens, 1):
        n_since += 1
        ended = is_end(token)
        text = letters.flush() if ended else letters.push(token)
        if n_made == max_new_tokens:
            text += letters.flush()
        ready, stopped = gate.push(text)
        if ended or stopped or n_made == max_new_tokens:
            rest = "" if stopped else gate.flush()
            yield Piece(ready + rest, n_since, "stop" if ended or stopped else "length")
            return
        if ready:
            yield Piece(ready, n_since)
            n_since = 0
