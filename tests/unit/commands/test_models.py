"""``condense models``."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from neural_condense_core.cli import app
from neural_condense_core.commands.models import content_recoveries
from neural_condense_core.condensers import checkpoints
from neural_condense_core.condensers.checkpoints import CheckpointConfig, write_config

RUNNER = CliRunner()


def ship(folder, name):
    path = folder / name
    path.mkdir()
    measured = {"4x": {"answer": {"content_recovery": 0.5, "recovery": 0.8}, "n": 3}}
    write_config(
        path, CheckpointConfig(name, "pooled", "some-model", 8, (4, 8), {}, "MIT", measured)
    )
    (path / "condenser.safetensors").write_bytes(bytes(100))
    return path


def test_lists_what_ships(tmp_path, monkeypatch):
    path = ship(tmp_path, "pooled-fast")
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    result = RUNNER.invoke(app, ["models", "--json", "-"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    size = sum(each.stat().st_size for each in path.iterdir())
    assert found == {
        "schema": 1,
        "models": [
            {
                "name": "pooled-fast",
                "method": "pooled",
                "target_model": "some-model",
                "hidden_size": 8,
                "ratios": [4, 8],
                "licence": "MIT",
                "bytes": size,
                "measured": {"4x": {"answer": {"content_recovery": 0.5, "recovery": 0.8}, "n": 3}},
            }
        ],
    }
    for shown in ("pooled-fast", "4x 8x", "MIT", "4x answer: 0.50"):
        assert shown in result.stderr


def test_says_what_to_do_when_nothing_ships(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    result = RUNNER.invoke(app, ["models"])
    assert result.exit_code == 0
    assert "condense train" in result.stderr


def test_a_damaged_config_is_an_error(tmp_path, monkeypatch):
    (ship(tmp_path, "pooled-fast") / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    assert RUNNER.invoke(app, ["models"]).exit_code == 2


def test_content_recoveries_are_found_at_any_depth():
    measured = {"content_recovery": 0.1, "a": {"b": {"content_recovery": 0.2}, "c": 1}, "d": None}
    assert content_recoveries(measured) == {"content_recovery": 0.1, "a b": 0.2}
