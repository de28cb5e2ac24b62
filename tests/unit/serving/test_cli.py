import re
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from neural_condense_core.errors import ConfigError
from neural_condense_core.serving import cli, server
from neural_condense_core.serving.condense_route import MAX_BODIES
from neural_condense_core.serving.devices import ACCELERATORS, MAX_BATCH_TOKENS
from neural_condense_core.serving.engine import MIN_HANG_S
from neural_condense_core.serving.replica import LOAD_SILENCE_S
from neural_condense_core.serving.settings import (
    DEFAULT_QUEUED_TOKENS,
    DEFAULT_RATIO,
    DTYPES,
    LOG_FORMATS,
    LOGGING_LEVELS,
    REPLIES,
    ServeSettings,
)
from neural_condense_core.wire.messages import MAX_BODY_BYTES

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "backend.md"


@pytest.fixture
def served(monkeypatch):
    found = []
    monkeypatch.setattr(server, "run", found.append)
    return found


def invoke(*args):
    app = typer.Typer()
    app.command()(cli.serve)
    return CliRunner().invoke(app, args)


FLAGS = [
    ("port", "9000", "port", 9000),
    ("host", "0.0.0.0", "host", "0.0.0.0"),
    ("devices", "2", "devices", 2),
    ("devices", "auto", "devices", None),
    ("workers_per_device", "3", "workers_per_device", 3),
    ("target_model", "toy", "target_model", "toy"),
    ("checkpoint", "folder", "checkpoint", "folder"),
    ("ratio", "8", "ratio", 8.0),
    ("refine_steps", "8", "refine_steps", 8),
    ("refine_ms", "1500", "refine_ms", 1500.0),
    ("max_batch_tokens", "77", "max_batch_tokens", 77),
    ("max_context_tokens", "99", "max_context_tokens", 99),
    ("max_queued_tokens", "20000", "max_queued_tokens", 20_000),
    ("timeout", "1.5", "timeout_s", 1.5),
    ("api_path", "/v1/condense", "api_path", "/v1/condense"),
    ("reply", "list", "reply", "list"),
    ("dtype", "float32", "dtype", "float32"),
    ("accelerator", "cpu", "accelerator", "cpu"),
    ("logging_level", "debug", "logging_level", "debug"),
    ("log_format", "json", "log_format", "json"),
    ("hang_timeout", "90", "hang_timeout_s", 90.0),
    ("cache_mb", "8", "cache_mb", 8),
    ("cache_dir", "kept", "cache_dir", "kept"),
]


@pytest.mark.parametrize("dash", ["_", "-"])
@pytest.mark.parametrize(("flag", "text", "field", "value"), FLAGS)
def test_every_flag_reaches_the_settings_in_both_spellings(served, dash, flag, text, field, value):
    result = invoke("--condenser", "echo", f"--{flag.replace('_', dash)}", text)
    assert result.exit_code == 0, result.output
    assert served == [ServeSettings(**{"condenser": "echo", field: value})]


def test_defaults(served):
    assert invoke("--condenser", "echo").exit_code == 0
    assert served == [ServeSettings("echo")]


def test_the_table_above_names_every_setting():
    named = {field for _, _, field, _ in FLAGS}
    assert named | {"condenser"} == set(ServeSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--condenser", "echo", "--max_batch_token", "3"), "--max_batch_tokens"),
        (("--condenser", "echo", "--port", "many"), "--port"),
        ((), "--condenser"),
    ],
)
def test_usage_errors_exit_2_with_a_hint(served, args, said):
    result = invoke(*args)
    assert result.exit_code == 2
    assert said in result.output
    assert not served


@pytest.mark.parametrize("devices", ["0", "-1", "two", "1.5", "٣"])
def test_devices_is_a_number_or_auto(served, devices):
    result = invoke("--condenser", "echo", "--devices", devices)
    assert isinstance(result.exception, ConfigError)
    assert "--devices" in result.exception.message


def test_a_launcher_serves_its_condenser(served, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["icae_app.py", "--port", "9000", "--workers-per-device", "2"])
    with pytest.raises(SystemExit) as stopped:
        cli.serve_app("icae")
    assert stopped.value.code == 0
    assert served == [ServeSettings("icae", port=9000, workers_per_device=2)]


@pytest.mark.parametrize(
    ("args", "said"), [(["--condenser", "echo"], "--condenser"), (["--reply", "x"], "--reply")]
)
def test_a_launcher_turns_errors_into_a_message_and_exit_2(served, monkeypatch, capsys, args, said):
    monkeypatch.setattr(sys, "argv", ["icae_app.py", *args])
    with pytest.raises(SystemExit) as stopped:
        cli.serve_app("icae")
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not served


# What a default of None means, in the reference's words.
BY_CIRCUMSTANCES = {
    "condenser": "(launchers: their own)",
    "checkpoint": "the condenser's own",
    "target_model": "the checkpoint's",
    "ratio": f"{DEFAULT_RATIO:g}, or the nearest offered",
    "refine_steps": "none",
    "refine_ms": "none",
    "devices": cli.AUTO_DEVICES,
    "hang_timeout": f"twice `--timeout`, at least {MIN_HANG_S:g}",
    "cache_dir": "none",
    "max_batch_tokens": f"{MAX_BATCH_TOKENS['cpu']} on CPU, {MAX_BATCH_TOKENS['cuda']} on GPU",
    "max_queued_tokens": f"{DEFAULT_QUEUED_TOKENS}, at least the longest context",
}


def reference_flags():
    """Return flag -> (default, effect) as ``docs/backend.md`` has them."""
    text = REFERENCE.read_text(encoding="utf-8").partition("## Flags")[2].partition("\n## ")[0]
    found = {}
    for row in re.findall(r"^\| (`--.*) \|$", text, re.MULTILINE):
        flags, default, effect = row.split(" | ")
        names = re.findall(r"`--(\w+)`", flags)
        defaults = default.split(", ") if len(names) > 1 else [default]
        found |= {name: (value, effect) for name, value in zip(names, defaults, strict=True)}
    return found


def test_the_reference_has_the_flags_and_defaults_of_the_code():
    expected = {}
    for flag, field in {flag: field for flag, _, field, _ in FLAGS}.items():
        value = ServeSettings.__dataclass_fields__[field].default
        number = f"{value:g}" if isinstance(value, float) else str(value)
        expected[flag] = BY_CIRCUMSTANCES[flag] if value is None else number
    expected |= {"condenser": BY_CIRCUMSTANCES["condenser"], "engine": "local"}
    assert {flag: default for flag, (default, _) in reference_flags().items()} == expected


@pytest.mark.parametrize(
    ("flag", "choices"),
    [
        ("accelerator", ACCELERATORS),
        ("dtype", DTYPES),
        ("reply", REPLIES),
        ("logging_level", LOGGING_LEVELS),
        ("log_format", LOG_FORMATS),
    ],
)
def test_help_and_reference_name_every_choice(flag, choices):
    _, effect = reference_flags()[flag]
    assert [name for name in choices if f"`{name}`" not in effect] == []
    found = re.split(r"[^a-z0-9]+", invoke("--help").output)
    assert [name for name in choices if name not in found] == []


def test_the_reference_has_the_limits_of_the_code():
    text = REFERENCE.read_text(encoding="utf-8")
    assert f"{MAX_BODIES} request bodies are in hand" in text
    assert f"fewer than {MAX_BODIES}\n  bodies, of {MAX_BODY_BYTES:,} bytes at most" in text
    assert f"at least {MIN_HANG_S:g} s" in text
    assert f"no step of loading for {LOAD_SILENCE_S:g} s" in text
