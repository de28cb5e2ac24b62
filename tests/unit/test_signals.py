"""Signals as one exception at a good moment."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from neural_condense_core.signals import Interrupted, StopSignals, held_signals


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

    def hold():
        with held_signals():
            send(signal.SIGTERM)
            reached.append("inside")
        reached.append("behind")

    with StopSignals(), pytest.raises(Interrupted) as caught:
        hold()
    assert reached == ["inside"]
    assert caught.value.signum == signal.SIGTERM


def test_holds_may_be_nested():
    reached = []

    def hold():
        with held_signals():
            with held_signals():
                send(signal.SIGINT)
            reached.append("between")
        reached.append("behind")

    with StopSignals(), pytest.raises(Interrupted):
        hold()
    assert reached == ["between"]


def test_signals_are_held_while_other_threads_run():
    stop = threading.Event()
    idle = threading.Thread(target=stop.wait)
    idle.start()
    inside = []

    def hold():
        with held_signals():
            send(signal.SIGINT)
            inside.append(1)

    try:
        with pytest.raises(KeyboardInterrupt):
            hold()
    finally:
        stop.set()
        idle.join()
    assert inside


def test_a_held_signal_comes_after_an_error_too():
    def hold():
        with held_signals():
            send(signal.SIGINT)
            raise OSError

    with StopSignals(), pytest.raises(Interrupted):
        hold()


def test_holding_in_another_thread_changes_no_handler():
    seen = []

    def hold():
        with held_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    other = threading.Thread(target=hold)
    other.start()
    other.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_handlers_are_given_back():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
