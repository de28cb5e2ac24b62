"""Rows of an evaluation: what one method achieved on one task, over all sources or one.

Design decisions

* A row is arithmetic on a ``Score``; nothing is measured here but greedy copying.
* The best baseline of a row is the best at *exactly* its number of condensed tokens, document by
  document, and never a query-aware one: that knows what will be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.llm.base import Segment, TargetLLM
from neural_condense_core.scoring.judge import Item, Mask, Score, prompt_for
from neural_condense_core.scoring.recovery import Floats

ALL_SOURCES = "all"


@dataclass(frozen=True)
class Variant:
    """What was put in place of the context.

    Parameters
    ----------
    condenser : name, or ``"none"`` and ``"full"``
    ratio : compression ratio that was asked for; None for ``none`` and ``full``
    positions : ``"plain"`` or ``"explicit"``
    perturbation : ``"none"``, ``"noise"`` or ``"int8"``
    query_aware : whether the method knew what would be asked
    n_condensed : (n_items,) condensed tokens of each item's context, or empty
    encode_ms : median milliseconds a document
    """

    condenser: str
    ratio: float | None = None
    positions: str = "plain"
    perturbation: str = "none"
    query_aware: bool = False
    n_condensed: tuple[int, ...] = ()
    encode_ms: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the result; losses in nats per target token, None where a field has no meaning.

    Parameters
    ----------
    n, n_documents : items that count, and how many documents they are from
    dropped : items left out because the full text hardly helps
    n_condensed : mean condensed tokens a context
    ci : 95 % interval of ``content_recovery``
    accuracy : share of target tokens that were the most likely one, teacher-forced
    greedy_accuracy : share of tokens at their place in what the model wrote by itself
    budgets : condensed tokens of each item that counts; not part of the JSON
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
    budgets: tuple[int, ...] = field(default=(), repr=False)

    def as_json(self) -> dict[str, object]:
        """Return the row as JSON-ready values."""
        found: dict[str, object] = asdict(self)
        del found["budgets"]
        return found | {"ci": list(self.ci) if self.ci else None}


def rows_of(
    items: Sequence[Item], score: Score, variant: Variant, greedy: Floats | None, seed: int
) -> list[Row]:
    """Return the row over all sources, then one a source.

    Parameters
    ----------
    items : of one task
    score : of the variant on these items
    greedy : (n_items,) greedy accuracy, NaN where it was not measured; or None
    seed : of the bootstrap
    """
    sources = [item.source for item in items]
    rows = [_row(items, score, variant, greedy, seed, ALL_SOURCES)]
    if len(set(sources)) > 1:
        rows += [_row(items, score, variant, greedy, seed, name) for name in sorted(set(sources))]
    return rows


def _row(
    items: Sequence[Item],
    score: Score,
    variant: Variant,
    greedy: Floats | None,
    seed: int,
    source: str,
) -> Row:
    wanted = np.array([source in (ALL_SOURCES, item.source) for item in items])
    mask: Mask = wanted & score.reference.kept
    documents = [item.document for item in items]
    indices = [int(i) for i in np.flatnonzero(mask)]
    budgets = tuple(variant.n_condensed[i] for i in indices) if variant.n_condensed else ()
    ref = score.reference
    return Row(
        condenser=variant.condenser,
        ratio=variant.ratio,
        task=items[0].task,
        source=source,
        positions=variant.positions,
        perturbation=variant.perturbation,
        query_aware=variant.query_aware,
        n=len(indices),
        n_documents=len({documents[i] for i in indices}),
        dropped=int(wanted.sum()) - len(indices),
        n_condensed=sum(budgets) / len(budgets) if budgets else None,
        recovery=score.recovery_over(mask),
        content_recovery=score.content_recovery_over(mask),
        ci=score.interval_over(mask, documents, seed),
        loss=score.own.per_token(mask),
        loss_none=ref.none.per_token(mask),
        loss_full=ref.full.per_token(mask),
        loss_other=score.other.per_token(mask),
        loss_full_other=ref.full_other.per_token(mask),
        accuracy=score.own.accuracy(mask),
        greedy_accuracy=_mean_known(greedy, mask),
        encode_ms=variant.encode_ms,
        budgets=budgets,
    )


def _mean_known(values: Floats | None, mask: Mask) -> float | None:
    if values is None:
        return None
    known = values[mask & np.isfinite(values)]
    return float(known.mean()) if known.size else None


def best_baseline(rows: Iterable[Row], row: Row) -> Row | None:
    """Return the training-free row with the highest C at exactly a row's numbers of tokens.

    Returns
    -------
    None for ``none`` and ``full``, or if no baseline has a C
    """
    if not row.budgets:
        return None
    key = _comparable(row)
    known = [
        other
        for other in rows
        if other.condenser in BASELINES
        and other.content_recovery is not None
        and _comparable(other) == key
    ]
    return max(known, key=lambda other: other.content_recovery or 0.0, default=None)


def _comparable(row: Row) -> tuple[object, ...]:
    return (row.ratio, row.task, row.source, row.positions, row.perturbation, row.budgets)


def greedy_accuracy(
    target: TargetLLM, items: Sequence[Item], contexts: Sequence[Segment | None]
) -> Floats:
    """Let the model write each item's target by itself and compare token by token, place by place.

    Parameters
    ----------
    contexts : one an item

    Returns
    -------
    (n_items,), share of the target's tokens that stand at their place
    """
    prompts = [
        prompt_for(target, item, context) for item, context in zip(items, contexts, strict=True)
    ]
    longest = max(len(item.target_ids) for item in items)
    written = target.generate(prompts, longest)
    return np.array([
        _share_in_place(
            # generated text comes stripped: compare with the target in the same form
            target.tokenize(target.decode(item.target_ids).strip()),
            target.tokenize(text),
        )
        for item, text in zip(items, written, strict=True)
    ])


def _share_in_place(wanted: Sequence[int], written: Sequence[int]) -> float:
    hits = sum(a == b for a, b in zip(wanted, written, strict=False))
    return hits / len(wanted) if wanted else 0.0
