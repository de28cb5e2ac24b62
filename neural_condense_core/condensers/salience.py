"""Which tokens of a context are worth keeping: a small head on an early layer's states.

Where it sits: ``pooled.py`` asks it for one score a token and keeps the runs of tokens with the
highest sum (``span_plan.py``). ``training/salience.py`` fits it.

Design decisions

* Three guesses a token, each a probability that can be counted in text that exists: it is part of
  an answer to what people ask about this context, it is a word of such a question, its word comes
  back in what follows the context. Their weighted sum plus a little of the token's unigram
  self-information is the score.
* The states are those of a layer below the adapters, so the head is fitted once, before training,
  and never sees its input move. Layer 4 of 30 guesses as well as layer 10 (docs/log.md).
* Untrained, all guesses are equal and self-information alone decides.

References
----------
Scoring tokens for pruning with a classifier: LLMLingua-2, arXiv:2403.12968 sec. 3. Differs: the
labels come from questions and continuations instead of a larger model's compressions, and runs of
tokens are kept, never single ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GUESSES = ("answer", "question", "recurrence")
"""What the head guesses of each token, in the order of its outputs."""

GUESS_WEIGHTS = (2.0, 1.0, 1.0)
INFORMATION_WEIGHT = 0.1
"""Score of a nat of unigram self-information."""

LAYER = 4
"""How many of the target's layers the states come from."""

WIDTH = 96
REACH = 9
"""Tokens that the head sees at once, the middle one being scored."""


class Salience(nn.Module):
    """Scores tokens.

    Parameters
    ----------
    hidden_size : of the states
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size)
        self.inner = nn.Linear(hidden_size, WIDTH)
        self.around = nn.Conv1d(WIDTH, WIDTH, REACH, padding=REACH // 2)
        self.out = nn.Linear(WIDTH, len(GUESSES))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def guess(self, states: Tensor, n_context: Tensor) -> Tensor:
        """Return the logits of the guesses.

        Parameters
        ----------
        states : (batch, n_padded, hidden) float32
        n_context : (batch,) how many tokens of each row are real

        Returns
        -------
        (batch, n_padded, len(GUESSES)); those of real tokens depend on real tokens alone
        """
        real = torch.arange(states.shape[1], device=states.device) < n_context[:, None]
        inner = nn.functional.gelu(self.inner(self.norm(states))) * real[..., None]
        inner = inner + nn.functional.gelu(self.around(inner.transpose(1, 2))).transpose(1, 2)
        guesses: Tensor = self.out(inner)
        return guesses

    def forward(self, states: Tensor, n_context: Tensor, information: Tensor) -> Tensor:
        """Return the score of each token.

        Parameters
        ----------
        states, n_context : as for ``guess``
        information : (batch, n_padded) unigram self-information, nats

        Returns
        -------
        (batch, n_padded) float32
        """
        with torch.autocast(states.device.type, enabled=False):  # ranks must not be rounded
            guesses = self.guess(states.float(), n_context).sigmoid()
            weights = torch.tensor(GUESS_WEIGHTS, device=states.device)
            return guesses @ weights + INFORMATION_WEIGHT * information
