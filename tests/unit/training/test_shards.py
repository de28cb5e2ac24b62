"""Checkpoints in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.errors import CheckpointError, ConfigError
from neural_condense_core.training.shards import HEADER_BYTES, MEGABYTE, join, main, split


@pytest.fixture
def checkpoint(tiny_llama: str, tmp_path: Path) -> Path:
    options = LoadOptions(tiny_llama, dtype="float32")
    condenser = PooledCondenser.create(options, {"n_layers": 1, "lora_r": 128, "lora_alpha": 8})
    condenser.save(tmp_path / "whole", "whole", [4])
    return tmp_path / "whole"


def test_a_checkpoint_survives_bit_for_bit(checkpoint: Path, tmp_path: Path) -> None:
    limit = (HEADER_BYTES + 340_000) / MEGABYTE
    parts = split(checkpoint, tmp_path / "parts", limit)
    assert len(parts) > 1
    assert all(path.stat().st_size <= limit * MEGABYTE for path in parts)
    assert main([str(tmp_path / "parts"), str(tmp_path / "again")]) == 0
    whole, again = (
        load_condenser(str(folder), dtype="float32").trained_state()
        for folder in (checkpoint, tmp_path / "again")
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    fewer = split(checkpoint, tmp_path / "parts", 10.0)
    assert len(fewer) == len(list((tmp_path / "parts").glob("part-*"))) == 1


def test_missing_and_doubled_parts_are_noticed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "parts"
    parts = split(checkpoint, folder, (HEADER_BYTES + 340_000) / MEGABYTE)
    content = parts[0].read_bytes()
    parts[1].write_bytes(content)
    with pytest.raises(CheckpointError, match="what another part holds"):
        join(folder, tmp_path / "again")
    parts[1].unlink()
    with pytest.raises(CheckpointError, match="all parts"):
        join(folder, tmp_path / "again")
    assert main([str(folder), str(tmp_path / "again")]) == 2
    assert "all parts" in capsys.readouterr().err
    assert main([]) == 2
    with pytest.raises(ConfigError, match="alone is larger"):
        split(checkpoint, folder, 0.01)
