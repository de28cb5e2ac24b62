"""Training where only torch, transformers and a handful of others are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neural_condense_core.training.config import Recipe
from neural_condense_core.training.packing import PackLimits, pack

BLOCKED = ("pyarrow", "bittensor", "typer", "fastapi", "uvicorn", "httpx", "pydantic", "orjson",
           "platformdirs", "rank_bm25", "gguf")  # fmt: skip
LAUNCH = (
    "import sys\n"
    f"for name in {BLOCKED!r}:\n"
    "    sys.modules[name] = None\n"
    "from neural_condense_core.training.__main__ import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


@pytest.mark.slow
def test_a_packed_run_needs_few_packages(
    tiny_recipe: Recipe, tiny_llama: str, prose_file: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    pack(tiny_recipe, prose_file, None, packed, PackLimits(1 << 20, 0))
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "few"\nmethod = "pooled"\nsteps = 1\nbatch = 2\n'
                      "[condenser]\nn_layers = 1\n")  # fmt: skip
    line = [sys.executable, "-c", LAUNCH, str(recipe), "--packed", str(packed), "--target",
            tiny_llama, "--out", str(tmp_path / "out"), "--device", "cpu", "--shard_mb", "1",
            "--json", str(tmp_path / "summary.json")]  # fmt: skip
    environment = {**os.environ, "CONDENSE_CACHE": str(tmp_path)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finished"]
    assert Path(summary["parts"][0]).is_file()
    again = subprocess.run(line, capture_output=True, text=True, timeout=240, env=environment)
    assert again.returncode == 2
    assert "error (config)" in again.stderr
