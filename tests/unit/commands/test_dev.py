"""``condense dev`` and ``condense register``, from an empty home to weights' first permit."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from neural_condense_core import cli
from neural_condense_core.commands.wallet_flags import open_or_make_wallet

RUNNER = CliRunner()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("CONDENSE_DEV_CHAIN", str(tmp_path / "chain" / "dev.sqlite"))
    monkeypatch.setenv("BT_WALLET_PATH", str(tmp_path / "wallets"))

    def go(*args: str):
        return RUNNER.invoke(cli.app, list(args))

    return go


def result_of(run, *args: str) -> dict:
    done = run(*args, "--json", "-")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_chain_from_nothing_to_a_permit(run, tmp_path):
    made = result_of(run, "dev", "init", "--netuid", "7", "--tempo", "10", "--block-time", "1000")
    assert made["chain"] == str(tmp_path / "chain" / "dev.sqlite")
    assert (made["subnet"]["netuid"], made["subnet"]["tempo"]) == (7, 10)
    assert [seat["uid"] for seat in made["subnet"]["seats"]] == [0]
    judge = ("--wallet.name", "judge", "--wallet.hotkey", "one")
    joined = result_of(run, "dev", "register", *judge)
    assert joined["subnet"]["seats"][1]["stake"] == 0
    result_of(run, "dev", "stake", "500", *judge)
    ahead = result_of(run, "dev", "advance", "10")
    seat = ahead["subnet"]["seats"][1]
    assert (seat["stake"], seat["permit"]) == (500.0, True)
    assert ahead["subnet"]["epochs"] == 1
    assert result_of(run, "dev", "show")["subnet"]["seats"] == ahead["subnet"]["seats"]


def test_no_secret_is_ever_shown(run, tmp_path):
    shown = "".join(
        run(*args).output
        for args in (
            ("dev", "init"),
            ("dev", "register", "-w", "new"),
            ("register", "--netuid", "52", "--network", "dev", "-w", "new", "--yes"),
            ("dev", "show"),
        )
    )
    files = [path for path in (tmp_path / "wallets").rglob("*") if path.is_file()]
    kept = [json.loads(path.read_text()) for path in files]
    names = ("secretPhrase", "secretSeed", "privateKey")
    secrets = [keys[name] for keys in kept for name in names if keys.get(name)]
    assert len(secrets) >= 4
    assert not [secret for secret in secrets if secret in shown]


def test_wallets_that_are_there_are_kept(run, tmp_path):
    run("dev", "init")
    run("dev", "register", "-w", "mine")
    before = {
        path: path.read_bytes() for path in (tmp_path / "wallets").rglob("*") if path.is_file()
    }
    assert run("dev", "init", "--force").exit_code == 0
    assert run("dev", "register", "-w", "mine").exit_code == 0
    assert {path: path.read_bytes() for path in before} == before


def test_the_register_command_pays_from_the_coldkey(run, tmp_path):
    run("dev", "init")
    run("dev", "register", "-w", "mine", "-H", "first")
    open_or_make_wallet("mine", "second", tmp_path / "wallets")
    again = ("register", "--netuid", "52", "--subtensor.network", "dev", "-w", "mine")
    done = result_of(run, *again, "--wallet.key", "second", "--yes")
    assert done["outcome"]["ok"]
    assert (done["uid"], done["price_tao"]) == (2, 0.1)
    known = result_of(run, *again, "--wallet.key", "second")
    assert (known["uid"], known["price_tao"]) == (2, None), "and nobody was asked"


def test_registering_asks_before_it_pays(run, tmp_path):
    run("dev", "init")
    run("dev", "register", "-w", "mine")
    open_or_make_wallet("mine", "second", tmp_path / "wallets")
    args = ["register", "--netuid", "52", "-n", "dev", "-w", "mine", "-H", "second"]
    refused = RUNNER.invoke(cli.app, args, input="n\n")
    assert refused.exit_code == 1
    assert "0.1 TAO" in refused.output
    assert len(result_of(run, "dev", "show")["subnet"]["seats"]) == 2
    assert RUNNER.invoke(cli.app, args, input="y\n").exit_code == 0
    assert len(result_of(run, "dev", "show")["subnet"]["seats"]) == 3


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("dev", "init"), 2, "--force"),
        (("dev", "show", "--netuid", "9"), 2, "[52]"),
        (("dev", "stake", "1", "-w", "nobody"), 2, "btcli wallet new-coldkey"),
        (("dev", "stake", "1", "-w", "a/b"), 2, "names of files"),
        (("dev", "advance", "--", "-1"), 2, "blocks"),
        (("dev", "init", "--force", "--block-time", "0"), 2, "block time"),
        (("register", "--netuid", "52", "-n", "dev", "-w", "nobody"), 2, "new-coldkey"),
        (("register", "--netuid", "9", "-n", "dev", "-w", "dev-owner"), 3, "no subnet 9"),
        (("register", "--netuid", "52", "-n", "dvv", "-w", "dev-owner"), 2, "Did you mean 'dev'"),
    ],
)
def test_what_is_wrong_is_said(run, args, code, said):
    run("dev", "init")
    done = run(*args)
    assert done.exit_code == code, done.output
    assert said in done.output.replace("\n", " ")
    assert "Traceback" not in done.output


@pytest.mark.parametrize("args", [("show",), ("advance", "1"), ("register",)])
def test_without_a_chain_the_way_to_one_is_said(run, args):
    done = run("dev", *args)
    assert done.exit_code == 3
    assert "condense dev init" in done.output


def test_a_registration_without_money_falls_short(run, tmp_path):
    run("dev", "init")
    open_or_make_wallet("poor", "default", tmp_path / "wallets")
    done = run("register", "--netuid", "52", "-n", "dev", "-w", "poor", "-y")
    assert done.exit_code == 3
    assert "insufficient_balance" in done.output
