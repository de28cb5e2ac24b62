"""``open_chain``: a network's name and a wallet to a ``Chain``.

Design decisions

* ``dev`` is a chain of ours in a SQLite file (``devchain``), below the same adapter that speaks to
  the real one; every other name and every ``ws://`` address goes to the SDK as it is.
* ``CONDENSE_CHAIN_OVERRIDE`` replaces the network, so that a command line written for the real
  network can be tried on a development chain unchanged.
* The SDK is imported inside the function: a node that checks its flags pays nothing for it.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from neural_condense_core.chain.devchain.location import chain_path
from neural_condense_core.constants import DEV_NETWORK
from neural_condense_core.errors import ChainUnavailable, ConfigError
from neural_condense_core.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Callable

    import bittensor as bt

    from neural_condense_core.chain.sdk import SdkChain

OVERRIDE_ENV = "CONDENSE_CHAIN_OVERRIDE"
DEV_LABEL = "ws://devchain"
"""How the SDK labels the development chain; no real network's name, since it keeps notes by it."""
NETWORKS = ("finney", "test", "archive", "devnet", "local", DEV_NETWORK)
PAUSE_S = 1.0


def resolve_network(network: str) -> str:
    """Return the network that counts: ``$CONDENSE_CHAIN_OVERRIDE``, else the one given.

    Raises
    ------
    ConfigError
        No network has this name.
    """
    chosen = os.environ.get(OVERRIDE_ENV) or network
    if chosen in NETWORKS or chosen.startswith(("ws://", "wss://")):
        return chosen
    raise ConfigError(
        f"unknown network {chosen!r}; known are {', '.join(NETWORKS)} and ws:// addresses."
        f"{suggest(chosen, NETWORKS)}"
    )


async def open_chain(
    network: str,
    netuid: int,
    wallet: bt.WalletLike | None,
    *,
    connect_timeout_s: float = 60.0,
) -> SdkChain:
    """Connect to a subnet and read from it once.

    Parameters
    ----------
    network : ``finney``, ``test``, ``local``, ``dev``, or a ``ws://`` or ``wss://`` address
    netuid : the subnet
    wallet : signs writes; None = read only
    connect_timeout_s : seconds, for everything done here

    Raises
    ------
    ChainUnavailable
        Nothing answered in time.
    """
    from neural_condense_core.chain.sdk import SdkChain

    chosen = resolve_network(network)
    chain = SdkChain(_client_maker(chosen), netuid, wallet, label=chosen)
    failure: Exception | None = None
    try:
        async with asyncio.timeout(connect_timeout_s):
            while True:
                try:
                    await chain.block()
                except ChainUnavailable as error:
                    failure = error
                    await asyncio.sleep(PAUSE_S)
                else:
                    return chain
    except TimeoutError as error:
        await chain.close()
        raise ChainUnavailable(
            f"the chain {chosen!r} could not be reached within {connect_timeout_s:g} s"
            + (f" ({failure})" if failure else "")
        ) from error


def _client_maker(network: str) -> Callable[[], bt.Client]:
    import bittensor as bt

    if network != DEV_NETWORK:
        return lambda: bt.Client(network)
    from neural_condense_core.chain.devchain.substrate import DevSubstrate

    path = chain_path()
    if not path.is_file():
        raise ChainUnavailable(
            f"there is no development chain at {str(path)!r}; make one with 'condense dev init'"
        )
    return lambda: bt.Client(DEV_LABEL, substrate=DevSubstrate(path))
