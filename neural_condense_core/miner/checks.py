"""Everything that can be wrong before a miner starts, looked at together and told together.

Where it sits: ``node.py`` starts from what this returns; no chain is contacted here.

Design decisions

* All checks run whatever the others found: whoever starts a miner for the first time has more than
  one thing to mend and wants to know of all.
* Every fault says what to run.
* The port is bound here and stays bound, so that nobody takes it in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import httpx

from neural_condense_core.chain.wallets import open_hotkey
from neural_condense_core.config import MinerSettings
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import ConfigError
from neural_condense_core.miner.clock import clock_fault, clock_warning
from neural_condense_core.miner.endpoint import Endpoint, find_endpoint
from neural_condense_core.miner.probe import Fit, probe_backend
from neural_condense_core.wire.listening import bind

if TYPE_CHECKING:
    from bittensor import Wallet
    from bittensor.sp_core import Keypair

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """What a miner needs to start; everything in it has been checked.

    Parameters
    ----------
    settings : the flags
    tier : the one it serves
    wallet : for the chain
    key : the hotkey's key pair
    fit : what the backend is
    endpoint : what to publish
    listener : bound socket
    """

    settings: MinerSettings
    tier: TierConfig
    wallet: Wallet
    key: Keypair
    fit: Fit
    endpoint: Endpoint
    listener: socket.socket


def prepare(
    settings: MinerSettings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    look_up: Callable[[], str | None] | None = None,
) -> Prepared:
    """Check everything that can be checked on this machine.

    Parameters
    ----------
    settings : the flags
    transport : replaces the network towards the backend
    look_up : replaces the look-up of this machine's address

    Raises
    ------
    ConfigError
        Something is wrong; the message has a paragraph for each fault.
    """
    faults = _Faults()
    tier = opened = fit = endpoint = listener = None
    with faults.of("tier"):
        tier = choose_tier(settings)
    with faults.of("wallet"):
        opened = open_hotkey(settings.wallet_name, settings.wallet_hotkey, settings.wallet_folder)
    with faults.of("clock"):
        _check_clock()
    with faults.of("backend"):
        fit = asyncio.run(probe_backend(settings, tier, transport=transport))
    with faults.of("address"):
        endpoint = find_endpoint(settings, look_up) if look_up else find_endpoint(settings)
    with faults.of("port"):
        listener = bind(settings.listen_ip, settings.axon_port, flags="--axon.port or --axon.ip")
    if tier and opened and fit and endpoint and listener and not faults.found:
        _announce(tier, fit)
        return Prepared(settings, tier, *opened, fit, endpoint, listener)
    if listener is not None:
        listener.close()
    raise ConfigError(faults.text(), {"faults": faults.found})


def choose_tier(settings: MinerSettings) -> TierConfig:
    """Return the tier that the flags name.

    Parameters
    ----------
    settings : the flags

    Raises
    ------
    ConfigError
        None is named, or one that does not exist; the message lists all.
    """
    tiers = settings.tiers()
    listed = "\n".join(_tier_line(tier) for tier in tiers.values())
    if settings.tier is None:
        raise ConfigError(f"--miner.tier is missing; choose one of\n{listed}")
    if settings.tier in tiers:
        return tiers[settings.tier]
    near = difflib.get_close_matches(settings.tier, list(tiers), n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(
        f"there is no tier {settings.tier!r}{hint}; choose one with --miner.tier, or describe it "
        f"in a TOML file given with --tiers or CONDENSE_TIERS. There are\n{listed}"
    )


class _Faults:
    """Collects what is wrong."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            self.found[what] = error.message

    def text(self) -> str:
        n = len(self.found)
        lines = [f"this miner cannot start; {n} thing{'s' if n > 1 else ''} to mend:"]
        for what, message in self.found.items():
            first, *rest = message.splitlines()
            lines += [f"  {what}: {first}", *(f"    {line}" for line in rest)]
        return "\n".join(lines)


def _check_clock() -> None:
    fault = clock_fault()
    if fault is not None:
        raise ConfigError(fault)
    warning = clock_warning()
    if warning is not None:
        log.warning("%s", warning)


def _tier_line(tier: TierConfig) -> str:
    return (
        f"{tier.name}: contexts up to {tier.max_context_chars:,} characters, at most "
        f"{tier.max_condensed_tokens:,} condensed tokens, {tier.timeout_s:g} s, "
        f"for {tier.target_model}"
    )


def _announce(tier: TierConfig, fit: Fit) -> None:
    said = (
        f"the backend condensed {tier.max_context_chars:,} characters in {fit.seconds:.2f} s; "
        f"tier {tier.name} allows {tier.timeout_s:g} s"
    )
    if fit.seconds < tier.timeout_s:
        log.info("%s", said)
    else:
        log.warning("%s: too slow, such replies will earn nothing", said)
