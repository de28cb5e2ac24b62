import asyncio
import socket

import httpx
import pytest
from miner_parts import HIDDEN, Backend, write_wallet

from neural_condense_core.config import MinerSettings
from neural_condense_core.errors import ConfigError
from neural_condense_core.miner import checks
from neural_condense_core.miner.checks import choose_tier, prepare

TIERS = """
[tiers.my-tier]
incentive_share = 0.0
requests_per_epoch = 40
timeout_s = 2.0
max_condensed_tokens = 32
max_context_chars = 400
target_model = "tiny"
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def settings(tmp_path):
    """Return settings of a miner that can start, with single ones changed."""
    write_wallet(tmp_path / "wallets")
    (tmp_path / "tiers.toml").write_text(TIERS)

    def make(**changes):
        good = {
            "netuid": 52,
            "network": "dev",
            "wallet_name": "my_wallet",
            "wallet_hotkey": "my_key",
            "wallet_path": tmp_path / "wallets",
            "tiers_file": tmp_path / "tiers.toml",
            "tier": "my-tier",
            "axon_port": free_port(),
        }
        return MinerSettings(**{**good, **changes})

    return make


def faults(settings, backend=None):
    with pytest.raises(ConfigError) as caught:
        prepare(settings, transport=(backend or Backend()).transport)
    assert caught.value.exit_code == 2
    return caught.value.detail["faults"], caught.value.message


def test_a_miner_that_can_start(settings):
    found = prepare(settings(), transport=Backend().transport)
    with found.listener:
        assert found.tier.name == "my-tier"
        assert found.fit.hidden_size == HIDDEN
        assert found.endpoint.ip == "127.0.0.1"
        assert found.listener.getsockname()[1] == found.endpoint.port
        assert found.key.ss58_address == found.wallet.hotkey.ss58_address


def test_all_that_is_wrong_is_told_at_once_with_what_to_run(settings, monkeypatch):
    monkeypatch.setattr(checks, "clock_fault", lambda: "the clock says 1970; set it")
    gone = Backend()

    async def refuse(asked):
        raise httpx.ConnectError("refused")

    gone.transport = httpx.MockTransport(refuse)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found, message = faults(
            settings(
                tier="my-teir",
                wallet_hotkey="none",
                external_ip="nowhere",
                axon_port=taken.getsockname()[1],
            ),
            gone,
        )
    assert list(found) == ["tier", "wallet", "clock", "backend", "address", "port"]
    assert message.startswith("this miner cannot start; 6 things to mend:")
    for told in (
        "did you mean 'my-tier'?",
        "research: contexts up to 1,536 characters",
        "my-tier: contexts up to 400 characters",
        "btcli wallet new-hotkey -w my_wallet -H none",
        "icae_app.py --port 8080",
        "--axon.external_ip must be a literal address",
        "--axon.port or --axon.ip",
    ):
        assert told in message


def test_one_thing_is_one_thing(settings):
    found, message = faults(settings(wallet_name="other"))
    assert list(found) == ["wallet"]
    assert "1 thing to mend" in message


def test_a_failed_start_leaves_the_port_free(settings):
    made = settings(tier=None)
    faults(made)
    with socket.create_server(("127.0.0.1", made.axon_port)):
        pass


def test_no_tier_lists_the_tiers(settings):
    with pytest.raises(ConfigError, match=r"--miner\.tier is missing"):
        choose_tier(settings(tier=None))
    with pytest.raises(ConfigError, match="CONDENSE_TIERS"):
        choose_tier(settings(tier="my-tier", tiers_file=None))


def test_a_tier_file_that_is_wrong_is_a_fault_of_the_tier(settings, tmp_path):
    (tmp_path / "bad.toml").write_text("[tiers.x]\nnonsense = 1")
    found, _ = faults(settings(tiers_file=tmp_path / "bad.toml"))
    assert "nonsense" in found["tier"]


@pytest.mark.parametrize("name", ["../x", "", "."])
def test_names_of_wallets_are_no_paths(settings, name):
    found, _ = faults(settings(wallet_name=name))
    assert "names of files" in found["wallet"]


def test_a_key_file_that_is_none(settings, tmp_path):
    (tmp_path / "wallets" / "my_wallet" / "hotkeys" / "my_key").write_text("nonsense")
    found, message = faults(settings())
    assert "cannot be opened" in found["wallet"]
    assert "nonsense" not in message


def test_a_slow_backend_is_said_to_be_slow(settings, caplog):
    backend = Backend()
    handle = backend.handle

    async def slow(request):
        if request.method == "POST":
            await asyncio.sleep(0.05)
        return await handle(request)

    backend.transport = httpx.MockTransport(slow)
    path = settings().tiers_file
    path.write_text(TIERS.replace("timeout_s = 2.0", "timeout_s = 0.01"))
    with prepare(settings(), transport=backend.transport).listener:
        pass
    assert "too slow" in caplog.text
