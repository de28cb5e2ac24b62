"""Put this folder on the path: the backend's tests share ``engine_process.py``."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def engine_surroundings(monkeypatch, tmp_path):
    """What real workers need: a bare main module, a file to record in, short pauses."""
    from neural_condense_core.serving import crew

    # A spawned process imports its parent's main module first: pytest, which takes a while.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    monkeypatch.setenv("TROUBLE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(crew, "BACKOFF_S", 0.05)


@pytest.fixture
def batches(tmp_path):
    """The batches that workers have recorded, without the warm-up's."""

    def read():
        path = tmp_path / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [entry for entry in map(json.loads, lines) if "batch" in entry]
        return [entry for entry in found if len(entry["batch"][0]) != 16]

    return read
