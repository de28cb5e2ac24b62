"""Products of 8-bit integers: near to exact ones, row by row."""

from __future__ import annotations

import pytest
import torch

from neural_condense_core.condensers.int8 import ZERO, Int8Linear, is_fast, quantize_rows


def test_a_row_is_rounded_by_its_own_scale() -> None:
    values = torch.tensor([[1.0, -2.0, 0.5], [100.0, 0.0, -50.0], [0.0, 0.0, 0.0]])
    rows = quantize_rows(values.clone())
    assert rows.numbers.dtype == torch.uint8
    back = (rows.numbers.float() - ZERO) * rows.scale
    assert ((back - values).abs() <= rows.scale / 2 + 1e-6).all()
    assert rows.numbers[2].tolist() == [ZERO] * 3


@pytest.mark.skipif(not is_fast(), reason="the CPU has no products of 8-bit integers")
def test_a_product_is_near_the_exact_one_whatever_the_size_of_a_row() -> None:
    torch.manual_seed(0)
    values = torch.randn(40, 96) * torch.logspace(-4, 4, 40)[:, None]
    weight = torch.randn(64, 96)
    rows = quantize_rows(values.clone())
    found = Int8Linear(weight)(rows) * rows.scale
    expected = values @ weight.T
    assert torch.cosine_similarity(found, expected).min() > 0.999
    assert ((found - expected).norm(dim=1) < 0.03 * expected.norm(dim=1)).all()
