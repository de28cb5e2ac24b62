from neural_condense_core.miner.clock import EARLIEST_S, clock_fault, clock_warning, kernel_state


def test_a_clock_that_cannot_be_right():
    assert clock_fault() is None
    assert clock_fault(EARLIEST_S) is None
    assert "1970-01-01" in clock_fault(0.0)
    assert "timedatectl" in clock_fault(EARLIEST_S - 1)


def test_what_the_kernel_says():
    assert clock_warning(lambda: 0) is None
    assert clock_warning(lambda: None) is None
    assert "timedatectl" in clock_warning(lambda: 5)
    assert kernel_state() is None or 0 <= kernel_state() <= 5
