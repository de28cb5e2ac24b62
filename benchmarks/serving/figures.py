"""What a measurement is told and what it gives: numbers of each round, and their figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benchmarks.serving.processes import Peers

Round = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Parameters
    ----------
    peers : where the peers are
    rounds : how often everything is measured, all servers in turn; a figure is the median
    seconds : length of a measurement under load
    """

    peers: Peers
    rounds: int = 5
    seconds: float = 3.0


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Parameters
    ----------
    name : what was measured
    goal : what is wanted
    measured : what was found, medians over the rounds
    beside : the peers in the same rounds
    is_met : whether the goal is reached; None = nothing to compare with
    rounds : the numbers of each round
    """

    name: str
    goal: str
    measured: str
    beside: str = ""
    is_met: bool | None = None
    rounds: list[Round] = field(default_factory=list)


def median(rounds: Iterable[Mapping[str, float]], key: str) -> float:
    """Return the median of one number over the rounds that have it, NaN where none has."""
    found = [each[key] for each in rounds if key in each]
    return statistics.median(found) if found else math.nan


def median_ratio(rounds: Iterable[Mapping[str, float]], key: str, other: str) -> float:
    """Return the median of the ratios within each round: what a busy machine does to both goes."""
    return statistics.median(each[key] / each[other] for each in rounds)


def both(*goals: bool | None) -> bool | None:
    """Return whether all goals that could be looked at are met."""
    known = [goal for goal in goals if goal is not None]
    return all(known) if known else None
