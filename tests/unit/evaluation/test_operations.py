"""Counting: attention with fewer keys than queries, and work that cannot be counted."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neural_condense_core.condensers.int8 import Int8Linear, is_fast, quantize_rows
from neural_condense_core.evaluation import operations
from neural_condense_core.evaluation.operations import count_operations

BATCH, HEADS, KEY_HEADS, N, WIDTH = 2, 9, 3, 16, 8
PRODUCT = 2 * BATCH * HEADS * N * N * WIDTH


def test_attention_counts_forward_and_backward_on_a_cpu() -> None:
    query, key, value = (torch.randn(BATCH, HEADS, N, WIDTH, requires_grad=True) for _ in range(3))

    def work() -> None:
        torch.nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()  # type: ignore[no-untyped-call]

    assert count_operations(work) == (None, (2 + 5) * PRODUCT)


@pytest.mark.parametrize("kernel", ["flash_attention", "efficient_attention", "cudnn_attention"])
def test_kernels_of_gpus_count_by_the_heads_of_the_query(kernel: str) -> None:
    query, key = (BATCH, HEADS, N, WIDTH), (BATCH, KEY_HEADS, N, WIDTH)
    forward = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")
    backward = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_backward")
    assert operations._ATTENTION[forward](query, key, key, None) == 2 * PRODUCT
    assert operations._ATTENTION[backward](query, query, key, key, None) == 5 * PRODUCT


@pytest.mark.skipif(not is_fast(), reason="this processor has no fast products of 8-bit numbers")
def test_a_product_of_8_bit_numbers_counts_as_any_other() -> None:
    layer, rows = Int8Linear(torch.randn(12, 64)), quantize_rows(torch.randn(5, 64))
    product, operations_of_it = count_operations(lambda: layer(rows))
    assert product.shape == (5, 12)
    assert operations_of_it == 2 * 5 * 64 * 12


def test_work_that_cannot_be_counted_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("shapes")

    monkeypatch.setattr(FlopCounterMode, "_count_flops", refuse)
    runs: list[int] = []

    def work() -> str:
        weight = torch.ones(2, 2, requires_grad=True)
        (weight @ weight).sum().backward()  # type: ignore[no-untyped-call]
        runs.append(1)
        return "done"

    assert count_operations(work) == ("done", None)
    assert runs == [1]
