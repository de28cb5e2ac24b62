"""``python -m neural_condense_core.evaluation``: evaluation where few packages are installed.

Needs torch, transformers, safetensors, numpy, rich and rank-bm25 (a baseline), peft for checkpoints
with LoRA, and pyarrow only for ``--prose`` and ``--qa``. The options that measure are those of
``condense eval``; its page with plots and its model card are made from the JSON, elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from neural_condense_core.console import check_writable, write_bytes, write_json
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.evaluation.evaluator import POSITIONS, TRAINING_FREE
from neural_condense_core.evaluation.options import (
    DTYPES,
    MAX_LENGTH,
    Options,
    check_files,
    chosen,
    integers,
    ratios_of,
    seeds_of,
    words,
)
from neural_condense_core.evaluation.perturbation import PERTURBATIONS
from neural_condense_core.evaluation.session import run
from neural_condense_core.evaluation.tasks import TASKS

if TYPE_CHECKING:
    from neural_condense_core.evaluation.probes import TaskName

DEFAULTS = {
    "ratios": "4",
    "limit": "64",
    "seed": "0",
    "positions": "plain",
    "greedy_limit": "16",
    "examples": "3",
    "dtype": "auto",
    "device": "cpu",
}
MAX_COUNT = 1 << 31


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; nothing in it is checked yet."""
    parser = argparse.ArgumentParser(
        "python -m neural_condense_core.evaluation", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--condensers", required=True)
    for name in ("prose", "qa", "markdown"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("target", "baselines", "tasks", "seeds", "lengths", "perturb", "json"):
        parser.add_argument(f"--{name}")
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--costs", action="store_true")
    return parser.parse_args(arguments)


def checked(given: argparse.Namespace) -> Options:
    """Return the options of a command line; a ConfigError where one is wrong."""
    tasks = None if given.tasks is None else chosen("--tasks", given.tasks, TASKS)
    baselines = given.baselines
    seeds = () if given.seeds is None else seeds_of(given.seeds)
    lengths = given.lengths
    return Options(
        condensers=words("--condensers", given.condensers),
        ratios=ratios_of(given.ratios),
        prose=given.prose,
        qa=given.qa,
        target=given.target,
        baselines=None if baselines is None else chosen("--baselines", baselines, TRAINING_FREE),
        tasks=cast("tuple[TaskName, ...] | None", tasks),
        limit=_count("--limit", given.limit, 2),
        seed=seeds[0] if seeds else _count("--seed", given.seed, 0),
        seeds=seeds,
        lengths=None if lengths is None else integers("--lengths", lengths, 1, MAX_LENGTH),
        positions=chosen("--positions", given.positions, POSITIONS),
        perturb=chosen("--perturb", given.perturb, PERTURBATIONS) if given.perturb else (),
        greedy_limit=_count("--greedy_limit", given.greedy_limit, 0),
        examples=_count("--examples", given.examples, 0),
        dtype=chosen("--dtype", given.dtype, DTYPES)[0],
        device=given.device,
        costs=given.costs,
    )


def main(arguments: list[str]) -> int:
    """Evaluate; returns the exit code. Tables go to stderr, as with ``condense eval``."""
    given = parse(arguments)
    try:
        options = checked(given)
        for place in (given.json, given.markdown):
            check_writable(place)
        check_files(options)
        report = run(options, _say)
        text = report.to_markdown()
        sys.stderr.write(text + "\n")
        if given.markdown is not None:
            write_bytes(str(given.markdown), text.encode())
        write_json(given.json, report.as_json())
    except NeuralCondenseError as error:
        sys.stderr.write(f"error ({error.code}): {error.message}\n")
        return error.exit_code
    return 0


def _count(flag: str, text: str, least: int) -> int:
    return integers(flag, text, least, MAX_COUNT)[0]


def _say(label: str, done: int, total: int) -> None:
    sys.stderr.write(f"{done} of {total}: {label}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
