"""``SdkChain``: the ``Chain`` port over the bittensor SDK, and the only module that drives it.

The same code runs over the real network, a local node and the development chain: what differs is
the client that ``connect.open_chain`` hands it.

Design decisions

* Writes are never resent blindly. Up to its signature a write may be tried again; after it, only a
  refusal of the transaction pool is. Anything else that fails after signing is looked up on the
  chain, and is ``"unknown"`` where that does not settle it.
* One write at a time per key: a key has one stream of nonces.
* ``Exception`` is caught at this edge: the SDK leaks errors of its transport.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import bittensor as bt
from bittensor.intents.weights import clip_to_max_weight, normalize

from neural_condense_core.chain import outcomes
from neural_condense_core.chain.base import Clock, Outcome, Peer, Roster
from neural_condense_core.chain.link import Deadlines, Link, said
from neural_condense_core.errors import ChainUnavailable

logger = logging.getLogger(__name__)

RAO = 1_000_000_000
U16_MAX = 65535
PUBLIC_NETWORKS = ("finney", "test", "archive")


class _Watched:
    """A signer that remembers whether it has signed: from then on a write may have been sent."""

    def __init__(self, signer: Any) -> None:
        self._signer = signer
        self.ss58_address: str = signer.ss58_address
        self.public_key: bytes = signer.public_key
        self.crypto_type: int = signer.crypto_type
        self.signed = False

    def sign(self, payload: bytes) -> Any:
        self.signed = True
        return self._signer.sign(payload)


Send = Callable[[bt.Client, _Watched], Awaitable[bt.ExtrinsicResult]]
Settle = Callable[[int | None], Awaitable[Outcome | None]]
"""(block before the write) -> what became of it, or None where the chain does not tell yet."""


class SdkChain:
    """One subnet through the SDK's client.

    Parameters
    ----------
    make_client : a fresh, unconnected client
    netuid : the subnet
    wallet : the SDK's Wallet, or anything with its keys; None = read only
    label : network's name, for messages
    deadlines : how long to wait
    clock : seconds since 1970, for ``Roster.fetched_at``
    """

    def __init__(
        self,
        make_client: Callable[[], bt.Client],
        netuid: int,
        wallet: bt.WalletLike | None,
        *,
        label: str,
        deadlines: Deadlines | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._netuid = netuid
        self._wallet = wallet
        self._label = label
        self._deadlines = deadlines or Deadlines()
        self._clock = clock
        self._link = Link(make_client, label, self._deadlines)
        self._signers: dict[str, Any] = {}
        self._writing = {role: asyncio.Lock() for role in ("coldkey", "hotkey")}

    # Reads

    async def block(self) -> int:
        """Return the number of the newest block."""
        return int(await self._link.read(lambda client: client.block()))

    async def roster(self) -> Roster | None:
        """Return everybody in the subnet at one block; None where there is no such subnet."""
        found: bt.Metagraph | None = await self._link.read(
            lambda client: client.subnets.metagraph(self._netuid, commitments=False)
        )
        if found is None:
            return None
        return Roster(
            netuid=self._netuid,
            block=found.block,
            tempo=found.tempo,
            last_epoch=found.last_step,
            owner_hotkey=found.owner_hotkey,
            peers=tuple(_peer(neuron) for neuron in found),
            fetched_at=self._clock(),
        )

    async def weights(self) -> dict[int, dict[int, float]]:
        """Return what the chain holds now: validator uid -> uid -> share."""
        found: dict[int, dict[int, float]] = await self._link.read(
            lambda client: client.weights.weights(self._netuid)
        )
        return found

    async def price(self) -> float:
        """Return what a registration costs now, TAO."""
        burn: bt.Balance = await self._link.read(lambda client: client.subnets.burn(self._netuid))
        return burn.rao / RAO

    # Writes

    async def register(self) -> Outcome:
        """Register the wallet's hotkey, paid by its coldkey; good too if it is registered."""
        try:
            hotkey = self._address("hotkey")
            if await self._uid(hotkey) is not None:
                return Outcome(True, outcomes.OK, "the hotkey is registered already")
        except ChainUnavailable as error:
            return Outcome(False, error.code, error.message)
        except Exception as error:  # noqa: BLE001 - the edge to the SDK
            return outcomes.of_error(error, signed=False)

        async def send(client: bt.Client, signer: _Watched) -> bt.ExtrinsicResult:
            intent = bt.BurnedRegister(netuid=self._netuid, hotkey_ss58=hotkey)
            try:
                return await client.execute(intent, signer, wait_for_finalization=False)
            except Exception as error:
                if signer.signed or not self._may_go_unshielded(error):
                    raise
            call = bt.calls.SubtensorModule.burned_register(netuid=self._netuid, hotkey=hotkey)
            return await client.submit_call(call, signer, wait_for_finalization=False)

        async def settle(_before: int | None) -> Outcome | None:
            if await self._uid(hotkey) is None:
                return None
            return Outcome(True, outcomes.OK, "the hotkey is registered")

        return await self._write("coldkey", send, settle)

    async def publish(self, ip: str, port: int) -> Outcome:
        """Tell the subnet where this hotkey serves; nothing is sent where it says so already.

        Parameters
        ----------
        ip : a literal address, IPv4 or IPv6
        port : 1..65535
        """
        try:
            address = ipaddress.ip_address(ip)
        except ValueError as error:
            return Outcome(False, "invalid_argument", f"{error}; nothing was sent")
        if not 0 < port <= U16_MAX:
            return Outcome(False, "invalid_argument", f"{port} is no port; nothing was sent")
        wanted = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"

        async def settle(_before: int | None) -> Outcome | None:
            roster = await self.roster()
            me = roster.by_hotkey(self._address("hotkey")) if roster is not None else None
            if me is None or me.endpoint != wanted:
                return None
            return Outcome(True, outcomes.OK, f"the chain holds {wanted}")

        async def send(client: bt.Client, signer: _Watched) -> bt.ExtrinsicResult:
            intent = bt.ServeAxon(netuid=self._netuid, ip=str(address), port=port)
            return await client.execute(intent, signer, wait_for_finalization=False)

        return await self._write("hotkey", send, settle, settle_before=True)

    async def submit_weights(self, weights: Mapping[int, float], version_key: int) -> Outcome:
        """Set this validator's weights, and read them back where they are not time-locked.

        Parameters
        ----------
        weights : uid -> share at any scale; finite, not negative, not all zero
        version_key : of the validator's code; the chain may refuse old ones
        """
        wanted = {int(uid): float(weight) for uid, weight in weights.items()}
        if not _can_be_set(wanted):
            wrong = "weights must be finite, none negative, and not all zero; nothing was sent"
            return Outcome(False, "invalid_argument", wrong)

        async def send(client: bt.Client, signer: _Watched) -> bt.ExtrinsicResult:
            intent = bt.SetWeights(netuid=self._netuid, weights=wanted, version_key=version_key)
            return await client.execute(intent, signer, wait_for_finalization=False)

        async def settle(before: int | None) -> Outcome | None:
            return await self._find_weights(wanted, before)

        outcome = await self._write("hotkey", send, settle)
        if not outcome.ok or outcome.pending_reveal_round is not None:
            return outcome
        seen = await self._settled(settle, outcome.block)
        if seen is not None:
            return seen
        return Outcome(
            False,
            outcomes.UNCONFIRMED,
            f"included in block {outcome.block}, but the chain does not show these weights yet; "
            "read weights() before setting them again",
            outcome.block,
        )

    async def close(self) -> None:
        """Let go of the connection."""
        await self._link.close()

    # What became of a write

    async def _uid(self, hotkey: str) -> int | None:
        found: int | None = await self._link.read(
            lambda client: client.neurons.uid(hotkey, self._netuid)
        )
        return found

    async def _find_weights(
        self, wanted: Mapping[int, float], before: int | None
    ) -> Outcome | None:
        hotkey = self._address("hotkey")
        roster = await self.roster()
        me = roster.by_hotkey(hotkey) if roster is not None else None
        if me is None or before is None or me.last_update < before:
            return None
        pending: dict[int, list[dict[str, Any]]] = await self._link.read(
            lambda client: client.weights.timelocked_weight_commits(self._netuid)
        )
        mine = [c for commits in pending.values() for c in commits if c["hotkey"] == hotkey]
        for commit in mine:
            if commit["commit_block"] >= before:
                where = (commit["commit_block"], commit["reveal_round"])
                return Outcome(True, outcomes.OK, "committed under a time lock", *where)
        limit = await self._link.read(
            lambda client: client.query(("SubtensorModule", "MaxWeightsLimit"), [self._netuid])
        )
        held = (await self.weights()).get(me.uid, {})
        if not _agree(held, wanted, me.uid, U16_MAX if limit is None else int(limit)):
            return None
        return Outcome(True, outcomes.OK, "the chain holds these weights", me.last_update)

    async def _settled(self, settle: Settle, before: int | None) -> Outcome | None:
        """Ask the chain until it tells, or the deadline passes."""
        with suppress(TimeoutError, ChainUnavailable):
            async with asyncio.timeout(self._deadlines.settle_s):
                for attempt in range(self._deadlines.attempts):
                    found = await settle(before)
                    if found is not None:
                        return found
                    await asyncio.sleep(self._deadlines.pause_s * 2**attempt)
        return None

    # Machinery

    async def _write(
        self, role: str, send: Send, settle: Settle, *, settle_before: bool = False
    ) -> Outcome:
        if self._wallet is None:
            return Outcome(False, outcomes.WALLET, "this connection was opened without a wallet")
        try:
            async with asyncio.timeout(self._deadlines.write_s):
                await self._writing[role].acquire()
        except TimeoutError:
            waited = f"another write with this {role} is still under way; nothing was sent"
            return Outcome(False, outcomes.UNAVAILABLE, waited)
        try:
            return await self._prepared(role, send, settle, settle_before)
        finally:
            self._writing[role].release()

    async def _prepared(
        self, role: str, send: Send, settle: Settle, settle_before: bool
    ) -> Outcome:
        try:
            signer = _Watched(await asyncio.to_thread(self._unlocked, role))
        except Exception as error:  # noqa: BLE001 - key files raise types of their own
            unusable = f"the wallet's {role} cannot be used: {said(error)}"
            return Outcome(False, outcomes.WALLET, unusable)
        try:
            before = await self.block()
            known = await settle(before) if settle_before else None
        except ChainUnavailable as error:
            return Outcome(False, error.code, f"{error.message}; nothing was sent")
        return known or await self._send(signer, send, settle, before)

    async def _send(self, signer: _Watched, send: Send, settle: Settle, before: int) -> Outcome:
        nothing = Outcome(False, outcomes.UNAVAILABLE, "nothing was sent in time")
        outcome = nothing
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadlines.write_s):
                for attempt in range(self._deadlines.attempts):
                    if attempt:
                        await asyncio.sleep(self._deadlines.pause_s * 2 ** (attempt - 1))
                    signer.signed, outcome = False, nothing
                    outcome, again = await self._send_once(signer, send)
                    if not again:
                        break
        if signer.signed and outcome is nothing:  # the deadline cut it off
            outcome = outcomes.of_error(TimeoutError("no answer in time"), signed=True)
        if outcome.ok or outcome.code not in (outcomes.UNKNOWN, "already_exists"):
            return outcome
        return await self._settled(settle, before) or outcome

    async def _send_once(self, signer: _Watched, send: Send) -> tuple[Outcome, bool]:
        try:
            async with self._link.lease() as client:
                result = await send(client, signer)
        except Exception as error:  # noqa: BLE001 - the edge to the SDK
            outcome = outcomes.of_error(error, signed=signer.signed)
            logger.info("writing to %s: %s: %s", self._label, outcome.code, said(error))
            return outcome, outcome.code == outcomes.UNAVAILABLE
        return outcomes.of_result(result), outcomes.wants_resigning(result)

    def _address(self, role: str) -> str:
        if self._wallet is None:
            raise FileNotFoundError("this connection was opened without a wallet")
        return str(bt.public_view(self._wallet, role).ss58_address)

    def _unlocked(self, role: str) -> Any:
        if role not in self._signers and self._wallet is not None:
            signer = bt.resolve_signer(self._wallet, role)
            signer.sign(b"unlock")  # asks for a password here, where no deadline runs
            self._signers[role] = signer
        return self._signers[role]

    def _may_go_unshielded(self, error: Exception) -> bool:
        """Where nobody front-runs: nodes of one's own, many of which have no MEV shield."""
        return self._label not in PUBLIC_NETWORKS and (
            outcomes.is_mismatch(error) or "NextKey" in str(error)
        )


def _peer(neuron: bt.MetagraphNeuron) -> Peer:
    return Peer(
        uid=neuron.uid,
        hotkey=neuron.hotkey,
        coldkey=neuron.coldkey,
        endpoint=neuron.axon,
        stake=neuron.total_stake.rao / RAO,
        permit=neuron.validator_permit,
        incentive=neuron.incentive,
        last_update=neuron.last_update,
        registered_at=neuron.block_at_registration,
    )


def _can_be_set(weights: Mapping[int, float]) -> bool:
    values = weights.values()
    return all(math.isfinite(each) and each >= 0 for each in values) and any(values)


def _agree(held: Mapping[int, float], wanted: Mapping[int, float], me: int, limit: int) -> bool:
    """Return whether a row is what the SDK makes of these weights, but for rounding."""
    uids = sorted(wanted)
    floats = [wanted[uid] for uid in uids]
    if limit < U16_MAX and uids != [me]:
        floats = clip_to_max_weight(floats, limit / U16_MAX)
    kept, values = normalize(uids, floats)
    total = sum(values)
    if set(held) != set(kept) or not total:
        return False
    shares = {uid: value / total for uid, value in zip(kept, values, strict=True)}
    return all(abs(held[uid] - shares[uid]) <= 2 / U16_MAX for uid in kept)
