"""Token by token: what a transformers model says next behind a prompt, each when it is asked for.

``HFTarget.stream`` reads from here; ``HFTarget.generate`` leaves the loop to transformers, which
answers a batch at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from neural_condense_core.llm.base import Sampling
from neural_condense_core.llm.decoding import pick
from neural_condense_core.llm.prefix import HFPrefix, expand_cache
from neural_condense_core.llm.rows import Row


def next_tokens(model: Any, row: Row, prefix: HFPrefix | None, sampling: Sampling) -> Iterator[int]:
    """Yield what the model says behind a prompt, for as long as it is asked.

    Parameters
    ----------
    model : a transformers ``...ForCausalLM``
    row : the prompt
    prefix : what stands before it
    sampling : how to draw
    """
    generator = np.random.default_rng(sampling.seed)
    # a vocabulary times a long prompt is memory for nothing
    only_last = {"logits_to_keep": 1} if _can_keep_one(model) else {}
    cache = expand_cache(prefix, 1)
    n_seen = (prefix.n_tokens if prefix else 0) + len(row)
    position = row.next_position
    step: dict[str, Any] = {"inputs_embeds": row.embeds[None], "position_ids": row.positions[None]}
    while True:
        with torch.inference_mode():  # not around the yield: the caller's mode is the caller's
            mask = torch.ones(1, n_seen, dtype=torch.long, device=row.embeds.device)
            out = model(
                **step, attention_mask=mask, past_key_values=cache, use_cache=True, **only_last
            )
            logits = out.logits[0, -1].float().cpu().numpy()
        cache = out.past_key_values
        token = pick(logits, sampling, generator)
        yield token
        step = {
            "input_ids": torch.tensor([[token]], device=row.embeds.device),
            "position_ids": torch.tensor([[position]], device=row.embeds.device),
        }
        position += 1
        n_seen += 1


def _can_keep_one(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def end_token_ids(model: Any) -> frozenset[int]:
    """Return the tokens that end a turn, as the model's own generation settings name them."""
    found = model.generation_config.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)
