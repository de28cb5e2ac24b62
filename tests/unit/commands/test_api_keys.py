"""``condense keys`` and ``condense explain`` over a validator's folder."""

import json

import pytest
from typer.testing import CliRunner

from neural_condense_core.api_keys import FILE_NAME as KEYS_FILE
from neural_condense_core.api_keys import ApiUsers
from neural_condense_core.cli import app
from neural_condense_core.records import FILE_NAME, Records
from neural_condense_core.records.rows import ReplyRow, ScoreRow
from neural_condense_core.validator.state import State


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "dev" / "netuid_52" / "hk"
    with Records(found / FILE_NAME) as records:
        State(records)
        with records.transaction() as connection:
            made = records.open_round(connection, "research", 1, 1, 1.0)
            records.close_round(connection, made, 2.0)
            replies = [ReplyRow(made, "miner", 7, "0", "synthetic", "timeout", "timeout")]
            scores = [ScoreRow(made, "miner", 7, "research", None, None, None, None, 0.0, 0.0)]
            records.write_round(connection, replies, scores)
    return found


def run(*words):
    return CliRunner().invoke(app, list(words))


def test_a_key_is_made_listed_and_revoked(folder, tmp_path):
    done = run("keys", "add", "alice", "--quota", "5", "--state", str(tmp_path), "--json", "-")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    with ApiUsers(folder / KEYS_FILE) as users:
        assert users.by_token(made["key"]).name == "alice"
    listed = json.loads(run("keys", "list", "--state", str(folder), "--json", "-").stdout)
    assert [(one["id"], one["quota"], one["revoked"]) for one in listed["keys"]] == [
        (made["id"], 5, False)
    ]
    assert "key" not in listed["keys"][0]
    assert run("keys", "revoke", made["id"], "--state", str(folder)).exit_code == 0
    assert run("keys", "revoke", made["id"], "--state", str(folder)).exit_code == 2
    listed = json.loads(run("keys", "list", "--state", str(folder), "--json", "-").stdout)
    assert listed["keys"][0]["revoked"]


def test_the_key_alone_goes_to_stdout(folder):
    done = run("keys", "add", "alice", "--state", str(folder))
    assert done.stdout.startswith("nck_")
    assert len(done.stdout.split()) == 1


def test_no_state_and_too_much_state_say_so(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("keys", "list", "--state", str(empty)).exit_code == 2
    Records(tmp_path / "dev" / "netuid_52" / "other" / FILE_NAME).close()
    done = run("keys", "list", "--state", str(tmp_path))
    assert done.exit_code == 2
    assert "other" in done.stderr


@pytest.mark.parametrize("which", [("--hotkey", "miner"), ("--uid", "7")])
def test_explain_says_why(folder, which):
    done = run("explain", *which, "--state", str(folder))
    assert done.exit_code == 0, done.output
    assert "1 x timeout (no answer within the tier's timeout), which scores 0" in done.stderr
    found = json.loads(run("explain", *which, "--state", str(folder), "--json", "-").stdout)
    assert found["hotkey"] == "miner"


@pytest.mark.parametrize(
    "words",
    [(), ("--hotkey", "a", "--uid", "1"), ("--uid", "99"), ("--url", "http://127.0.0.1:1")],
)
def test_an_unclear_question_is_exit_2(folder, words):
    assert run("explain", *words, "--state", str(folder)).exit_code == 2
