"""Signals as one exception at a good moment."""

from __future__ import annotations

import os
import signal

import pytest

from neural_condense_core.demo.signals import Interrupted, StopSignals


def send(signum):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_raises_and_later_ones_do_not(signum, code):
    with StopSignals():
        with pytest.raises(Interrupted) as caught:
            send(signum)
        assert caught.value.exit_code == code
        send(signum)
        send(signal.SIGINT)


def test_a_held_signal_comes_when_the_block_ends():
    reached = []

    def hold(signals):
        with signals.held():
            send(signal.SIGTERM)
            reached.append("inside")
        reached.append("behind")

    with StopSignals() as signals, pytest.raises(Interrupted) as caught:
        hold(signals)
    assert reached == ["inside"]
    assert caught.value.signum == signal.SIGTERM


def test_holds_may_be_nested():
    reached = []

    def hold(signals):
        with signals.held():
            with signals.held():
                send(signal.SIGINT)
            reached.append("between")
        reached.append("behind")

    with StopSignals() as signals, pytest.raises(Interrupted):
        hold(signals)
    assert reached == ["between"]


def test_handlers_are_given_back():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
