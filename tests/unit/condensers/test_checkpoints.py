from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from neural_condense_core.condensers import checkpoints
from neural_condense_core.condensers.checkpoints import (
    CheckpointConfig,
    load_condenser,
    read_config,
    resolve,
    shipped_names,
    write_config,
)
from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.condensers.icae import IcaeCondenser
from neural_condense_core.condensers.truncate import TruncateHeadCondenser
from neural_condense_core.errors import CheckpointError, ConfigError, UnknownNameError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "icae_v2"


@pytest.fixture
def echo_checkpoint(tmp_path):
    folder = tmp_path / "echo-tuned"
    folder.mkdir()
    config = CheckpointConfig("echo-tuned", "echo", "some-model", 64, (1, 2), {"a": 1}, "MIT")
    write_config(folder, config)
    return folder


@pytest.fixture
def nothing_ships(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "none")


def test_config_round_trip(echo_checkpoint):
    expected = CheckpointConfig("echo-tuned", "echo", "some-model", 64, (1, 2), {"a": 1}, "MIT")
    assert read_config(echo_checkpoint) == expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ratios": 3}', "\x00", '{"ratios": [1]}'])
def test_a_damaged_config_is_refused(echo_checkpoint, text):
    (echo_checkpoint / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(echo_checkpoint)


def test_an_oversized_config_is_refused(echo_checkpoint):
    (echo_checkpoint / "config.json").write_text(json.dumps({"x": "y" * (1 << 20)}))
    with pytest.raises(CheckpointError, match="larger"):
        read_config(echo_checkpoint)


def test_a_folder_without_config_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("echo", EchoCondenser),
        ("truncate-head", TruncateHeadCondenser),
        ("neural_condense_core.condensers.echo:EchoCondenser", EchoCondenser),
    ],
)
def test_names_resolve(spec, expected):
    assert resolve(spec) == (expected, None)


def test_a_folder_resolves_to_its_method(echo_checkpoint):
    assert resolve(str(echo_checkpoint)) == (EchoCondenser, echo_checkpoint)


def test_a_shipped_checkpoint_comes_before_everything(monkeypatch, echo_checkpoint):
    monkeypatch.setattr(checkpoints, "SHIPPED", echo_checkpoint.parent)
    assert shipped_names() == ["echo-tuned"]
    assert resolve("echo-tuned") == (EchoCondenser, echo_checkpoint)


@pytest.mark.usefixtures("nothing_ships")
@pytest.mark.parametrize("spec", ["pooled", "icae"])
def test_a_trained_method_without_weights_is_an_error_never_an_untrained_one(spec):
    with pytest.raises(CheckpointError, match="no trained weights"):
        resolve(spec)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'truncate-head'"):
        resolve("truncate-heat")


@pytest.mark.parametrize("spec", ["no_such_module_here:X", "json:NoSuchClass"])
def test_a_class_that_cannot_be_imported(spec):
    with pytest.raises(ConfigError):
        resolve(spec)


def test_loading_takes_the_checkpoints_target_and_name(echo_checkpoint):
    condenser = load_condenser(str(echo_checkpoint))
    assert (condenser.name, condenser.target_model) == ("echo-tuned", "some-model")


def test_loading_takes_the_default_target():
    assert load_condenser("echo").target_model == checkpoints.DEFAULT_TARGET_MODEL


def test_a_checkpoint_of_another_target_is_refused(echo_checkpoint):
    with pytest.raises(CheckpointError, match="'some-model', not for 'other'"):
        load_condenser(str(echo_checkpoint), "other")


@pytest.mark.parametrize("method", ["os:system", "no-such-method", "collections:Counter"])
def test_a_checkpoint_cannot_choose_code(echo_checkpoint, method):
    write_config(echo_checkpoint, CheckpointConfig("x", method, "m", 64, (1,)))
    with pytest.raises(CheckpointError, match="names the method"):
        resolve(str(echo_checkpoint))


@pytest.fixture
def published_file(tmp_path):
    path = tmp_path / "mistral_v2.safetensors"
    path.write_bytes((GOLDEN / "icae.safetensors").read_bytes())
    return path


def test_a_published_file_is_an_icae(published_file):
    assert resolve(str(published_file)) == (IcaeCondenser, published_file)
    with pytest.raises(UnknownNameError, match=r"published \.safetensors file"):
        resolve(str(published_file.with_name("other.safetensors")))
    with pytest.raises(UnknownNameError):
        resolve(str(GOLDEN / "README.md"))


def test_loading_a_published_file(published_file):
    condenser = load_condenser(str(published_file), str(GOLDEN / "base"), dtype="float32")
    assert (condenser.name, condenser.ratios) == ("mistral_v2", (4,))
    assert condenser.target_model == str(GOLDEN / "base")
    expected = load_file(GOLDEN / "expected.safetensors")["one_span"]
    text = json.loads((GOLDEN / "case.json").read_text())["texts"]["one_span"]
    (found,) = condenser.condense([condenser.tokenize(text)], 4)
    assert abs(found.embeds - expected).max() <= 1e-4


def test_a_published_file_does_not_say_for_which_target(published_file):
    with pytest.raises(CheckpointError, match="which target model"):
        load_condenser(str(published_file))
