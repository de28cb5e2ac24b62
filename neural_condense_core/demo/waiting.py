"""Wait until the backends are ready, and say meanwhile what they are doing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from neural_condense_core.demo.processes import Running
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.wire.messages import NotReady, Ready

POLL_S = 0.2

Probe = Callable[[Running], NotReady | Ready]
"""Asks a backend for its health; raises an error of ours while it cannot be reached."""
Show = Callable[[str], None]


@dataclass
class Waiting:
    """Who is ready since when, and who never will be.

    Parameters
    ----------
    ready_s : backend name -> seconds until it was ready
    failures : backend name -> why it failed
    """

    ready_s: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def knows(self, name: str) -> bool:
        """Return whether a backend's fate is known."""
        return name in self.ready_s or name in self.failures


def wait_until_ready(
    running: Sequence[Running], probe: Probe, timeout_s: float, show: Show
) -> Waiting:
    """Wait for each backend until it is ready, has failed, or the time is up.

    Parameters
    ----------
    running : started backends
    probe : how to ask one for its health
    timeout_s : seconds for all of them together
    show : takes one line of progress
    """
    found = Waiting()
    started = time.monotonic()
    while True:
        stages = []
        for each in running:
            if not found.knows(each.backend.name):
                stages.append(f"{each.backend.name}: {_look(each, probe, started, found)}")
        if all(found.knows(each.backend.name) for each in running):
            return found
        elapsed_s = time.monotonic() - started
        if elapsed_s > timeout_s:
            for each in running:
                if not found.knows(each.backend.name):
                    found.failures[each.backend.name] = (
                        f"not ready after {timeout_s:.0f} s; give it more with --ready_timeout"
                    )
            return found
        show(f"{'; '.join(stages)} ({elapsed_s:.0f} s)")
        time.sleep(POLL_S)


def _look(each: Running, probe: Probe, started: float, found: Waiting) -> str:
    """Ask one backend, enter what is settled, and return what it is doing."""
    name = each.backend.name
    if each.has_ended():
        found.failures[name] = f"ended before it was ready; its last words:\n{each.log_tail()}"
        return "ended"
    try:
        health = probe(each)
    except NeuralCondenseError:
        return "starting"
    if isinstance(health, Ready):
        found.ready_s[name] = time.monotonic() - started
        return "ready"
    if health.state == "failed":
        found.failures[name] = f"failed to load: {health.reason or 'no reason given'}"
        return "failed"
    share = "" if health.done is None else f" {health.done:.0%}"
    return f"{health.stage or health.state}{share}"
