"""Noise and rounding that condensed tokens must survive, in training.

The same disturbances as ``evaluation.perturbation``, on tensors that carry gradients: rounding
passes them straight through.
"""

from __future__ import annotations

import torch
from torch import Tensor

INT8_MAX = 127


def round_to_int8(embeds: Tensor) -> Tensor:
    """Return (..., hidden) rounded to 8 bits by each row's largest value; gradients pass through.

    References
    ----------
    Straight-through estimator, arXiv:1308.3432 sec. 2.4.
    """
    with torch.no_grad():
        step = embeds.abs().amax(-1, keepdim=True) / INT8_MAX
        step = torch.where(step == 0, torch.ones_like(step), step)
        error = (embeds / step).round() * step - embeds
    return embeds + error


def add_noise(embeds: Tensor, share: float, seed: int) -> Tensor:
    """Add Gaussian noise of ``share`` times the root mean square of each (n, hidden) matrix."""
    generator = torch.Generator(embeds.device).manual_seed(seed % (1 << 63))
    noise = torch.randn(embeds.shape, generator=generator, device=embeds.device)
    with torch.no_grad():
        deviation = share * embeds.square().mean((-2, -1), keepdim=True).sqrt()
    return embeds + deviation * noise


def disturb(embeds: Tensor, noise: float, seed: int) -> Tensor:
    """Return condensed tokens as a lossy wire would deliver them."""
    return round_to_int8(add_noise(embeds, noise, seed))
