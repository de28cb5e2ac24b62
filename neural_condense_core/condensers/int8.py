"""Products of 8-bit integers on a CPU: weights once, activations row by row.

Where it sits: below ``packed_encoder.py``. oneDNN, inside torch, does the products.

Design decisions

* A row of activations is divided by its own largest magnitude: tokens differ by orders of
  magnitude, and one scale for all would leave most of them with a few bits.
* Rows are unsigned with 128 standing for zero. oneDNN's kernels for signed rows are the reference
  ones, three orders of magnitude slower.
* Scales come back beside the numbers: whoever quantizes next divides them out again, so that half
  of them are never multiplied in.

References
----------
A scale a token and a scale an output channel: LLM.int8(), arXiv:2208.07339 sec. 2.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = 127
ZERO = 128
_TINY = 1e-30
"""Largest magnitude of a row that is all zero."""


def is_fast() -> bool:
    """Return whether this CPU multiplies 8-bit integers faster than it does floats."""
    return bool(torch.cpu._is_vnni_supported())  # it asks for the 512-bit kind


class Rows(NamedTuple):
    """Activations as integers.

    Parameters
    ----------
    numbers : (n, width) uint8, ``ZERO`` standing for 0
    scale : (n, 1) float32, what one level is worth
    """

    numbers: Tensor
    scale: Tensor


def quantize_rows(values: Tensor) -> Rows:
    """Round each row to 255 levels; ``values`` (n, width) float32 is overwritten."""
    # two reductions are twice as fast as one over magnitudes, which first writes them out
    top = torch.maximum(values.amax(1, keepdim=True), -values.amin(1, keepdim=True))
    scale = top.clamp_(min=_TINY).div_(LEVELS)
    levels = values.mul_(scale.reciprocal()).round_().to(torch.int8)
    # int8 to uint8 by its sign bit: torch converts floats to uint8 one by one
    return Rows(levels.view(torch.uint8).bitwise_xor_(ZERO), scale)


class Int8Linear:
    """A linear layer without bias.

    Parameters
    ----------
    weight : (n_out, n_in) floating point
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach().float()
        self.n_out = len(weight)
        self._scale = weight.abs().amax(1).clamp(min=_TINY) / LEVELS
        levels = (weight / self._scale[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self._zero = torch.zeros(self.n_out, dtype=torch.long)

    def __call__(self, rows: Rows) -> Tensor:
        """Return (n, n_out) float32, yet to be multiplied by the rows' scale."""
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows.numbers, 1.0, ZERO, self._packed, self._scale, self._zero,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product
