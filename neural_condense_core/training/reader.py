"""The frozen target model as a differentiable reader of condensed tokens.

Design decisions

* What stands before the context in every prompt is computed once, keys and values, and shared.
* The vocabulary projection is computed for labelled tokens alone: with a vocabulary of 49,152 and
  30 small layers it would otherwise cost more than the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neural_condense_core.llm.base import Segment
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.llm.prefix import HFPrefix, expand_cache
from neural_condense_core.llm.prompt import continuation_prompt
from neural_condense_core.training.batches import IGNORED, Batch


class Reader:
    """Reads contexts in any form and predicts what a batch wants behind them.

    Parameters
    ----------
    target : the target model
    """

    def __init__(self, target: HFTarget) -> None:
        self._target = target
        head: Segment = continuation_prompt(target, None, ())[0]
        self._prefix: HFPrefix = target.prefill((head,))

    def logits(self, context: Tensor, batch: Batch, places: Tensor | None = None) -> Tensor:
        """Predict behind a context.

        Parameters
        ----------
        context : (batch, n, hidden), condensed tokens, the text's own embeddings, or n = 0
        batch : whose suffix to read
        places : (batch, n) int64, explicit position of each row within the context; the suffix then
            stands where it would behind the whole text. None = one after the other

        Returns
        -------
        (n_labels, vocab) float32, in the order of ``batch.labels`` where they count
        """
        target = self._target
        suffix = target.embed_ids(batch.suffix_ids)
        rows = torch.cat([context.to(target.dtype), suffix], 1)
        n_past, length = self._prefix.n_tokens, rows.shape[1]
        states = target.decoder(
            inputs_embeds=rows,
            attention_mask=torch.ones(
                len(rows), n_past + length, dtype=torch.long, device=rows.device
            ),
            position_ids=self._positions(context, batch, places),
            past_key_values=expand_cache(self._prefix, len(rows)),
            use_cache=True,
        ).last_hidden_state
        states = states[:, context.shape[1] :]
        return target.logits(states[batch.labels.to(states.device) != IGNORED])

    def full_logits(self, batch: Batch) -> Tensor:
        """Predict behind the full text, no gradient: what the teacher says."""
        with torch.no_grad():
            return self.logits(self._target.embed_ids(batch.context_ids), batch)

    def bare_logits(self, batch: Batch) -> Tensor:
        """Predict behind nothing, no gradient."""
        with torch.no_grad():
            return self.logits(self._target.embed_ids(batch.context_ids[:, :0]), batch)

    def _positions(self, context: Tensor, batch: Batch, places: Tensor | None) -> Tensor:
        device, start = context.device, self._prefix.next_position
        n_suffix = batch.suffix_ids.shape[1]
        if places is None:
            plain = start + torch.arange(context.shape[1] + n_suffix, device=device)
            return plain.expand(len(context), -1)
        behind = batch.context_ids.shape[1] + torch.arange(n_suffix, device=device)
        return start + torch.cat([places.to(device), behind.expand(len(context), -1)], 1)
