"""Fit the gateway's estimate of content recovery on held-out questions, and draw the fit.

``python benchmarks/calibrate_recovery.py QA.parquet [--target NAME] [--documents 48] [--seed 0]
[--out calibration.json] [--picture calibration.svg] [--json PATH]``. The file has the columns that
``condense eval --qa`` takes, and holds texts that no checkpoint was trained on.

For each document and each way of condensing it: the raw gain, as the gateway measures it from a
sample of the reconstruction, and the true content recovery's two parts, measured on a question.
Pairs are put in order of their gain and into bins of equal size; a bin's truth is the ratio of
sums, as everywhere in this project; bins are then made monotone (pool adjacent violators). The
fit on one half of the documents is checked on the other half; what is written is the fit on all.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.constants import EMBEDDED_TARGET_MODEL
from neural_condense_core.evaluation.data import Question, load_qa
from neural_condense_core.gateway.estimating import Calibration, sample_gain
from neural_condense_core.llm.base import Segment, TokenIds, as_segment
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.prompt import answer_prompt
from neural_condense_core.scoring.recovery import bootstrap, derangement
from neural_condense_core.svg import MARK, render
from neural_condense_core.tokens import CondensedTokens

WAYS = (
    ("pooled", 2.0),
    ("pooled", 4.0),
    ("pooled", 8.0),
    ("pooled", 16.0),
    ("stride", 2.0),
    ("truncate-head", 2.0),
    ("random", 4.0),
)
N_BINS = 12
MIN_TOKENS = 96

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One document condensed in one way; losses in nats."""

    way: str
    document: str
    gain: float
    numerator: float
    denominator: float
    n_target: int


def losses(target: HFTarget, segments: Sequence[Segment], question: Question) -> list[float]:
    """Return the answer's loss behind each context."""
    answer = target.tokenize(question.answer)
    prompts = [answer_prompt(target, segment, question.question) for segment in segments]
    found = target.loglikelihood(prompts, [answer] * len(prompts))
    return [each.loss for each in found]


def chosen(path: Path, target: HFTarget, n: int, seed: int) -> list[Question]:
    """Return one question each of so many documents, of contexts that are long enough."""
    questions = load_qa(path)
    random.Random(seed).shuffle(questions)
    found: dict[str, Question] = {}
    for question in questions:
        if len(found) == n:
            break
        is_long = len(target.tokenize(question.context)) >= MIN_TOKENS
        if is_long and question.document not in found:
            found[question.document] = question
    return list(found.values())


def measure(target: HFTarget, questions: Sequence[Question], seed: int) -> list[Sample]:
    """Measure every way on every document."""
    others = derangement(
        [each.document for each in questions], [each.source for each in questions], seed
    )
    texts = [TokenIds(tuple(target.tokenize(each.context))) for each in questions]
    denominators = []
    for index, question in enumerate(questions):
        own, other = losses(target, [texts[index], texts[others[index]]], question)
        denominators.append(other - own)
    samples = []
    for name, ratio in WAYS:
        begun_s = time.monotonic()
        condenser = load_condenser(name, target.name)
        tokens: list[CondensedTokens] = [
            condenser.condense([condenser.tokenize(each.context)], ratio)[0] for each in questions
        ]
        for index, question in enumerate(questions):
            gain = sample_gain(target, tokens[index], question.context)
            if gain is None:
                continue
            pair = [as_segment(tokens[index]), as_segment(tokens[others[index]])]
            own, other = losses(target, pair, question)
            samples.append(
                Sample(
                    f"{name} {ratio:g}x", question.document, gain, other - own,
                    denominators[index], len(target.tokenize(question.answer)),
                )
            )  # fmt: skip
        print(f"{name} {ratio:g}x: {time.monotonic() - begun_s:.0f} s", file=sys.stderr)
    return samples


def bins_of(samples: Sequence[Sample], n_bins: int = N_BINS) -> list[list[Sample]]:
    """Return samples in order of their gain, in bins of about equal size."""
    ordered = sorted(samples, key=lambda each: each.gain)
    cuts = np.linspace(0, len(ordered), n_bins + 1).astype(int)
    return [ordered[low:high] for low, high in pairwise(cuts)]


def monotone(values: Floats, weights: Floats) -> Floats:
    """Return the rising values nearest to some (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            high, low = blocks.pop(), blocks.pop()
            weight = low[1] + high[1]
            mean = (low[0] * low[1] + high[0] * high[1]) / weight
            blocks.append([mean, weight, low[2] + high[2]])
    return np.concatenate([np.full(int(n), value) for value, _, n in blocks])


def fit(samples: Sequence[Sample], target_model: str) -> Calibration:
    """Return the monotone map from gain to content recovery."""
    bins = bins_of(samples)
    gains = np.array([np.mean([each.gain for each in group]) for group in bins])
    tops = np.array([sum(each.numerator for each in group) for group in bins])
    bottoms = np.array([sum(each.denominator for each in group) for group in bins])
    rising = np.clip(monotone(tops / bottoms, bottoms), 0.0, 1.0)
    return Calibration(
        target_model,
        tuple(round(float(each), 4) for each in gains),
        tuple(round(float(each), 4) for each in rising),
    )


def check(samples: Sequence[Sample], calibration: Calibration) -> list[dict[str, float]]:
    """Return estimate and truth in bins of samples that were not fitted on."""
    rows = []
    for group in bins_of(samples, N_BINS // 2):
        tops = np.array([each.numerator for each in group])
        bottoms = np.array([each.denominator for each in group])
        interval = bootstrap(
            tops, bottoms, [each.document for each in group], 0,
            n_target=np.array([each.n_target for each in group], float),
        ) or (float("nan"), float("nan"))  # fmt: skip
        rows.append({
            "estimated": float(np.mean([calibration.recovery(each.gain) for each in group])),
            "measured": float(tops.sum() / bottoms.sum()),
            "low": interval[0],
            "high": interval[1],
            "n": float(len(group)),
        })
    return rows


def draw(
    samples: Sequence[Sample], calibration: Calibration, rows: Sequence[dict[str, float]]
) -> str:
    """Return both plots: the fit, and estimate against truth on the other half."""
    from matplotlib.figure import Figure

    def canvas() -> Figure:
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        figure.patch.set_alpha(0)
        left, right = figure.subplots(1, 2)
        bins = bins_of(samples)
        left.plot(
            [np.mean([each.gain for each in group]) for group in bins],
            [
                sum(each.numerator for each in group) / sum(each.denominator for each in group)
                for group in bins
            ],
            "o", color=MARK["series-0"], label="bins, measured",
        )  # fmt: skip
        left.plot(calibration.gains, calibration.recoveries, color=MARK["ink"], label="map")
        left.set_xlabel("gain of the reconstruction's sample")
        left.set_ylabel("content recovery C")
        left.legend(frameon=False)
        right.axline((0, 0), slope=1, color=MARK["muted"], linestyle="--")
        spread = [
            [row["measured"] - row["low"] for row in rows],
            [row["high"] - row["measured"] for row in rows],
        ]
        right.errorbar(
            [row["estimated"] for row in rows], [row["measured"] for row in rows],
            yerr=np.abs(np.nan_to_num(spread)), fmt="o", color=MARK["series-0"],
        )  # fmt: skip
        right.set_xlabel("estimated C")
        right.set_ylabel("measured C, documents not fitted on")
        for axes in (left, right):
            axes.patch.set_alpha(0)
            axes.spines[["top", "right"]].set_visible(False)
        return figure

    about = "Estimated against measured content recovery, and the monotone map between"
    return render(canvas, "recovery-calibration", about, alone=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("questions", type=Path)
    parser.add_argument("--target", default=EMBEDDED_TARGET_MODEL)
    parser.add_argument("--documents", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    target = load_target(flags.target)
    questions = chosen(flags.questions, target, flags.documents, flags.seed)
    samples = measure(target, questions, flags.seed)
    names = sorted({each.document for each in samples})
    half = set(names[::2])
    rows = check(
        [each for each in samples if each.document not in half],
        fit([each for each in samples if each.document in half], target.name),
    )
    calibration = fit(samples, target.name)
    knots = [list(knot) for knot in zip(calibration.gains, calibration.recoveries, strict=True)]
    written = {"target_model": target.name, "documents": len(questions), "knots": knots}
    print(json.dumps({**written, "check": rows}, indent=1))
    if flags.out:
        flags.out.write_text(json.dumps(written) + "\n", encoding="utf-8")
    if flags.picture:
        flags.picture.write_text(draw(samples, calibration, rows) + "\n", encoding="utf-8")
    if flags.json:
        body = {"samples": [vars(each) for each in samples], "check": rows, **written}
        flags.json.write_text(json.dumps(body), encoding="utf-8")


if __name__ == "__main__":
    main()
