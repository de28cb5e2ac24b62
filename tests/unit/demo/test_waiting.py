"""Waiting for backends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from neural_condense_core.demo import waiting
from neural_condense_core.demo.waiting import wait_until_ready
from neural_condense_core.errors import BackendError
from neural_condense_core.wire.messages import NotReady, Ready


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(waiting, "time", found)
    return found


def child(name, ended=False):
    return SimpleNamespace(
        backend=SimpleNamespace(name=name), has_ended=lambda: ended, log_tail=lambda: "last words"
    )


def script(**answers):
    """Return a probe that gives each backend's answers in turn, the last one for ever."""
    left = {name: list(each) for name, each in answers.items()}

    def probe(running):
        queue = left[running.backend.name]
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return probe


LOADING = NotReady(state="loading", stage="weights", done=0.5)
READY = Ready(workers=1)
DOWN = BackendError("nobody listens")


def test_each_is_ready_in_its_own_time():
    shown = []
    probe = script(a=[DOWN, LOADING, READY], b=[READY])
    found = wait_until_ready([child("a"), child("b")], probe, 60, shown.append)
    assert found.failures == {}
    assert found.ready_s == {"b": 0.0, "a": pytest.approx(2 * waiting.POLL_S)}
    assert shown == ["a: starting; b: ready (0 s)", "a: weights 50% (0 s)"]


@pytest.mark.parametrize(
    ("running", "answer", "why"),
    [
        (child("a", ended=True), DOWN, "last words"),
        (child("a"), NotReady(state="failed", reason="no weights"), "no weights"),
        (child("a"), LOADING, "not ready after 5 s"),
        (child("a"), DOWN, "not ready after 5 s"),
    ],
)
def test_a_failure_is_told_and_the_others_are_waited_for(running, answer, why):
    probe = script(a=[answer], b=[DOWN, DOWN, READY])
    found = wait_until_ready([running, child("b")], probe, 5, lambda line: None)
    assert why in found.failures["a"]
    assert list(found.ready_s) == ["b"]
