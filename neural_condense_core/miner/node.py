"""The miner node: check, connect, serve, publish, keep up with the chain, drain.

Where it sits: ``neurons/miner.py`` calls ``main``, which calls everything else of ``miner``.

Design decisions

* What this machine alone can tell is checked first; only then is the chain contacted, once, with a
  deadline. Later outages of the chain are survived: the last roster goes on to be used.
* It serves before it publishes, and publishes only when the chain holds something else: the chain
  limits how often that may be done.
* The coldkey is not needed here and registration not done here: it is a command of its own.
* SIGTERM and Ctrl-C drain: requests in hand are answered, new ones told to go elsewhere, exit 0. A
  second signal does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from neural_condense_core.chain.base import Chain, Roster
from neural_condense_core.chain.connect import open_chain
from neural_condense_core.config import MinerSettings
from neural_condense_core.errors import (
    ChainUnavailable,
    ConfigError,
    NeuralCondenseError,
    type_and_frames,
)
from neural_condense_core.flags import load_settings
from neural_condense_core.miner.access import Access
from neural_condense_core.miner.axon import Axon, Identity, create_app
from neural_condense_core.miner.checks import Prepared, prepare
from neural_condense_core.miner.forwarding import Forwarder
from neural_condense_core.wire.listening import Server, make_server
from neural_condense_core.wire.signing import NonceStore

if TYPE_CHECKING:
    from bittensor import Wallet

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT_S = 40.0
START_TIMEOUT_S = 55.0
"""For connecting and the first roster together; the whole start has a minute."""
CHAIN_CALL_TIMEOUT_S = 130.0
"""For any later call; longer than the adapter's own deadlines."""
CLOSE_TIMEOUT_S = 5.0
REFRESH_S = 60.0
DEV_REFRESH_S = 2.0
PUBLISH_RETRY_S = 300.0
DEV_PUBLISH_RETRY_S = 5.0
DRAIN_TIMEOUT_S = 30.0
MAX_CONNECTIONS = 1024
SIGNALS = (signal.SIGINT, signal.SIGTERM)

OpenChain = Callable[[str, int, "Wallet"], Awaitable[Chain]]


async def _connect(network: str, netuid: int, wallet: Wallet) -> Chain:
    return await open_chain(network, netuid, wallet, connect_timeout_s=CONNECT_TIMEOUT_S)


class MinerNode:
    """One miner process, from a checked start to its end.

    Parameters
    ----------
    prepared : what the checks found
    connect : opens the chain: network, netuid, wallet
    """

    def __init__(self, prepared: Prepared, connect: OpenChain = _connect) -> None:
        self.prepared = prepared
        self.settings = prepared.settings
        self.hotkey = str(prepared.key.ss58_address)
        self.access = Access(prepared.tier, self.settings.least_stake)
        self._connect = connect
        self._stopping: list[asyncio.Task[None]] = []
        self._next_publish_s = 0.0
        self._is_registered = True

    async def run(self) -> None:
        """Serve until a signal ends it.

        What the chain says at the start may end it with ``ChainUnavailable`` or ``ConfigError``.
        """
        chain = await self._open_chain()
        try:
            with NonceStore(self.settings.node_dir(self.hotkey) / "requests.sqlite") as nonces:
                await self._serve(chain, nonces)
        finally:
            with contextlib.suppress(TimeoutError, NeuralCondenseError):
                await _within(CLOSE_TIMEOUT_S, chain.close())

    async def _open_chain(self) -> Chain:
        network, netuid = self.settings.effective_network, self.settings.netuid
        log.info("connecting to %s, subnet %d", network, netuid)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                chain = await self._connect(network, netuid, self.prepared.wallet)
                roster = await chain.roster()
        except TimeoutError:
            raise ChainUnavailable(
                f"the chain {network!r} did not answer within {START_TIMEOUT_S:g} s; check the "
                "connection, or name another with --subtensor.network"
            ) from None
        self._check_registered(roster)
        return chain

    def _check_registered(self, roster: Roster | None) -> None:
        network, netuid = self.settings.effective_network, self.settings.netuid
        if roster is None:
            raise ConfigError(f"there is no subnet {netuid} on {network}; see --netuid")
        if roster.by_hotkey(self.hotkey) is None:
            raise ConfigError(
                f"hotkey {self.hotkey} is not registered on subnet {netuid} of {network}; run, "
                f"where its coldkey is: {self._register_line()}"
            )
        self.access.update(roster)

    def _register_line(self) -> str:
        settings = self.settings
        return (
            f"condense register --netuid {settings.netuid} "
            f"--subtensor.network {settings.effective_network} "
            f"--wallet.name {settings.wallet_name} --wallet.hotkey {settings.wallet_hotkey}"
        )

    async def _serve(self, chain: Chain, nonces: NonceStore) -> None:
        prepared = self.prepared
        forwarder = Forwarder(
            self.settings.backend_url,
            prepared.tier,
            api_path=self.settings.api_path,
            hidden_size=prepared.fit.hidden_size,
            dtype=self.settings.dtype,
        )
        identity = Identity(prepared.key, self.hotkey, prepared.tier, prepared.fit.hidden_size)
        limit = self.settings.max_concurrent_requests
        axon = Axon(identity, self.access, forwarder, nonces, max_concurrent=limit)
        server = make_server(create_app(axon), max_connections=MAX_CONNECTIONS)
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, axon, server)
        following = asyncio.create_task(self._follow(chain))
        try:
            self._announce()
            await server.serve(sockets=[prepared.listener])
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await forwarder.close()
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self, axon: Axon, server: Server) -> None:
        patience_s = 0.0 if self._stopping else DRAIN_TIMEOUT_S
        # Kept: the event loop holds its tasks weakly.
        self._stopping.append(asyncio.create_task(_stop(axon, server, patience_s)))

    async def _follow(self, chain: Chain) -> None:
        pause_s = DEV_REFRESH_S if self.settings.is_dev else REFRESH_S
        while True:
            await self._publish_if_needed(chain)
            await asyncio.sleep(pause_s)
            await self._refresh(chain)

    async def _refresh(self, chain: Chain) -> None:
        roster = await self._call("read the subnet", chain.roster())
        if roster is None:
            return
        self.access.update(roster)
        is_registered = roster.by_hotkey(self.hotkey) is not None
        if self._is_registered and not is_registered:
            log.error(
                "hotkey %s has lost its place on the subnet and earns nothing; to register it "
                "again: %s",
                self.hotkey,
                self._register_line(),
            )
        self._is_registered = is_registered

    async def _publish_if_needed(self, chain: Chain) -> None:
        wanted = self.prepared.endpoint
        peer = self.access.roster and self.access.roster.by_hotkey(self.hotkey)
        if not peer or wanted.is_at(peer.endpoint) or time.monotonic() < self._next_publish_s:
            return
        pause_s = DEV_PUBLISH_RETRY_S if self.settings.is_dev else PUBLISH_RETRY_S
        self._next_publish_s = time.monotonic() + pause_s
        outcome = await self._call("publish", chain.publish(wanted.ip, wanted.port))
        if outcome is None:
            return
        if outcome.ok:
            log.info("published %s (it was %s)", wanted, peer.endpoint or "nothing")
        else:
            log.warning(
                "publishing %s failed: %s (%s); next try in %.0f s",
                wanted,
                outcome.message,
                outcome.code,
                pause_s,
            )

    async def _call(self, what: str, call: Awaitable[T]) -> T | None:
        """Await a call to the chain; an outage is logged and survived, as is anything else."""
        try:
            return await _within(CHAIN_CALL_TIMEOUT_S, call)
        except TimeoutError:
            log.warning("could not %s: no answer from the chain; serving goes on", what)
        except NeuralCondenseError as error:
            log.warning("could not %s: %s; serving goes on", what, error.message)
        except Exception as error:  # noqa: BLE001 - the supervisor of everything about the chain
            log.error("could not %s, raised %s", what, type_and_frames(error))
        return None

    def _announce(self) -> None:
        host, port, *_ = self.prepared.listener.getsockname()
        log.info(
            "miner %s serves tier %s at %s port %d, known as %s; backend %s",
            self.hotkey,
            self.prepared.tier.name,
            host,
            port,
            self.prepared.endpoint,
            self.settings.backend_url,
        )


async def _within(seconds: float, call: Awaitable[T]) -> T:
    async with asyncio.timeout(seconds):
        return await call


async def _stop(axon: Axon, server: Server, patience_s: float) -> None:
    log.info("stopping: no new requests; those in hand have %.0f s", patience_s)
    if not await axon.drain(patience_s):
        log.warning("not all requests could be answered in time")
    server.should_exit = True
    server.force_exit = patience_s == 0


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run a miner.

    Parameters
    ----------
    argv : without the program's name; None = of this process
    environ : variables

    Returns
    -------
    0 good, 2 usage or configuration, 3 the chain cannot be reached
    """
    try:
        settings = load_settings(
            MinerSettings,
            sys.argv[1:] if argv is None else argv,
            environ,
            prog="python -m neurons.miner",
            description="Serve validators of a subnet from a condensing backend.",
        )
        _configure_logging(settings.logging_level)
        prepared = prepare(settings)
        with prepared.listener, contextlib.suppress(KeyboardInterrupt):
            asyncio.run(MinerNode(prepared).run())
    except NeuralCondenseError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return error.exit_code
    return 0


def _configure_logging(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("neural_condense_core").setLevel(level.upper())
