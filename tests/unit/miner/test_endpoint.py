import pytest

from neural_condense_core.config import MinerSettings
from neural_condense_core.errors import ConfigError
from neural_condense_core.miner.endpoint import Endpoint, find_endpoint, own_address


def find(look_up=lambda: "10.0.0.5", **settings):
    return find_endpoint(MinerSettings(netuid=1, **settings), look_up)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"external_ip": "203.0.114.7"}, "203.0.114.7:8091"),
        ({"external_ip": "203.0.114.7", "external_port": 443}, "203.0.114.7:443"),
        ({"external_ip": "2A00:1450::0001"}, "[2a00:1450::1]:8091"),
        ({"network": "dev", "axon_port": 9}, "127.0.0.1:9"),
        ({"network": "dev", "axon_ip": "127.0.0.3"}, "127.0.0.3:8091"),
        ({"network": "dev", "axon_ip": "0.0.0.0"}, "127.0.0.1:8091"),
        ({"network": "finney", "chain_override": "dev"}, "127.0.0.1:8091"),
        ({"network": "local"}, "127.0.0.2:8091"),
        ({"network": "local", "external_ip": "192.168.1.4"}, "192.168.1.4:8091"),
        ({"network": "dev", "external_ip": "10.0.0.9"}, "10.0.0.9:8091"),
        ({"network": "ws://127.0.0.1:9944", "external_ip": "127.0.0.2"}, "127.0.0.2:8091"),
        ({"network": "ws://[::1]:9944", "external_ip": "10.0.0.9"}, "10.0.0.9:8091"),
        ({"network": "ws://localhost:9944", "external_ip": "10.0.0.9"}, "10.0.0.9:8091"),
        ({"network": "ws://10.0.0.5:9944", "external_ip": "10.0.0.5"}, "10.0.0.5:8091"),
        ({"axon_ip": "8.8.4.4"}, "8.8.4.4:8091"),
        ({"look_up": lambda: "8.8.8.8"}, "8.8.8.8:8091"),
    ],
)
def test_what_is_published(settings, expected):
    assert str(find(**settings)) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"10\.0\.0\.5.*--axon\.external_ip"),
        ({"look_up": lambda: None}, r"none.*--axon\.external_ip"),
        ({"axon_ip": "192.168.1.1"}, r"--axon\.external_ip"),
        ({"external_ip": "example.com"}, "literal address"),
        ({"external_ip": "0.0.0.0"}, "no address that can be reached"),
        ({"external_ip": "192.168.1.4"}, r"192\.168\.1\.4 is not a public.*finney"),
        ({"external_ip": "100.64.0.1", "network": "test"}, r"not a public.*test"),
        ({"external_ip": "127.0.0.2"}, "not a public"),
        ({"external_ip": "fd00::1"}, "not a public"),
        ({"external_ip": "10.0.0.5", "network": "ws://10.0.0.6:9944"}, "not a public"),
        ({"external_ip": "10.0.0.5", "network": "ws://node.example:9944"}, "not a public"),
        ({"external_ip": "127.0.0.1"}, r"refuses.*127\.0\.0\.2"),
        ({"axon_ip": "localhost", "network": "dev"}, r"--axon\.ip must be a literal"),
    ],
)
def test_what_no_validator_could_reach_is_an_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        find(**settings)


@pytest.mark.parametrize(
    ("published", "same"),
    [
        ("1.2.3.4:5", True),
        ("1.2.3.4:6", False),
        ("1.2.3.5:5", False),
        (None, False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_whether_the_chain_holds_it_already(published, same):
    assert Endpoint("1.2.3.4", 5).is_at(published) is same


def test_addresses_are_compared_not_their_spelling():
    assert Endpoint("2a00:1450::1", 5).is_at("[2A00:1450:0::1]:5")


def test_the_look_up_sends_nothing_and_survives_having_no_route(monkeypatch):
    import socket

    def refuse(*args):
        raise OSError("no route")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert own_address() is None
