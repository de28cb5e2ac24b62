"""``python -m neural_condense_core.training RECIPE``: training where few packages are installed.

Needs torch, transformers, safetensors, numpy and, for LoRA, peft; pyarrow only for ``--prose`` and
``--qa``. Everything else of ``condense train`` (the bar, ``--help`` in colour) is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.training.config import read_recipe
from neural_condense_core.training.session import RunArguments, Watcher, conclusion, run
from neural_condense_core.training.sources import DataFiles
from neural_condense_core.training.trainer import RunSettings, StepReport

LINES_EVERY = 20


class PlainWatcher(Watcher):
    """Writes a line on stderr every few steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def show(self, step: StepReport) -> None:
        """Write the first line, and every twentieth."""
        super().show(step)
        if step.step % LINES_EVERY == 1:
            self.say(self.line(step, self._steps))

    def say(self, text: str) -> None:
        """Write a line."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; the options are those of ``condense train``."""
    parser = argparse.ArgumentParser("python -m neural_condense_core.training", description=__doc__)
    parser.add_argument("recipe", type=Path)
    for name in ("prose", "qa", "packed", "out", "init"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    for name in ("resume", "overwrite", "compile"):
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("minutes", "shard_mb"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Train; returns the exit code."""
    given = parse(arguments)
    try:
        recipe = read_recipe(given.recipe, tuple(given.changes))
        recipe = replace(recipe, target_model=given.target or recipe.target_model)
        watcher = PlainWatcher(recipe.steps)
        summary = run(
            RunArguments(
                recipe,
                DataFiles(given.prose, given.qa, given.packed),
                given.out,
                given.init,
                given.resume,
                given.overwrite,
                given.minutes,
                given.device,
                RunSettings(given.dtype, given.compile),
                given.shard_mb,
            ),
            watcher,
        )
    except NeuralCondenseError as error:
        sys.stderr.write(f"error ({error.code}): {error.message}\n")
        return error.exit_code
    if "checkpoint" in summary:
        watcher.say(conclusion(summary))
        if given.json:
            given.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
