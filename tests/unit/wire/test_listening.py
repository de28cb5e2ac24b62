import socket

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.wire.listening import bind


def test_a_taken_port_is_an_error_that_says_what_to_do():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*--port or --host"):
            bind("127.0.0.1", port)
        with pytest.raises(ConfigError, match=f"port {port}.*--axon"):
            bind("127.0.0.1", port, flags="--axon.port")


def test_a_port_that_cannot_be_had_leaves_no_socket_open(monkeypatch):
    opened = []

    class Recorded(socket.socket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            opened.append(self)

    with bind("127.0.0.1", 0) as listener:
        monkeypatch.setattr(socket, "socket", Recorded)
        with pytest.raises(ConfigError):
            bind("127.0.0.1", listener.getsockname()[1])
    (left,) = opened
    assert left.fileno() == -1


def test_accepted_connections_send_without_delay():
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "or asyncio does not set TCP_NODELAY"


def test_a_host_that_is_not_known_is_an_error(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=r"Name or service not known.*--host"):
        bind("nowhere.invalid", 0)


def test_ipv6_loopback():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.socket(socket.AF_INET6).bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with bind("::1", 0) as listener:
        assert listener.family == socket.AF_INET6
