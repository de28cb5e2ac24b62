"""Noise and rounding: those of the evaluation, and gradients pass through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neural_condense_core.evaluation.perturbation import perturb
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.training.disturbance import add_noise, disturb, round_to_int8


@pytest.fixture
def embeds() -> torch.Tensor:
    return torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))


def test_rounding_is_the_evaluations(embeds: torch.Tensor) -> None:
    embeds[0, 1] = 0
    rounded = round_to_int8(embeds)
    for matrix, found in zip(embeds, rounded, strict=True):
        tokens = CondensedTokens(matrix.numpy(), "m", 24)
        expected = perturb(tokens, "int8", 0).embeds
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_noise_is_a_share_of_each_matrix(embeds: torch.Tensor) -> None:
    embeds = embeds.repeat(1, 200, 1) * torch.tensor([1.0, 10.0])[:, None, None]
    noise = add_noise(embeds, 0.02, 5) - embeds
    for part, matrix in zip(noise, embeds, strict=True):
        assert float(part.std() / matrix.square().mean().sqrt()) == pytest.approx(0.02, rel=0.05)
    assert torch.equal(add_noise(embeds, 0.02, 5), add_noise(embeds, 0.02, 5))
    assert not torch.equal(add_noise(embeds, 0.02, 5), add_noise(embeds, 0.02, 6))


def test_gradients_pass_through(embeds: torch.Tensor) -> None:
    embeds.requires_grad_()
    disturb(embeds, 0.02, 1).sum().backward()
    assert embeds.grad is not None
    assert torch.equal(embeds.grad, torch.ones_like(embeds))
