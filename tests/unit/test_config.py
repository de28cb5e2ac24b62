from pathlib import Path

import pytest

from neural_condense_core.config import MinerSettings, ValidatorSettings, in_url
from neural_condense_core.constants import EMBEDDED_TARGET_MODEL, TARGET_MODEL
from neural_condense_core.errors import ConfigError
from neural_condense_core.flags import load_settings

SPECIFIED = (
    "--netuid 52 --subtensor.network finney --wallet.name my_wallet --wallet.key my_key "
    "--miner.tier my-tier --miner.backend_host localhost --miner.backend_port 8080"
)
MY_TIER = """
[tiers.my-tier]
incentive_share = 0.0
requests_per_epoch = 100
timeout_s = 4.0
max_condensed_tokens = 128
max_context_chars = 1000
"""


def miner(line, **environ):
    return load_settings(MinerSettings, line.split(), environ, prog="p", description="d")


def validator(line, **environ):
    return load_settings(ValidatorSettings, line.split(), environ, prog="p", description="d")


def test_the_line_of_the_specification():
    found = miner(SPECIFIED)
    assert found == MinerSettings(
        netuid=52,
        network="finney",
        wallet_name="my_wallet",
        wallet_hotkey="my_key",
        tier="my-tier",
        backend_host="localhost",
        backend_port=8080,
    )
    assert found.backend_url == "http://localhost:8080"


def test_trap_34_spellings_of_older_documents():
    found = miner("--netuid 1 --miner.backend.host h --miner.backend.port 5 --wallet.hotkey k")
    assert (found.backend_host, found.backend_port, found.wallet_hotkey) == ("h", 5, "k")
    for prefix in ("validator.score_backend.", "validator.scoring_backend.", "validator.backend."):
        found = validator(f"--netuid 1 --{prefix}host h --{prefix}port 5")
        assert (found.score_host, found.score_port) == ("h", 5)


def test_trap_34_what_the_original_documents_and_did_not_parse_is_no_silent_default():
    with pytest.raises(ConfigError, match=r"--miner\.backend_prot; did you mean"):
        miner("--netuid 1 --miner.backend_prot 8080")


def test_trap_27_there_is_no_test_flag_that_does_nothing():
    with pytest.raises(ConfigError, match="unknown flag --whitelist_uids"):
        miner("--netuid 1 --whitelist_uids 1,2")


def test_trap_37_the_gate_is_off_unless_it_is_asked_for():
    assert validator("--netuid 1").gate_port == 0
    assert validator("--netuid 1").gate_host == "127.0.0.1"


def test_btclis_variables():
    found = miner(
        "--netuid 1", BT_WALLET="w", BT_WALLET_HOTKEY="h", BT_WALLET_PATH="/p", BT_NETWORK="test"
    )
    assert (found.wallet_name, found.wallet_hotkey) == ("w", "h")
    assert (found.wallet_path, found.network) == (Path("/p"), "test")


def test_the_override_turns_a_real_line_into_one_for_the_development_chain():
    found = miner(SPECIFIED, CONDENSE_CHAIN_OVERRIDE="dev")
    assert (found.network, found.effective_network, found.is_dev) == ("finney", "dev", True)
    assert (found.listen_ip, found.least_stake) == ("127.0.0.1", 0.0)
    real = miner(SPECIFIED)
    assert (real.listen_ip, real.least_stake) == ("0.0.0.0", 10_000.0)


def test_what_is_told_wins_over_the_network():
    found = miner(
        "--netuid 1 --axon.ip 10.0.0.1 --miner.min_stake 5", CONDENSE_CHAIN_OVERRIDE="dev"
    )
    assert (found.listen_ip, found.least_stake) == ("10.0.0.1", 5.0)


def test_tiers_by_network(tmp_path):
    assert miner("--netuid 1").tiers()["research"].target_model == TARGET_MODEL
    assert miner("--netuid 1 --subtensor.network dev").tiers()["research"].target_model == (
        EMBEDDED_TARGET_MODEL
    )


@pytest.mark.parametrize(
    ("network", "model"), [("finney", TARGET_MODEL), ("dev", EMBEDDED_TARGET_MODEL)]
)
def test_a_tier_of_a_file_that_names_no_model_gets_the_networks(tmp_path, network, model):
    path = tmp_path / "tiers.toml"
    path.write_text(MY_TIER)
    tiers = miner(f"--netuid 1 --subtensor.network {network}", CONDENSE_TIERS=str(path)).tiers()
    assert tiers["my-tier"].target_model == model
    assert list(tiers)[:3] == ["research", "inference_0", "inference_1"]


def test_a_tier_of_a_file_keeps_the_model_that_it_names(tmp_path):
    path = tmp_path / "tiers.toml"
    path.write_text(f'{MY_TIER}target_model = "mine"\n')
    found = miner(f"--netuid 1 --subtensor.network dev --tiers {path}").tiers()
    assert found["my-tier"].target_model == "mine"


def test_the_folder_of_a_nodes_state(tmp_path):
    found = miner(f"--netuid 52 --subtensor.network ws://a:1/b --state_dir {tmp_path}")
    assert found.node_dir("5Hot") == tmp_path / "ws_a_1_b" / "netuid_52" / "5Hot"


@pytest.mark.parametrize(
    "line",
    [
        "--miner.backend_host http://x",
        "--miner.backend_host a/b",
        "--miner.api_path condense",
        "--miner.backend_port 0",
        "--axon.port 70000",
        "--miner.dtype int8",
        "--miner.min_stake -1",
    ],
)
def test_wrong_values_are_told_by_flag(line):
    with pytest.raises(ConfigError, match=line.split()[0]):
        miner(f"--netuid 1 {line}")


def test_hosts_in_urls():
    assert in_url("::1") == "[::1]"
    assert in_url("localhost") == "localhost"
    assert validator("--netuid 1").score_url == "http://localhost:8089"
