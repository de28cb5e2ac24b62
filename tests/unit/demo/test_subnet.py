"""A subnet's run, with processes that only pretend."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from neural_condense_core.demo import subnet as module
from neural_condense_core.demo.narration import Narrator
from neural_condense_core.demo.nodes import SCORING
from neural_condense_core.demo.plan import SubnetPlan, parse_miners
from neural_condense_core.demo.subnet import LocalSubnet
from neural_condense_core.demo.world import VALIDATOR


class Clock:
    """A clock that only sleeping moves."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def process(has_ended=False):
    return SimpleNamespace(has_ended=lambda: has_ended, log_tail=lambda: "last words")


@pytest.fixture
def subnet(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "time", Clock())
    console = Console(file=io.StringIO(), width=200)
    plan = SubnetPlan(parse_miners(["research=a", "research=b"]))
    with LocalSubnet(plan, tmp_path, tmp_path, {}, Narrator(console, {})) as found:
        names = (SCORING, VALIDATOR, "research-a", "research-b")
        found.running = {name: process() for name in names}
        yield found


def test_it_waits_until_it_is_done(subnet):
    answers = iter([False, False, True])
    assert subnet._until("x", lambda: next(answers), 10)
    assert subnet.report.failures == {}


def test_it_gives_up_at_the_deadline(subnet):
    assert not subnet._until("rounds", lambda: False, 10)
    assert subnet.report.failures == {"rounds": "not there after 10 s"}


def test_a_miner_that_ends_is_told_and_the_others_go_on(subnet):
    subnet.running["research-a"] = process(has_ended=True)
    answers = iter([False, False, True])
    assert subnet._until("x", lambda: next(answers), 10)
    assert list(subnet.report.failures) == ["research-a"]
    assert "last words" in subnet.report.failures["research-a"]


@pytest.mark.parametrize("name", [SCORING, VALIDATOR])
def test_without_a_validator_or_a_judge_nothing_is_waited_for(subnet, name):
    subnet.running[name] = process(has_ended=True)
    assert not subnet._until("x", lambda: False, 10)
    assert list(subnet.report.failures) == [name]


def test_a_validator_that_has_not_begun_has_scored_nobody(subnet):
    subnet.hotkeys = {VALIDATOR: "v", "research-a": "a", "research-b": "b"}
    assert subnet._score_counts() == {}
    assert not subnet._are_confirmed(0.0)
    assert subnet.condenser_of("b") == "b"
    assert subnet.condenser_of("stranger") == ""
