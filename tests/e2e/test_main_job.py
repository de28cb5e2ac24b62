"""The main job itself: what ships, the real embedded model, the specification's command lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neural_condense_core.condensers.checkpoints import (
    SHIPPED,
    load_condenser,
    read_config,
    shipped_names,
)
from neural_condense_core.llm.base import as_segment
from neural_condense_core.llm.hf import load_target
from neural_condense_core.llm.prompt import answer_prompt

ROOT = Path(__file__).parents[2]
TEXT = (
    "The lighthouse at Cape Orlen was built in 1871 by Marta Quist, who painted it green. It "
    "stands on a rock that the fishermen call the Old Goat. On clear nights its light is seen "
    "from as far as the town of Brevik, where Marta's sister Ingrid keeps a bakery."
)
MAX_CHECKPOINT_BYTES = 40_000_000


def test_both_trained_condensers_ship_small_and_licensed() -> None:
    assert {"pooled-fast", "icae"} <= set(shipped_names())
    for name in shipped_names():
        config = read_config(SHIPPED / name)
        assert config.licence
        assert config.measured["trained_steps"] > 0
        assert (SHIPPED / name / "README.md").is_file()
        assert (SHIPPED / name / "condenser.safetensors").stat().st_size < MAX_CHECKPOINT_BYTES


@pytest.mark.parametrize("name", ["pooled", "icae"])
def test_a_frozen_llm_reads_what_a_shipped_condenser_makes(embedded_cache: Path, name: str) -> None:
    """The right text's tokens make the right answer likelier than another text's do."""
    condenser = load_condenser(name)
    target = load_target(condenser.target_model)
    ids = target.tokenize(TEXT)
    other = target.tokenize(TEXT.replace("Marta Quist", "Peter Bloom").replace("green", "white"))
    own, swapped = condenser.condense([ids, other[::-1]], 4)
    assert own.n_condensed_tokens == condenser.n_condensed_tokens(len(ids), 4) < len(ids) / 3
    question, gold = "Who built the lighthouse?", target.tokenize("Marta Quist")
    prompts = [answer_prompt(target, as_segment(made), question) for made in (own, swapped)]
    right, wrong = target.loglikelihood(prompts, [gold, gold])
    assert right.loss < wrong.loss
    (answer,) = target.generate(prompts[:1], 8)
    assert answer


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_does_the_main_job_twice(embedded_cache: Path, tmp_path: Path) -> None:
    """Both backends are started by the specification's lines; the second start is a quick one."""
    line = [
        *(sys.executable, "-m", "neural_condense_core.cli", "demo", "--no-subnet", "--json", "-")
    ]
    for _ in range(2):
        done = subprocess.run(
            line, cwd=ROOT, env=dict(os.environ), capture_output=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        report = json.loads(done.stdout)
        assert report["ok"]
        assert {row["condenser"] for row in report["backends"]} == {"icae", "pooled"}
        for row in report["backends"]:
            assert row["n_condensed_tokens"] <= report["document"]["n_context_tokens"] / 3.9
            assert np.isfinite([row["ms"], row["recovery"], row["content_recovery"]]).all()
        for asked in report["questions"]:
            assert {"none", "full", "icae", "pooled"} <= asked["answers"].keys()
    assert report["seconds"]["ready icae"] < 60
    assert report["seconds"]["ready pooled"] < 60
