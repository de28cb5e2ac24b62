"""How many operations some work of torch takes, counted while it runs.

Where it sits: below ``costs.py`` and below training, which both say what a machine is asked for.

Design decisions

* Two operations for each multiplication with addition, of all matrix products; attention as the
  full square, forward and backward, on every device.
* Attention has formulas of its own here: several releases of torch refuse to count a query with
  more heads than its keys have, and none counts the fused kernel of CPUs. So has the product of
  8-bit numbers that packed encoders run on: a multiplication is one, of whatever width.
* Counting never ends the work. A product that cannot be counted leaves the count unknown, since the
  work may be a step that is half done and must not be done twice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


def count_operations(work: Callable[[], T]) -> tuple[T, int | None]:
    """Do some work of torch; return its result and its operations.

    Operations are None where torch has no formula that fits a product of the work.
    """
    with _Counter() as counter:
        done = work()
    return done, int(counter.get_total_flops()) if counter.is_complete else None


def _forward(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Return the operations of scores and of their product with the values."""
    batch, heads, n_queries, width = query
    return 2 * batch * heads * n_queries * key[-2] * (width + value[-1])


def _backward(
    _gradient: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Return those of the scores again, and of four gradients: scores, value, query and key."""
    batch, heads, n_queries, width = query
    return 2 * batch * heads * n_queries * key[-2] * (3 * width + 2 * value[-1])


_KERNELS = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
_ATTENTION: dict[Any, Any] = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}{suffix}"): formula
    for kernel in _KERNELS
    for suffix, formula in (("", _forward), ("_backward", _backward))
}


def _int8_product(rows: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(rows) * out_shape[-1]


_INT8 = getattr(torch.ops.onednn, "qlinear_pointwise", None)  # not in every build of torch
_FORMULAS = _ATTENTION if _INT8 is None else {**_ATTENTION, _INT8: _int8_product}


class _Counter(FlopCounterMode):
    """Counts, and says whether it could count everything."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_FORMULAS)
        self.is_complete = True

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            if self.is_complete:
                _LOG.warning("the operations of %s cannot be counted: %s", func_packet, error)
            self.is_complete = False
            return out
