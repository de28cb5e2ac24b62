"""``Readiness``: what ``GET /health/ready`` and whoever supervises is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True)
class Readiness:
    """Whether requests are taken.

    Parameters
    ----------
    state : where the backend is
    workers : how many workers can answer
    stage, done : of the worker that has come furthest in loading; done in [0, 1]
    elapsed_s : seconds in this state
    reason : why a worker was lost, given up or is waited for, or None
    total : how many workers there should be
    """

    state: State
    workers: int
    stage: str
    done: float
    elapsed_s: float
    reason: str | None
    total: int = 1
