"""The scoring service's flags."""

import pytest

from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.errors import ConfigError
from neural_condense_core.scoring.settings import (
    CPU_BASELINES,
    TOKEN_VARIABLE,
    ScoringSettings,
    is_loopback,
    read_token,
)

TOKEN = "x" * 32


# Trap 23: it listened on all interfaces without authentication.
def test_trap_23_loopback_by_default_and_a_token_elsewhere():
    assert is_loopback(ScoringSettings().host)
    with pytest.raises(ConfigError, match="--token_file"):
        ScoringSettings(host="0.0.0.0")
    assert ScoringSettings(host="0.0.0.0", token=TOKEN).token == TOKEN


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.8.8", True),
     ("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("example.org", False)],
)  # fmt: skip
def test_which_addresses_are_loopback(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "changes",
    [{"port": 70_000}, {"timeout_s": 0}, {"timeout_s": float("nan")}, {"dtype": "int4"},
     {"max_replies": 0}, {"threads": 0}, {"baselines": "head-tails"}, {"baselines": ","},
     {"perturbations": "auto"}, {"logging_level": "loud"}, {"max_body_bytes": 1}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused(changes):
    with pytest.raises(ConfigError):
        ScoringSettings(**changes)


def test_baselines_by_name_number_or_device():
    assert ScoringSettings().baseline_names == CPU_BASELINES
    assert ScoringSettings(device="cuda:0").baseline_names == BASELINES
    assert ScoringSettings(baselines="all").baseline_names == BASELINES
    assert ScoringSettings(baselines="none").baseline_names == ()
    assert ScoringSettings(baselines="spans, stride").baseline_names == ("spans", "stride")


def test_the_token_is_not_shown():
    assert TOKEN not in repr(ScoringSettings(token=TOKEN))


def test_the_token_comes_from_a_file_or_the_environment(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path, {TOKEN_VARIABLE: "y" * 32}) == TOKEN
    assert read_token(None, {TOKEN_VARIABLE: "y" * 32}) == "y" * 32
    assert read_token(None, {}) is None


@pytest.mark.parametrize("text", ["", "short", "x" * 2000, "é" * 32])
def test_a_token_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        read_token(path, {})
    with pytest.raises(ConfigError):
        read_token(tmp_path / "missing", {})


def test_limits_follow_the_flags():
    limits = ScoringSettings(max_body_bytes=2048, max_replies=3, max_challenges=2).limits
    assert (limits.max_bytes, limits.max_header_bytes) == (2048, 2048)
    assert (limits.max_replies, limits.max_challenges) == (3, 2)
