"""Opening a chain: names, the override, and outages within the deadline."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from dev_world import NETUID, wallet

from neural_condense_core.chain import connect
from neural_condense_core.chain.connect import open_chain, resolve_network
from neural_condense_core.chain.devchain.location import chain_path
from neural_condense_core.errors import ChainUnavailable, ConfigError


@pytest.mark.parametrize(
    "network", ["finney", "test", "local", "dev", "ws://127.0.0.1:9944", "wss://node.example:443"]
)
def test_networks_are_known_by_name_or_address(network):
    assert resolve_network(network) == network


@pytest.mark.parametrize("network", ["finey", "http://127.0.0.1", "ws:/x", ""])
def test_an_unknown_network_is_a_configuration_error(network):
    with pytest.raises(ConfigError, match="known are"):
        resolve_network(network)
    with pytest.raises(ConfigError):
        asyncio.run(open_chain(network, NETUID, None))


def test_a_near_miss_is_suggested():
    with pytest.raises(ConfigError, match="Did you mean 'finney'"):
        resolve_network("finey")


def test_the_override_replaces_the_network(monkeypatch):
    monkeypatch.setenv(connect.OVERRIDE_ENV, "dev")
    assert resolve_network("finney") == "dev"


def test_a_command_line_for_the_real_network_opens_the_development_chain(world, monkeypatch):
    monkeypatch.setenv(connect.OVERRIDE_ENV, "dev")
    monkeypatch.setenv("CONDENSE_DEV_CHAIN", str(world.path))
    world.register("miner")

    async def go():
        chain = await open_chain("finney", NETUID, wallet("miner"))
        roster = await chain.roster()
        await chain.close()
        return roster

    assert len(asyncio.run(go()).peers) == 2


def test_the_development_chain_lives_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CONDENSE_DEV_CHAIN", raising=False)
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path))
    assert chain_path() == tmp_path / "devchain.sqlite"
    monkeypatch.setenv("CONDENSE_DEV_CHAIN", str(tmp_path / "x"))
    assert chain_path() == tmp_path / "x"


def test_a_missing_development_chain_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("CONDENSE_DEV_CHAIN", str(tmp_path / "none"))
    began = time.monotonic()
    with pytest.raises(ChainUnavailable, match="condense dev init") as caught:
        asyncio.run(open_chain("dev", NETUID, None))
    assert caught.value.exit_code == 3
    assert time.monotonic() - began < 2


def test_an_endpoint_that_refuses_is_unavailable_within_the_deadline():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        endpoint = f"ws://127.0.0.1:{held.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ChainUnavailable, match="could not be reached within 2 s"):
            asyncio.run(open_chain(endpoint, NETUID, None, connect_timeout_s=2))
    assert time.monotonic() - began < 6


def test_an_endpoint_that_says_nothing_is_unavailable_within_the_deadline():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ChainUnavailable):
            asyncio.run(open_chain(endpoint, NETUID, None, connect_timeout_s=2))
    assert time.monotonic() - began < 6
