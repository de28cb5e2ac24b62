"""A matrix as vLLM's ``prompt_embeds`` wants it."""

from __future__ import annotations

import base64

from neural_condense_core.tokens import FloatArray
from neural_condense_core.wire.torch_bytes import write_torch


def torch_base64(matrix: FloatArray) -> str:
    """Return ``torch.save`` bytes of a (n, hidden_size) matrix in base64."""
    contiguous = matrix if matrix.flags.c_contiguous else matrix.copy()
    return base64.b64encode(write_torch(contiguous)).decode("ascii")
