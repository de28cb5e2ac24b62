"""``condense models``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from published_checkpoints import write_arc_encoder, write_lclm
from safetensors.numpy import save_file
from typer.testing import CliRunner

from neural_condense_core.cli import app
from neural_condense_core.commands.models import content_recoveries
from neural_condense_core.condensers import checkpoints
from neural_condense_core.condensers.checkpoints import CheckpointConfig, write_config

RUNNER = CliRunner()
GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "icae_v2"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))


def run(*args):
    return RUNNER.invoke(app, ["models", *map(str, args)])


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
    published = found.pop("published")
    assert {"kyutai/ARC8_Encoder_Llama", "latent-context/0.6b-4b-LCLM-16x", "sggetao/icae"} <= {
        entry["name"] for entry in published
    }
    assert {entry["method"] for entry in published if entry["verified"]} == {"icae"}
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
                "origin": "shipped",
                "verified": True,
                "checked": "",
            }
        ],
    }
    for shown in ("pooled-fast", "4x 8x", "MIT", "4x answer: 0.50", "unverified"):
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


def test_pull_list_check_and_remove(tmp_path, tiny_llama):
    write_arc_encoder(tmp_path / "arc")
    dry = run("pull", tmp_path / "arc", "--dry_run", "--json", "-")
    assert dry.exit_code == 0, dry.output
    assert json.loads(dry.stdout)["installed"] is False
    assert "model.safetensors" in dry.stderr
    assert run("check", "arc").exit_code == 2

    pulled = run("pull", tmp_path / "arc", "--target", tiny_llama, "--json", "-")
    assert pulled.exit_code == 0, pulled.output
    hashes = json.loads(pulled.stdout)["sha256"]
    assert {"config.json", "published/config.json", "published/model.safetensors"} == set(hashes)

    listed = run("--json", "-")
    (model,) = [m for m in json.loads(listed.stdout)["models"] if m["origin"] == "pulled"]
    assert (model["name"], model["method"], model["verified"]) == ("arc", "arc-encoder", False)
    assert model["sha256"] == hashes
    assert "Pulled" in listed.stderr

    assert run("check", "arc").exit_code == 0
    assert run("rm", "arc").exit_code == 0
    assert run("check", "arc").exit_code == 2
    assert '"pulled"' not in run("--json", "-").stdout


def test_a_published_icae_counts_as_verified(tmp_path):
    done = run("pull", GOLDEN / "icae.safetensors", "--name", "theirs", "--set", "lora_alpha=32")
    assert done.exit_code == 0, done.output
    models = json.loads(run("--json", "-").stdout)["models"]
    (model,) = [m for m in models if m["name"] == "theirs"]
    assert model["verified"] is True
    assert "not stated: give" in run().stderr


def test_the_target_model_of_a_pair_is_told_as_a_path(tmp_path, tiny_models):
    write_lclm(tmp_path / "pair", tiny_models)
    assert run("pull", tmp_path / "pair").exit_code == 0
    models = json.loads(run("--json", "-").stdout)["models"]
    (model,) = [m for m in models if m["name"] == "pair"]
    assert (Path(model["target_model"]) / "config.json").is_file()


def test_a_checkpoint_of_somebody_else_is_not_verified(tmp_path, monkeypatch):
    folder = ship(tmp_path, "elsewhere")
    save_file({"a": np.zeros(1, np.float32)}, folder / "condenser.safetensors")
    assert run("pull", folder).exit_code == 0
    models = json.loads(run("--json", "-").stdout)["models"]
    (model,) = [m for m in models if m["name"] == "elsewhere"]
    assert model["verified"] is False
    assert "measure it" in model["checked"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["pull", "a/b/c"], 2, "neither a path"),
        (["pull", "owner/name"], 3, "cannot list"),
        (["pull", "a/b", "--set", "x"], 2, "KEY=VALUE"),
        (["rm", "nothing"], 2, "no condenser"),
        (["pull"], 2, "Missing argument"),
        (["pul", "a/b"], 2, "No such command"),
    ],
)
def test_wrong_usage_says_what_to_do(args, code, said):
    result = run(*args)
    assert result.exit_code == code
    assert said in result.stderr
