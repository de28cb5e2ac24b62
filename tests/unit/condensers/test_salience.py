"""The head that scores tokens."""

from __future__ import annotations

import torch

from neural_condense_core.condensers.salience import GUESSES, INFORMATION_WEIGHT, Salience


def trained_head() -> Salience:
    torch.manual_seed(0)
    head = Salience(16)
    with torch.no_grad():
        head.out.weight.normal_()
    return head.eval()


def test_untrained_only_information_ranks() -> None:
    information = torch.rand(1, 12) * 9
    scores = Salience(16)(torch.randn(1, 12, 16), torch.tensor([12]), information)
    torch.testing.assert_close(
        scores - scores.min(), INFORMATION_WEIGHT * (information - information.min())
    )


def test_padding_changes_no_score() -> None:
    head = trained_head()
    states = torch.randn(2, 20, 16)
    alone = head.guess(states[:1, :9], torch.tensor([9]))
    padded = head.guess(states, torch.tensor([9, 20]))
    torch.testing.assert_close(alone[0], padded[0, :9])


def test_neighbours_count_and_far_tokens_do_not() -> None:
    head = trained_head()
    states = torch.randn(1, 40, 16)
    changed = states.clone()
    changed[0, 20] += 1.0
    n = torch.tensor([40])
    moved = (head.guess(states, n) - head.guess(changed, n)).abs().amax(-1)[0] > 1e-6
    assert moved[16:25].any()
    assert not moved[:16].any()
    assert not moved[25:].any()
    assert head.guess(states, n).shape == (1, 40, len(GUESSES))
