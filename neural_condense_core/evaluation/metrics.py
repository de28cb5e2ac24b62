"""Rows of an evaluation: what one method achieved on one task, over all items or a part of them.

Design decisions

* A row is arithmetic on an ``Outcome``; nothing is measured here.
* There is one row over all items, then one for each source, length, depth and kind, where there
  are several: ``by`` names what a row is restricted by and ``source`` holds its value.
* Losses, R and C are over the items that the full text helps; choices are over all items, since
  what the target model prefers needs no such help to be counted.
* A row carries what it was computed from (``Evidence``), so that two rows can be compared pair by
  pair (``comparisons.py``); that is not part of the JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

from neural_condense_core.evaluation.probes import LABELS, Label, Probe, TaskName
from neural_condense_core.evaluation.reading import Ends
from neural_condense_core.evaluation.written import Figures, Reply, figures
from neural_condense_core.scoring.judge import Mask, Score
from neural_condense_core.scoring.recovery import Floats, bootstrap, ratio_of_sums

By = Literal["all", "source"] | Label

ALL_SOURCES = "all"
FLOAT16_BYTES = 2
MIN_CHOICE_CHANGE = 0.05
"""Share of right choices that the full text must add at least for a share of it to have a meaning;
the same that ``bootstrap`` asks of nats a token."""


@dataclass(frozen=True)
class Variant:
    """What was put in place of the context.

    Parameters
    ----------
    condenser : name, or ``"none"`` and ``"full"``
    ratio : compression ratio that was asked for; None for ``none`` and ``full``
    positions : ``"plain"`` or ``"explicit"``
    perturbation : of ``PERTURBATIONS``
    query_aware : whether the method knew what would be asked
    n_condensed : (n_items,) condensed tokens of each item's context, or empty
    hidden_size : width of a condensed token
    encode_ms : (n_items,) milliseconds a context, NaN where it was not timed, or empty
    """

    condenser: str
    ratio: float | None = None
    positions: str = "plain"
    perturbation: str = "none"
    query_aware: bool = False
    n_condensed: tuple[int, ...] = ()
    hidden_size: int = 0
    encode_ms: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was measured of a variant on the items of a task.

    Parameters
    ----------
    score : losses
    hits : (n_items,) 1 where the right choice was the likeliest, NaN without choices
    ends : of the target model that read
    kept : (n_items,) which items losses, R and C are over
    replies : what the model wrote by itself, by item
    """

    score: Score
    hits: Floats
    ends: Ends
    kept: Mask
    replies: Mapping[int, Reply]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What C of a row was computed from, item by item, of the items that count.

    Parameters
    ----------
    gains : (n,) nats by which the own condensed tokens are better than the other document's
    spreads : (n,) the same of the full texts
    n_target : (n,) target tokens
    documents : (n,) names
    """

    gains: Floats
    spreads: Floats
    n_target: Floats
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Margin:
    """A row beside the best baseline at its length.

    Parameters
    ----------
    condenser, content_recovery : the baseline and its C
    margin : the row's C less the baseline's
    margin_ci : 95 % interval of that, paired by document
    """

    condenser: str
    content_recovery: float
    margin: float | None
    margin_ci: tuple[float, float] | None


@dataclass(frozen=True)
class Choice:
    """How often the right one of several choices was the likeliest.

    Parameters
    ----------
    n, n_choices : items, and choices of each
    accuracy, accuracy_none, accuracy_full : shares of items, without a context and behind the text
    share : (accuracy - none) / (full - none); None where the full text hardly helps
    ci : 95 % interval of ``share``, by document
    """

    n: int
    n_choices: int
    accuracy: float
    accuracy_none: float
    accuracy_full: float
    share: float | None
    ci: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """One line of the result; losses in nats per target token, None where a field has no meaning.

    Parameters
    ----------
    source : value of what the row is restricted by, ``"all"`` without
    n, n_documents : items that count, and how many documents they are from
    dropped : items left out because the full text hardly helps
    n_condensed : mean condensed tokens a context
    ci : 95 % interval of ``content_recovery``
    accuracy : share of target tokens that were the most likely one, teacher-forced
    greedy_accuracy : share of tokens at their place in what the model wrote by itself
    encode_ms : median milliseconds a context
    by : what the row is restricted by
    n_context : mean tokens of a context
    bytes : mean bytes of a context's condensed tokens as float16
    choice, written : for tasks that have choices, for what the model wrote by itself
    best_baseline : the best training-free method at exactly the same length
    fall : C undisturbed less C, of a row with a perturbation
    fall_ci : 95 % interval of that, paired by document
    c_by_seed : C of each of several seeds
    budgets : condensed tokens of each item that counts; not part of the JSON
    evidence : not part of the JSON
    """

    condenser: str
    ratio: float | None
    task: str
    source: str
    positions: str
    perturbation: str
    query_aware: bool
    n: int
    n_documents: int
    dropped: int
    n_condensed: float | None
    recovery: float | None
    content_recovery: float | None
    ci: tuple[float, float] | None
    loss: float | None
    loss_none: float | None
    loss_full: float | None
    loss_other: float | None
    loss_full_other: float | None
    accuracy: float | None
    greedy_accuracy: float | None
    encode_ms: float | None
    by: By = "all"
    n_context: float | None = None
    bytes: float | None = None
    choice: Choice | None = None
    written: Figures | None = None
    best_baseline: Margin | None = None
    fall: float | None = None
    fall_ci: tuple[float, float] | None = None
    c_by_seed: tuple[float | None, ...] | None = None
    budgets: tuple[int, ...] = field(default=(), repr=False)
    evidence: Evidence | None = field(default=None, repr=False, compare=False)

    def as_json(self) -> dict[str, object]:
        """Return the row as JSON-ready values, save that numbers may not be finite."""
        hidden = {"budgets", "evidence"}
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in hidden}


def _plain(value: object) -> object:
    if isinstance(value, Margin | Choice):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def rows_of(
    task: TaskName, probes: Sequence[Probe], outcome: Outcome, variant: Variant, seed: int
) -> list[Row]:
    """Return the row over all items, then one a source and a label's value.

    Parameters
    ----------
    task : what the items are of
    outcome : of the variant on these items
    seed : of the bootstrap
    """
    return [
        _row(task, probes, outcome, variant, seed, by, value, members)
        for by, value, members in _parts(probes)
    ]


def _parts(probes: Sequence[Probe]) -> Iterator[tuple[By, str, Mask]]:
    yield "all", ALL_SOURCES, np.ones(len(probes), bool)
    columns: list[tuple[By, list[str | None]]] = [("source", [probe.source for probe in probes])]
    columns += [(name, [probe.label(name) for probe in probes]) for name in LABELS]
    for by, values in columns:
        known = sorted({value for value in values if value is not None}, key=_by_number)
        for value in known if len(known) > 1 else ():
            yield by, value, np.array([other == value for other in values])


def _by_number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return 0.0, value


def _row(
    task: TaskName,
    probes: Sequence[Probe],
    outcome: Outcome,
    variant: Variant,
    seed: int,
    by: By,
    source: str,
    members: Mask,
) -> Row:
    score, ref = outcome.score, outcome.score.reference
    mask: Mask = members & outcome.kept
    counted = [int(i) for i in np.flatnonzero(mask)]
    documents = [probe.document for probe in probes]
    budgets = tuple(variant.n_condensed[i] for i in counted) if variant.n_condensed else ()
    n_condensed = _mean(budgets)
    replies = [reply for i, reply in outcome.replies.items() if mask[i]]
    return Row(
        condenser=variant.condenser,
        ratio=variant.ratio,
        task=task,
        source=source,
        positions=variant.positions,
        perturbation=variant.perturbation,
        query_aware=variant.query_aware,
        n=len(counted),
        n_documents=len({documents[i] for i in counted}),
        dropped=int(members.sum()) - len(counted),
        n_condensed=n_condensed,
        recovery=score.recovery_over(mask),
        content_recovery=score.content_recovery_over(mask),
        ci=score.interval_over(mask, documents, seed),
        loss=score.own.per_token(mask),
        loss_none=ref.none.per_token(mask),
        loss_full=ref.full.per_token(mask),
        loss_other=score.other.per_token(mask),
        loss_full_other=ref.full_other.per_token(mask),
        accuracy=score.own.accuracy(mask),
        greedy_accuracy=_in_place(replies),
        encode_ms=_median_known(variant.encode_ms, members),
        by=by,
        n_context=_mean([len(probes[i].context_ids) for i in counted]),
        bytes=None if n_condensed is None else n_condensed * variant.hidden_size * FLOAT16_BYTES,
        choice=_choice(probes, outcome, members, documents, seed),
        written=figures(replies) if replies else None,
        budgets=budgets,
        evidence=Evidence(
            (score.other.nats - score.own.nats)[mask],
            (ref.full_other.nats - ref.full.nats)[mask],
            ref.full.n_tokens[mask],
            tuple(documents[i] for i in counted),
        ),
    )


def _choice(
    probes: Sequence[Probe],
    outcome: Outcome,
    members: Mask,
    documents: Sequence[str],
    seed: int,
) -> Choice | None:
    mask: Mask = members & np.isfinite(outcome.hits)
    if not mask.any():
        return None
    own, none, full = (
        hits[mask] for hits in (outcome.hits, outcome.ends.none.hits, outcome.ends.full.hits)
    )
    counted = [int(i) for i in np.flatnonzero(mask)]
    ones = np.ones(len(counted))
    return Choice(
        n=len(counted),
        n_choices=1 + len(probes[counted[0]].distractors),
        accuracy=float(own.mean()),
        accuracy_none=float(none.mean()),
        accuracy_full=float(full.mean()),
        share=ratio_of_sums(own - none, full - none, least=MIN_CHOICE_CHANGE * len(counted)),
        ci=bootstrap(own - none, full - none, [documents[i] for i in counted], seed, n_target=ones),
    )


def _in_place(replies: Sequence[Reply]) -> float | None:
    return _mean([reply.in_place for reply in replies if not reply.golds])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _median_known(values: Sequence[float], mask: Mask) -> float | None:
    known = np.array(values, float)[mask] if values else np.array([])
    known = known[np.isfinite(known)]
    return float(np.median(known)) if known.size else None
