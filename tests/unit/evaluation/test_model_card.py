"""Model cards: figures of the report, hash of its file, notes that stay."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from report_fakes import report

from neural_condense_core.condensers.checkpoints import CheckpointConfig, read_config, write_config
from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.model_card import write_card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "pooled"
    found.mkdir()
    measured = {
        "trained_steps": 5, "trained_context_tokens": 1000, "4x": {"old": 1}, "recipe": "r.toml",
    }  # fmt: skip
    write_config(
        found,
        CheckpointConfig("pooled", "pooled", "tiny", 8, (1, 4), {"k": 2}, "MIT", measured),
    )
    (found / "condenser.safetensors").write_bytes(b"weights")
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report().as_json()), encoding="utf-8")
    return path


def test_the_card_quotes_command_hash_and_figures(folder: Path, source: Path) -> None:
    text = write_card(folder, source).read_text(encoding="utf-8")
    assert hashlib.sha256(source.read_bytes()).hexdigest() in text
    assert hashlib.sha256(b"weights").hexdigest() in text
    assert "\ncondense eval --condensers pooled\n" in text
    assert "| trained on | 1,000 context tokens in 5 steps |" in text
    assert "- pooled, answer at 4x: C = 0.40 (0.30 to 0.50); best baseline spans" in text
    row = "| answer | all | 4x | int8 | 12 | 0.40 (0.30 to 0.50) | - | 0.03 (0.01 to 0.05) | 0.50 |"
    assert row in text.splitlines()
    assert "| 4x | 512 | 128 |" in text  # costs
    assert "head-tail" not in text  # rows are of this checkpoint alone


def test_config_holds_the_same_figures_and_none_of_old(folder: Path, source: Path) -> None:
    write_card(folder, source)
    found = read_config(folder)
    assert found.measured["4x"]["answer"] == {
        "content_recovery": 0.4, "ci": [0.3, 0.5], "recovery": 0.5, "n": 12, "n_documents": 6,
        "best_baseline": "spans", "above_best": 0.2, "above_best_ci": [0.1, 0.3],
    }  # fmt: skip
    assert found.measured["8x"]["answer"]["content_recovery"] == 0.0
    assert "old" not in found.measured["4x"]
    assert found.measured["trained_steps"] == 5
    assert found.measured["report_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (found.name, found.ratios, found.config) == ("pooled", (1, 4), {"k": 2})


def test_notes_stay_when_the_card_is_written_anew(folder: Path, source: Path) -> None:
    write_card(folder, source, notes="Trained on *two* cores.")
    text = write_card(folder, source).read_text(encoding="utf-8")
    assert "<!-- notes -->\nTrained on *two* cores.\n<!-- /notes -->" in text
    assert write_card(folder, source).read_text(encoding="utf-8") == text


def test_a_checkpoint_that_was_not_measured_gets_no_card(folder: Path, source: Path) -> None:
    config = read_config(folder)
    write_config(folder, CheckpointConfig(**{**config.__dict__, "name": "other"}))
    with pytest.raises(ConfigError, match="has no row of 'other'; it has head-tail, pooled"):
        write_card(folder, source)
    assert not (folder / "README.md").exists()
