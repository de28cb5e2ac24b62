"""A small report with everything in it, for tests of what shows reports."""

from __future__ import annotations

import math
from typing import Any

from neural_condense_core.evaluation.break_even import CostRow, Costs
from neural_condense_core.evaluation.metrics import Choice, Margin, Row
from neural_condense_core.evaluation.report import Report

NASTY = "<script>alert('$x_1$')</script>"


def row(condenser: str, ratio: float | None = 4.0, task: str = "answer", **changed: Any) -> Row:
    fields: dict[str, Any] = {
        "source": "all", "positions": "plain", "perturbation": "none", "query_aware": False,
        "n": 12, "n_documents": 6, "dropped": 2,
        "n_condensed": None if ratio is None else 256 / ratio, "recovery": 0.5,
        "content_recovery": 0.4, "ci": (0.3, 0.5), "loss": 2.0, "loss_none": 3.0,
        "loss_full": 1.0, "loss_other": 2.5, "loss_full_other": 3.5, "accuracy": 0.4,
        "greedy_accuracy": None, "encode_ms": 20.0 if ratio else None, "n_context": 256.0,
    }  # fmt: skip
    return Row(condenser=condenser, ratio=ratio, task=task, **{**fields, **changed})


def cost(condenser: str = "pooled", ratio: float = 4.0, n: int = 256, **changed: Any) -> CostRow:
    fields: dict[str, Any] = {
        "condenser": condenser, "ratio": ratio, "n_context": n, "n_condensed": math.ceil(n / ratio),
        "bytes": 1024, "encode_ms": 30.0, "use_ms": 20.0, "full_ms": 60.0, "encode_flops": 900,
        "use_flops": 250, "full_flops": 1000,
    }  # fmt: skip
    return CostRow(**{**fields, **changed})


def costs() -> Costs:
    rows = (cost(n=256, encode_ms=50.0), cost(n=512), cost(n=1024))
    return Costs({"device": "cpu", "threads": 1}, 5, 20, rows)


def report(**changed: Any) -> Report:
    """``pooled`` beside two baselines on two tasks, ratios, lengths; one row is disturbed."""
    rows = [row("none", None, content_recovery=0.0), row("full", None, content_recovery=1.0)]
    for task in ("answer", "needle"):
        for ratio in (4.0, 8.0):
            best = Margin("spans", 0.2, 0.2, (0.1, 0.3))
            rows += [
                row("pooled", ratio, task, best_baseline=best, content_recovery=3.2 / ratio - 0.4),
                row("head-tail", ratio, task, content_recovery=0.1),
                row("spans", ratio, task, content_recovery=0.2),
                row("sentence-retrieval", ratio, task, query_aware=True),
            ]
            rows += [
                row(
                    "pooled", ratio, task, by="length", source=str(n), n_context=float(n),
                    best_baseline=Margin("spans", 0.3, 0.1, None),
                    choice=Choice(12, 4, 0.6, 0.2, 0.9, 0.57, (0.4, 0.7)),
                )
                for n in (256, 1024)
            ]  # fmt: skip
    rows.append(row("pooled", perturbation="int8", fall=0.03, fall_ci=(0.01, 0.05)))
    example = {
        "task": "answer", "source": "tales", "document": NASTY, "n_context": 9, "context": NASTY,
        "question": "Who & why?", "gold": "a <b>", "replies": [
            {"condenser": "none", "ratio": None, "text": NASTY, "f1": 0.0},
            {"condenser": "pooled", "ratio": 4.0, "text": "yes", "f1": 0.5},
        ],
    }  # fmt: skip
    fields: dict[str, Any] = {
        "target": "tiny", "seed": 3, "limit": 14, "dtype": "float32",
        "command": "condense eval --condensers pooled", "rows": tuple(rows),
        "tasks": ("answer", "needle"), "seeds": (3, 4), "hidden_size": 8, "examples": (example,),
        "notes": ("a note",), "costs": costs(),
    }  # fmt: skip
    return Report(**{**fields, **changed})
