"""Which address a miner publishes: what it is told, or what this machine knows of itself.

Design decisions

* Nobody else is asked for it: a service that echoes addresses can lie, log or be down.
* An address that no validator could reach is an error at the start, not a miner that earns nothing
  for reasons it cannot see. Private addresses are published only where the chain itself is on this
  machine: there the validators are too.
* The real chain refuses exactly 127.0.0.1 and ::1, so a node beside a local chain publishes
  127.0.0.2, which is the same machine.
"""

from __future__ import annotations

import ipaddress
import socket
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from neural_condense_core.config import LOOPBACK, MinerSettings, in_url
from neural_condense_core.errors import ConfigError

LOCAL_NETWORK = "local"
LOCAL_LOOPBACK = "127.0.0.2"
# Reserved for documentation: nothing is sent there, only the route to it is looked up.
_SOMEWHERE = ("192.0.2.1", 9)


@dataclass(frozen=True)
class Endpoint:
    """Where validators find a miner.

    Parameters
    ----------
    ip : literal address
    port : of TCP
    """

    ip: str
    port: int

    def __str__(self) -> str:
        """Return it as the chain's readers do, IPv6 in brackets."""
        return f"{in_url(self.ip)}:{self.port}"

    def is_at(self, published: str | None) -> bool:
        """Return whether the chain already holds this, however it writes the address.

        Parameters
        ----------
        published : ``"ip:port"``, IPv6 in brackets; None = nothing
        """
        host, _, port = (published or "").rpartition(":")
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return address == ipaddress.ip_address(self.ip) and port == str(self.port)


def own_address() -> str | None:
    """Return the address this machine sends from; None without a route. Sends nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_SOMEWHERE)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def find_endpoint(
    settings: MinerSettings, look_up: Callable[[], str | None] = own_address
) -> Endpoint:
    """Return what to publish.

    Parameters
    ----------
    settings : ``--axon.*`` and the network
    look_up : the address this machine sends from

    Raises
    ------
    ConfigError
        It cannot be found out, or what is told is no address that a validator could reach.
    """
    port = settings.external_port or settings.axon_port
    if settings.external_ip is not None:
        return Endpoint(_told(settings, look_up), port)
    is_specific = not _parsed(settings.listen_ip, "--axon.ip").is_unspecified
    if settings.is_dev:
        return Endpoint(settings.listen_ip if is_specific else LOOPBACK, port)
    if settings.effective_network == LOCAL_NETWORK:
        return Endpoint(LOCAL_LOOPBACK, port)
    found = settings.listen_ip if is_specific else look_up()
    if found is not None and ipaddress.ip_address(found).is_global:
        return Endpoint(found, port)
    raise ConfigError(
        f"the address that validators reach this machine at is not known (its own is "
        f"{found or 'none'}, which is not public); give it: --axon.external_ip A.B.C.D, and "
        "--axon.external_port N where a router maps the port"
    )


def _told(settings: MinerSettings, look_up: Callable[[], str | None]) -> str:
    address = _parsed(str(settings.external_ip), "--axon.external_ip")
    if address.is_unspecified or address.is_multicast:
        raise ConfigError(f"--axon.external_ip {address} is no address that can be reached")
    if not settings.is_dev and str(address) in {"127.0.0.1", "::1"}:
        raise ConfigError(
            f"the chain refuses {address} as an endpoint; on one machine publish "
            f"--axon.external_ip {LOCAL_LOOPBACK}"
        )
    if not address.is_global and not _is_chain_here(settings, look_up):
        raise ConfigError(
            f"--axon.external_ip {address} is not a public address, so validators of "
            f"{settings.effective_network} cannot reach it; give the one that the router or the "
            "provider shows to the outside"
        )
    return str(address)


def _is_chain_here(settings: MinerSettings, look_up: Callable[[], str | None]) -> bool:
    """Return whether the chain runs on this machine, so that its own addresses will do."""
    network = settings.effective_network
    if settings.is_dev or network == LOCAL_NETWORK:
        return True
    if not network.startswith("ws://"):
        return False
    host = urllib.parse.urlsplit(network).hostname or ""
    if host == "localhost" or host == look_up():
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parsed(text: str, flag: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(
            f"{flag} must be a literal address such as 203.0.113.7, not {text!r}"
        ) from None
