import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.flags import Flag, describe, load_settings, nearest


@dataclass(frozen=True, kw_only=True)
class Settings:
    netuid: Annotated[int, Flag("netuid", "the subnet", least=0, most=100)]
    host: Annotated[
        str, Flag("node.host", "where", aliases=("node.old.host",), env=("N_HOST",))
    ] = "here"
    share: Annotated[float | None, Flag("share", "of it")] = None
    folder: Annotated[Path | None, Flag("folder", "where to")] = None
    is_dry: Annotated[bool, Flag("dry_run", "do nothing")] = False
    level: Annotated[
        str, Flag("level", "how loud", choices=("low", "high"), shorthands={"loud": "high"})
    ] = "low"
    hidden: Annotated[str | None, Flag("hidden", "not on a line", is_env_only=True)] = None


def load(line, **environ):
    return load_settings(Settings, line.split(), environ, prog="node", description="A node.")


def fault(line, **environ):
    with pytest.raises(ConfigError) as caught:
        load(line, **environ)
    assert caught.value.exit_code == 2
    return caught.value.message


def test_defaults():
    assert load("--netuid 5") == Settings(netuid=5)


def test_every_flag_has_an_effect():
    line = "--netuid=5 --node.host there --share 0.5 --folder /x --dry_run --level high"
    assert load(line) == Settings(
        netuid=5, host="there", share=0.5, folder=Path("/x"), is_dry=True, level="high"
    )


def test_names_by_alias_shorthand_and_dash():
    found = load("--netuid 5 --node.old.host there --loud --dry-run")
    assert (found.host, found.level, found.is_dry) == ("there", "high", True)


def test_a_value_keeps_its_dashes():
    assert load("--netuid 5 --node.host=a-b_c").host == "a-b_c"
    assert load("--netuid 5 --node.host a-b_c").host == "a-b_c"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CONDENSE_NODE_HOST": "x"}, "x"),
        ({"N_HOST": "y"}, "y"),
        ({"N_HOST": "y", "CONDENSE_NODE_HOST": "x"}, "y"),
        ({"N_HOST": ""}, "here"),
    ],
)
def test_the_environment_stands_behind_the_flags(environ, expected):
    assert load("--netuid 5", **environ).host == expected
    assert load("--netuid 5 --node.host z", **environ).host == "z"


def test_what_is_only_in_the_environment():
    assert load("--netuid 5", CONDENSE_HIDDEN="s").hidden == "s"
    assert "--hidden" in fault("--netuid 5 --hidden s")


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("off", False)])
def test_truth_in_the_environment(text, value):
    assert load("--netuid 5", CONDENSE_DRY_RUN=text).is_dry is value


def test_trap_34_unknown_flags_are_errors_with_a_suggestion():
    assert fault("--netuid 5 --node.hsot x") == (
        "unknown flag --node.hsot; did you mean '--node.host'?"
    )
    assert fault("--netuid 5 --whitelist_uids 1,2") == "unknown flag --whitelist_uids"
    assert "--node.hos" in fault("--netuid 5 --node.hos x"), "no abbreviations"


def test_all_faults_at_once():
    assert fault("--shaer 2 --share x --level mid").splitlines() == [
        "unknown flag --shaer; did you mean '--share'?",
        "--netuid is missing: the subnet",
        "--share must be a number, got 'x'",
        "--level must be one of low, high; got 'mid'",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--netuid 1.5", "--netuid must be a whole number"),
        ("--netuid -1", "--netuid must be from 0 to 100"),
        ("--netuid 101", "--netuid must be from 0 to 100"),
        ("--netuid", "--netuid: expected one argument"),
        ("--netuid 5 word", "unexpected argument 'word'"),
        ("--netuid 5 --share nan", "--share must be from"),
        ("--netuid 5 --node.host a --node.old.host b", "'b' contradicts 'a'"),
        ("--netuid 5 --level low --loud", "'high' contradicts 'low'"),
    ],
)
def test_faults_name_the_flag(line, message):
    assert message in fault(line)


def test_faults_name_the_variable():
    assert fault("", CONDENSE_NETUID="x").startswith("CONDENSE_NETUID must be a whole number")
    assert fault("--netuid 5", CONDENSE_DRY_RUN="perhaps").startswith("CONDENSE_DRY_RUN must be")
    assert fault("--netuid 5", N_HOST=" ").startswith("N_HOST must not be empty")


def test_the_same_value_twice_is_no_contradiction():
    assert load("--netuid 5 --node.host a --node.old.host a").host == "a"


def test_print_config(capsys):
    with pytest.raises(SystemExit) as caught:
        load("--netuid 5 --print-config", N_HOST="y")
    assert caught.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["netuid"], shown["node.host"], shown["folder"]) == (5, "y", None)
    assert list(shown) == list(describe(Settings(netuid=5)))


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    flags = ("--netuid", "--node.host", "--node.old.host", "--share", "--loud", "--print_config")
    assert all(flag in text for flag in flags)
    assert "hidden" not in text


def test_nearest():
    assert nearest("--axon.prt", ["--axon.port", "--netuid"]) == "; did you mean '--axon.port'?"
    assert nearest("--zzz", ["--axon.port"]) == ""
