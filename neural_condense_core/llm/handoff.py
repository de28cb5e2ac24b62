"""Condensed tokens in the form that each engine takes; pure functions, one an engine.

For people who run an engine themselves: what comes out goes into the engine's own call, as
docs/engines.md shows. ``engines.py`` opens the same engines as target models.

Design decisions

* No engine is imported here, and torch only by ``to_hf``.
* Every function returns a new value; the condensed tokens stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from neural_condense_core.llm.vllm_payload import torch_base64
from neural_condense_core.tokens import CondensedTokens, FloatArray

if TYPE_CHECKING:
    import torch


def to_hf(
    tokens: CondensedTokens, *, dtype: torch.dtype | None = None, device: str = "cpu"
) -> torch.Tensor:
    """Return what ``inputs_embeds`` of transformers takes.

    Parameters
    ----------
    tokens : condensed tokens
    dtype : the model's; None keeps that of the tokens
    device : where the model is

    Returns
    -------
    (1, n_condensed, hidden_size); join it with embedded text along dimension 1
    """
    import torch

    found = torch.from_numpy(np.array(tokens.embeds)).to(device=device, dtype=dtype)
    return found[None]


def to_llama_cpp(tokens: CondensedTokens) -> npt.NDArray[np.float32]:
    """Return what ``llama_batch.embd`` of llama.cpp takes.

    Returns
    -------
    (n_condensed, hidden_size) float32, contiguous: copy its ``nbytes`` from its ``ctypes.data``
    """
    return np.array(tokens.embeds, np.float32, order="C")


def to_vllm_chat_part(tokens: CondensedTokens) -> dict[str, str]:
    """Return a content part of a chat message, to stand between text parts.

    The server renders the chat itself; it is started with ``--enable-prompt-embeds``.
    """
    return {"type": "prompt_embeds", "data": torch_base64(tokens.embeds)}


def to_vllm_completion(
    tokens: CondensedTokens,
    *,
    before: FloatArray | None = None,
    after: FloatArray | None = None,
) -> dict[str, str]:
    """Return the field of a ``/v1/completions`` body that stands in place of ``prompt``.

    Parameters
    ----------
    tokens : condensed tokens
    before, after : (n, hidden_size) embedded text around them; vLLM takes one matrix as the whole
        prompt and would answer a ``prompt`` beside it separately

    Returns
    -------
    ``{"prompt_embeds": base64}``; leave ``prompt`` out of the body
    """
    parts = [part for part in (before, tokens.embeds, after) if part is not None]
    joined = np.concatenate([np.asarray(part, np.float32) for part in parts])
    return {"prompt_embeds": torch_base64(joined if len(parts) > 1 else tokens.embeds)}


def to_sglang(
    tokens: CondensedTokens,
    *,
    before: FloatArray | None = None,
    after: FloatArray | None = None,
) -> dict[str, Any]:
    """Return the field of a ``/generate`` body that stands in place of ``text``.

    Parameters
    ----------
    tokens : condensed tokens
    before, after : (n, hidden_size) embedded text around them

    Returns
    -------
    ``{"input_embeds": [[...], ...]}``, plain floats; the server runs with ``--disable-radix-cache``
    """
    parts = [part for part in (before, tokens.embeds, after) if part is not None]
    joined = np.concatenate([np.asarray(part, np.float32) for part in parts])
    return {"input_embeds": joined.tolist()}
