"""Operations are counted, not guessed."""

from __future__ import annotations

import pytest
import torch

from neural_condense_core.training import throughput
from neural_condense_core.training.throughput import Meter, measure_matrix_rate


def test_operations_forward_and_backward_are_counted_once() -> None:
    weight = torch.randn(8, 16, requires_grad=True)
    inputs = torch.randn(4, 8)
    runs = []

    def work() -> str:
        (inputs @ weight).sum().backward()
        runs.append(1)
        return "done"

    meter = Meter(matrix_rate=1000.0)
    assert not meter.is_known(("a",))
    assert meter.run(("a",), work) == meter.run(("a",), work) == "done"
    assert len(runs) == 2
    product = 2 * 4 * 8 * 16  # forward; the weight's gradient takes as many
    assert meter.note(("a",), 4, 2.0) == pytest.approx(2 * product / 2.0 / 1000.0)
    assert meter.tokens_per_s == 2.0
    assert meter.matrix_share == pytest.approx(2 * product / 2.0 / 1000.0)


def test_a_machine_has_a_rate() -> None:
    assert measure_matrix_rate("cpu", torch.float32) > 1e8


def test_nothing_noted_is_no_speed() -> None:
    assert (Meter(1.0).tokens_per_s, Meter(1.0).matrix_share) == (0.0, 0.0)


def test_a_step_that_cannot_be_counted_has_a_speed_and_no_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "count_operations", lambda work: (work(), None))
    meter = Meter(1000.0)
    assert meter.run(("a",), lambda: "done") == "done"
    assert meter.is_known(("a",))
    assert meter.note(("a",), 4, 2.0) is None
    assert (meter.tokens_per_s, meter.matrix_share) == (2.0, 0.0)
