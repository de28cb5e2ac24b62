"""An engine without a model for the gateway's reader: says the prompt back, obeys magic words.

The reader process imports this module by name (``gateway_engine:open_toy``), so its folder has to
be on the path.
"""

from __future__ import annotations

import os
import time

import numpy as np

from neural_condense_core.errors import BackendError, TargetModelError, UnsupportedError
from neural_condense_core.llm.base import GREEDY, Likelihood, Piece, TokenIds

HIDDEN = 64
WINDOW = 4_000


class ToyPrefix(tuple):
    """A prompt that is read already."""

    __slots__ = ()

    @property
    def n_tokens(self):
        return sum(map(len, self))


class ToyTarget:
    """One token a byte; a condensed token reads as ``#``."""

    name = "toy"
    hidden_size = HIDDEN
    max_positions = WINDOW

    def tokenize(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")

    def render_chat(self, messages):
        said = "".join(f"<{each['role']}>{each['content']}" for each in messages)
        return f"{said}<assistant>"

    def prefill(self, prompt):
        if "BLIND" in self.said(prompt):
            raise UnsupportedError("this engine cannot")
        return ToyPrefix(prompt)

    def loglikelihood(self, prompts, targets, *, prefix=None):
        has_tokens = "#" in self.said(prefix or ())
        nats = -0.25 if has_tokens else -1.0
        return [
            Likelihood(np.full(len(target), nats, np.float32), np.ones(len(target), bool))
            for target in targets
        ]

    def generate(self, prompts, max_new_tokens, *, prefix=None):
        return ["".join(piece.text for piece in self.stream(each, 100)) for each in prompts]

    def stream(self, prompt, max_new_tokens, *, sampling=GREEDY, prefix=None):
        said = self.said((*(prefix or ()), *prompt))
        if "RAISE" in said:
            raise ValueError(f"cannot read {said!r}")
        if "CRASH" in said:
            os._exit(3)
        if "HANG" in said:
            time.sleep(3600)
        pause_s = 0.05 if "SLOW" in said else 0.0
        letters = said[:max_new_tokens]
        for index, letter in enumerate(letters):
            time.sleep(pause_s)
            is_last = index == len(letters) - 1
            finish = "length" if len(letters) < len(said) else "stop"
            yield Piece(letter, 1, finish if is_last else None)

    def said(self, prompt):
        return "".join(
            self.decode(each.ids) if isinstance(each, TokenIds) else "#" * len(each)
            for each in prompt
        )


def open_toy(spec):
    if spec.target == "missing":
        raise TargetModelError("there is no such model")
    if spec.target.startswith("/") and not os.path.exists(spec.target):
        raise BackendError("the engine's server cannot be reached")
    if spec.target == "dying":
        os._exit(4)
    return ToyTarget()
