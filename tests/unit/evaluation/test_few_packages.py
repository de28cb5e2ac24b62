"""Evaluation where only torch, transformers and a handful of others are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = ("pyarrow", "bittensor", "typer", "fastapi", "uvicorn", "httpx", "pydantic", "orjson",
           "platformdirs", "gguf", "matplotlib", "sacrebleu")  # fmt: skip
LAUNCH = (
    "import sys\n"
    f"for name in {BLOCKED!r}:\n"
    "    sys.modules[name] = None\n"
    "from neural_condense_core.evaluation.__main__ import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


@pytest.mark.slow
def test_generated_tasks_need_few_packages(tiny_llama: str, tmp_path: Path) -> None:
    line = [sys.executable, "-c", LAUNCH, "--condensers", "stride", "--target", tiny_llama,
            "--limit", "2", "--greedy_limit", "0", "--json", str(tmp_path / "r.json")]  # fmt: skip
    environment = {**os.environ, "CONDENSE_CACHE": str(tmp_path)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["rows"]
    wrong = subprocess.run(
        [*line, "--ratios", "x"], capture_output=True, text=True, timeout=240, env=environment
    )
    assert wrong.returncode == 2
    assert "error (config)" in wrong.stderr
