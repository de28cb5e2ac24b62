"""Settings of the nodes: what a miner and a validator can be told, frozen once it is read.

Where it sits: ``neurons/miner.py`` and ``neurons/validator.py`` fill these from their command lines
with ``flags.load_settings``; everything below is handed a value and reads no environment.

Design decisions

* The names are the specification's; those that older documents used are aliases of them.
* Variables are btcli's where it has one: ``BT_WALLET``, ``BT_WALLET_HOTKEY``, ``BT_WALLET_PATH``,
  ``BT_NETWORK``.
* ``CONDENSE_CHAIN_OVERRIDE=dev`` turns a command line meant for a real network into one for the
  development chain, without a change to it.
* Listening is on loopback unless the node is there to be reached: a miner's axon on a real network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import platformdirs

from neural_condense_core.constants import (
    DEV_NETWORK,
    MAX_TIMEOUT_S,
    TARGET_MODEL,
    TierConfig,
    load_tiers,
    tiers_for_network,
)
from neural_condense_core.errors import ConfigError
from neural_condense_core.flags import Flag

LOGGING_LEVELS = ("debug", "info", "warning", "error")
WIRE_DTYPES = ("float16", "float32", "bfloat16")
DEFAULT_MIN_STAKE = 10_000.0
"""Stake weight, TAO, below which a validator is not served on a real network."""
DEFAULT_AXON_PORT = 8091
LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a miner's axon is there to be reached
MAX_PORT = 65_535

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_HOST = re.compile(r"[A-Za-z0-9.:_-]+")


def default_state_dir() -> Path:
    """Return the folder of what nodes must remember, of this user."""
    return Path(platformdirs.user_data_dir("neural-condense", appauthor=False))


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What every node is told.

    Parameters
    ----------
    netuid : the subnet
    network : chain network by name, or a ``ws://`` address
    chain_override : replaces ``network``
    wallet_name, wallet_hotkey, wallet_path : where the hotkey is
    tiers_file : TOML laid over the tiers
    state_dir : folder of what must survive a restart; None = the user's
    logging_level : one of ``LOGGING_LEVELS``
    """

    netuid: Annotated[int, Flag("netuid", "the subnet's number", least=0, most=MAX_PORT)]
    network: Annotated[
        str,
        Flag(
            "subtensor.network",
            "finney, test, local, dev, or a ws:// address",
            aliases=("subtensor.chain_endpoint",),
            env=("BT_NETWORK",),
        ),
    ] = "finney"
    chain_override: Annotated[
        str | None, Flag("chain_override", "replaces the network", is_env_only=True)
    ] = None
    wallet_name: Annotated[str, Flag("wallet.name", "name of the wallet", env=("BT_WALLET",))] = (
        "default"
    )
    wallet_hotkey: Annotated[
        str,
        Flag("wallet.hotkey", "its hotkey", aliases=("wallet.key",), env=("BT_WALLET_HOTKEY",)),
    ] = "default"
    wallet_path: Annotated[
        Path, Flag("wallet.path", "folder of the wallets", env=("BT_WALLET_PATH",))
    ] = Path("~/.bittensor/wallets")
    tiers_file: Annotated[
        Path | None, Flag("tiers", "TOML file that changes tiers or adds some")
    ] = None
    state_dir: Annotated[
        Path | None,
        Flag("state_dir", "folder of what survives a restart", aliases=("logging.logging_dir",)),
    ] = None
    logging_level: Annotated[
        str,
        Flag(
            "logging.level",
            "how much is logged",
            choices=LOGGING_LEVELS,
            shorthands={
                "logging.debug": "debug", "logging.trace": "debug", "logging.info": "info",
            },
        ),
    ] = "info"  # fmt: skip

    @property
    def effective_network(self) -> str:
        """The network that is really spoken to."""
        return self.chain_override or self.network

    @property
    def is_dev(self) -> bool:
        """Whether that is the development chain."""
        return self.effective_network == DEV_NETWORK

    @property
    def wallet_folder(self) -> Path:
        """Folder of the wallets, ``~`` resolved."""
        return self.wallet_path.expanduser()

    def tiers(self) -> Mapping[str, TierConfig]:
        """Return the tiers as this network plays them; what the tier file says comes last.

        A fault of the file is a ``ConfigError``.
        """
        network = self.effective_network
        known = tiers_for_network(network)
        if self.tiers_file is None:
            return known
        merged = load_tiers(self.tiers_file, known)
        # A tier of the file's own that names no model gets the network's.
        silent = {
            name: tier
            for name, tier in merged.items()
            if name not in known and tier.target_model == TARGET_MODEL
        }
        return {**merged, **tiers_for_network(network, silent)}

    def node_dir(self, hotkey: str) -> Path:
        """Return the folder of one hotkey's state on one subnet.

        Parameters
        ----------
        hotkey : ss58 address
        """
        network = re.sub(r"[^A-Za-z0-9._-]+", "_", self.effective_network)
        root = self.state_dir or default_state_dir()
        return root / network / f"netuid_{self.netuid}" / hotkey


@dataclass(frozen=True, kw_only=True)
class MinerSettings(NodeSettings):
    """What a miner node is told.

    Parameters
    ----------
    tier : the one it serves; None = not said, which the start-up checks report
    backend_host, backend_port, api_path : where its condensing backend is
    backend_wait_s : how long a backend that is still loading is waited for at start
    max_concurrent_requests : above it 429
    dtype : of the answers to validators; one of ``WIRE_DTYPES``
    min_stake : callers below it are refused, TAO; None = by network
    axon_ip, axon_port : where it listens; None = loopback on the development chain, else everywhere
    external_ip, external_port : what it publishes; None = found out, and ``axon_port``
    """

    tier: Annotated[str | None, Flag("miner.tier", "tier to serve", env=("MINER_TIER",))] = None
    backend_host: Annotated[
        str, Flag("miner.backend_host", "host of the backend", aliases=("miner.backend.host",))
    ] = "localhost"
    backend_port: Annotated[
        int,
        Flag(
            "miner.backend_port",
            "port of the backend",
            aliases=("miner.backend.port",),
            least=1,
            most=MAX_PORT,
        ),
    ] = 8080
    api_path: Annotated[
        str, Flag("miner.api_path", "path of the backend's condensing endpoint")
    ] = "/condense"
    backend_wait_s: Annotated[
        float,
        Flag("miner.backend_wait", "seconds that a loading backend has", least=0, most=3600),
    ] = 180.0
    max_concurrent_requests: Annotated[
        int,
        Flag("miner.max_concurrent_requests", "requests in hand at once", least=1, most=4096),
    ] = 64
    dtype: Annotated[str, Flag("miner.dtype", "numbers of the answers", choices=WIRE_DTYPES)] = (
        "float16"
    )
    min_stake: Annotated[
        float | None,
        Flag(
            "miner.min_stake",
            f"least stake of a caller, TAO; default {DEFAULT_MIN_STAKE:g}, 0 on the dev network",
            env=("MIN_STAKE",),
            least=0,
        ),
    ] = None
    axon_ip: Annotated[
        str | None, Flag("axon.ip", "address to listen on; default all, loopback on dev")
    ] = None
    axon_port: Annotated[int, Flag("axon.port", "port to listen on", least=1, most=MAX_PORT)] = (
        DEFAULT_AXON_PORT
    )
    external_ip: Annotated[
        str | None, Flag("axon.external_ip", "literal address that validators reach")
    ] = None
    external_port: Annotated[
        int | None,
        Flag("axon.external_port", "port that validators reach", least=1, most=MAX_PORT),
    ] = None

    def __post_init__(self) -> None:
        """Check what concerns text.

        Raises
        ------
        ConfigError
            A host or path is not one.
        """
        _check_host("--miner.backend_host", self.backend_host)
        if not _PATH.fullmatch(self.api_path):
            raise ConfigError(f"--miner.api_path must look like /condense; got {self.api_path!r}")

    @property
    def backend_url(self) -> str:
        """Where the backend is."""
        return f"http://{in_url(self.backend_host)}:{self.backend_port}"

    @property
    def listen_ip(self) -> str:
        """Address to listen on."""
        return self.axon_ip or (LOOPBACK if self.is_dev else EVERYWHERE)

    @property
    def least_stake(self) -> float:
        """Stake below which a caller is refused, TAO."""
        if self.min_stake is not None:
            return self.min_stake
        return 0.0 if self.is_dev else DEFAULT_MIN_STAKE


@dataclass(frozen=True, kw_only=True)
class ValidatorSettings(NodeSettings):
    """What a validator node is told.

    Parameters
    ----------
    score_host, score_port : where the scoring service is
    score_token_file : file with the service's bearer token
    gate_host, gate_port : where the organic API listens; port 0 = it is off
    texts : what challenges are made from; None = generated and installed text
    is_dry_run : whether weights are shown instead of set
    round_timeout_s : longest round, seconds
    contexts_per_round : contexts that a miner gets in one round; content recovery swaps them
    miners_per_round : how many are asked side by side
    ask_interval_s : least time between two rounds of a miner; None = spread over the epoch
    ask_gap_s : mean time before each context of a round, so that tests come as users do
    """

    score_host: Annotated[
        str,
        Flag(
            "validator.score_backend.host",
            "host of the scoring service",
            aliases=(
                "validator.score_backend_host",
                "validator.scoring_backend.host",
                "validator.backend.host",
                "validator.backend_host",
                "miner.backend.host",
            ),
        ),
    ] = "localhost"
    score_port: Annotated[
        int,
        Flag(
            "validator.score_backend.port",
            "port of the scoring service",
            aliases=(
                "validator.score_backend_port",
                "validator.scoring_backend.port",
                "validator.backend.port",
                "validator.backend_port",
                "miner.backend.port",
            ),
            least=1,
            most=MAX_PORT,
        ),
    ] = 8089
    score_token_file: Annotated[
        Path | None,
        Flag("validator.score_backend.token_file", "file with the scoring service's token"),
    ] = None
    gate_host: Annotated[
        str, Flag("validator.gate_host", "address that the organic API listens on")
    ] = LOOPBACK
    gate_port: Annotated[
        int, Flag("validator.gate_port", "port of the organic API; 0 = off", least=0, most=MAX_PORT)
    ] = 0
    texts: Annotated[
        str | None,
        Flag("validator.texts", "parquet file or dataset that challenges are made from"),
    ] = None
    is_dry_run: Annotated[
        bool, Flag("validator.dry_run", "show the weights instead of setting them")
    ] = False
    round_timeout_s: Annotated[
        float,
        Flag("validator.round_timeout", "longest round, seconds", least=1, most=MAX_TIMEOUT_S),
    ] = 600.0
    contexts_per_round: Annotated[
        int, Flag("validator.contexts_per_round", "contexts a miner and round", least=2, most=10)
    ] = 4
    miners_per_round: Annotated[
        int, Flag("validator.miners_per_round", "miners asked side by side", least=1, most=1024)
    ] = 16
    ask_interval_s: Annotated[
        float | None,
        Flag(
            "validator.ask_interval",
            "least seconds between two rounds of a miner; default spread over the epoch",
            least=0,
            most=86_400,
        ),
    ] = None
    ask_gap_s: Annotated[
        float,
        Flag(
            "validator.ask_gap", "mean seconds before a context, drawn at random", least=0, most=15
        ),
    ] = 2.0

    def __post_init__(self) -> None:
        """Check what concerns text; a wrong host is a ``ConfigError``."""
        _check_host("--validator.score_backend.host", self.score_host)
        _check_host("--validator.gate_host", self.gate_host)

    @property
    def score_url(self) -> str:
        """Where the scoring service is."""
        return f"http://{in_url(self.score_host)}:{self.score_port}"


def in_url(host: str) -> str:
    """Return a host as it stands in a URL: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _check_host(flag: str, host: str) -> None:
    if not _HOST.fullmatch(host):
        raise ConfigError(f"{flag} must be a host name or an address; got {host!r}")
