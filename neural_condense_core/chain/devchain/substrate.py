"""``DevSubstrate``: the SDK's ``Substrate`` protocol, over a SQLite file in place of a node.

It is plugged in below the SDK's client (``bt.Client(..., substrate=DevSubstrate(path))``), so that
a development run exercises the SDK's own quantisation, preflights, error codes and decoding.

Design decisions

* Work on the file happens in a thread of its own: a file that is locked by another process delays
  one call, never the event loop.
* A file that cannot be used is the SDK's ``RpcConnectionError``, the error of an endpoint that does
  not answer: the adapter above meets one kind of outage only.
* Every extrinsic is signed and the signature checked, with the keys a real chain would ask for.
* A nonce is read by writing: a file that is locked or read-only is found out before anything is
  signed, and the adapter above knows that nothing was sent.
* There is no history: a read that is pinned to a block answers the newest state.
* The encryption of registrations is played through with an empty key; the call it hides was noted
  when it was signed, and runs when its envelope arrives.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, NoReturn, TypeVar

import bittensor as bt
from bittensor.sp_core import Keypair

from neural_condense_core.chain.base import Clock
from neural_condense_core.chain.devchain import reads
from neural_condense_core.chain.devchain.calls import SPEC_VERSION, ComposedCall, compose
from neural_condense_core.chain.devchain.epochs import run_overdue
from neural_condense_core.chain.devchain.extrinsics import (
    SHIELDED,
    Signed,
    hash_of,
    include,
    result_of,
)
from neural_condense_core.chain.devchain.ledger import account
from neural_condense_core.chain.devchain.store import BUSY_TIMEOUT_S, Store, Transaction
from neural_condense_core.errors import ChainError, ChainUnavailable

T = TypeVar("T")

SHIELD_KEY = bytes(1184)
"""A well-formed ML-KEM-768 key that hides nothing."""
HEAD_POLL_S = 0.25
CONSTANTS = {("Balances", "ExistentialDeposit"): reads.EXISTENTIAL_DEPOSIT}


class DevSubstrate:
    """A node's stand-in for one process.

    Parameters
    ----------
    path : of the chain's file
    clock : seconds since 1970
    busy_timeout_s : how long to wait for other processes' transactions
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock = time.time,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.token_symbols: dict[int, str] = {}
        self._store = Store(path, run_overdue, clock=clock, busy_timeout_s=busy_timeout_s)
        self._thread: ThreadPoolExecutor | None = None
        self._shielded: dict[str, Signed] = {}

    def balance(self, rao: int, netuid: int = 0) -> bt.Balance:
        """Return an amount that renders with the subnet's symbol."""
        return bt.Balance(int(rao), netuid, self.token_symbols.get(netuid) if netuid else None)

    async def connect(self) -> None:
        """Look at the file once."""
        await self.block_number()

    async def close(self) -> None:
        """Let go of the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._store.close)
            thread.shutdown(wait=False)

    # Reads

    async def block_hash(self, block: int | None = None) -> str:
        """Return a block's hash, which holds its number; empty for one to come."""
        head = await self.block_number()
        number = head if block is None else block
        return hash_of(number) if number <= head else ""

    async def block_number(self) -> int:
        """Return the newest block's number."""
        return await self._read(lambda now: now.block)

    async def finalized_block_number(self) -> int:
        """Return the newest block's number: all blocks are final."""
        return await self.block_number()

    async def block_time(self) -> float:
        """Return the seconds between blocks."""
        return float(await self._read(lambda now: _clock_row(now)["block_time_s"]))

    async def spec_version(self) -> int:
        """Return the version of the rules."""
        return SPEC_VERSION

    async def get_block(
        self, block_number: int | None = None, block_hash: str | None = None
    ) -> dict[str, Any] | None:
        """Return a block's header; bodies are not kept."""
        head = await self.block_number()
        wanted = int(block_hash, 16) if block_hash else block_number
        number = head if wanted is None else wanted
        return {"header": _header(number), "extrinsics": []} if number <= head else None

    async def query(
        self,
        module: str,
        storage_function: str,
        params: list[Any] | None = None,
        block_hash: str | None = None,
    ) -> Any:
        """Read a storage item."""
        read = _named(reads.ITEMS, module, storage_function)
        return await self._read(lambda now: read(now, params or []))

    async def map_has_entries(
        self,
        module: str,
        storage_function: str,
        params: list[Any],
        block_hash: str | None = None,
    ) -> bool:
        """Return whether a storage map holds anything."""
        return bool(await self.query_map(module, storage_function, params))

    async def query_map(
        self,
        module: str,
        storage_function: str,
        params: list[Any] | None = None,
        block_hash: str | None = None,
    ) -> list[tuple[Any, Any]]:
        """Read a whole storage map."""
        read = _named(reads.MAPS, module, storage_function)
        found: list[tuple[Any, Any]] = await self._read(lambda now: read(now, params or []))
        return found

    async def query_batch(
        self,
        module: str,
        storage_function: str,
        param_sets: list[list[Any]],
        block_hash: str | None = None,
    ) -> list[Any]:
        """Read a storage item for many keys, from one state."""
        read = _named(reads.ITEMS, module, storage_function)
        return await self._read(lambda now: [read(now, params) for params in param_sets])

    async def runtime_call(
        self, api: str, method: str, params: list[Any], block_hash: str | None = None
    ) -> Any:
        """Call a runtime API."""
        read = _named(reads.RUNTIME, api, method)
        return await self._read(lambda now: read(now, params))

    async def constant(self, module: str, name: str) -> Any:
        """Return a constant of the chain."""
        if (module, name) == ("Aura", "SlotDuration"):
            return int(await self.block_time() * 1000)
        return _named(CONSTANTS, module, name)

    async def decode_scale(self, type_string: str, data: Any) -> Any:
        """Refuse: nothing is encoded here."""
        _refuse("decode_scale")

    async def blocks(self, *, finalized: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Yield each new block's header, from the newest on."""
        seen = 0
        while True:
            number = await self.block_number()
            if number > seen:
                seen = number
                yield {"header": _header(number)}
            else:
                await asyncio.sleep(min(HEAD_POLL_S, await self.block_time()))

    async def events(self, block_hash: str | None = None) -> list[dict[str, Any]]:
        """Return no events: none are kept."""
        return []

    # Calls

    async def compose(self, call: Any) -> ComposedCall:
        """Check a generated call's ranges and make it ready to sign."""
        module, function, params = call
        return compose(module, function, params)

    async def estimate_fee(self, call: Any, keypair: Any) -> bt.Balance:
        """Return nothing: there are no fees."""
        return bt.Balance.from_rao(0)

    async def estimate_weight(self, call: Any, keypair: Any) -> dict[str, int]:
        """Return nothing: work is free."""
        return {"ref_time": 0, "proof_size": 0}

    async def account_next_index(self, address: str) -> int:
        """Return an account's next nonce; fails where the file cannot be written."""
        return int(await self._write(lambda now: account(now, address)["nonce"]))

    # Writes

    async def mev_next_key(self) -> bytes | None:
        """Return the key that envelopes are encrypted with."""
        return SHIELD_KEY

    async def sign_extrinsic(
        self, call: Any, keypair: Any, *, nonce: int, period: int
    ) -> tuple[bytes, str]:
        """Sign a call for an envelope; return its bytes and its hash."""
        signed, signature = await self._sign(call, keypair, nonce)
        self._shielded[signed.signer] = signed
        return call.data + signature, signed.hash

    async def find_extrinsic(
        self, extrinsic_hash: str, block_hash: str
    ) -> bt.ExtrinsicResult | None:
        """Return what became of an extrinsic in a block, or None: not in it."""
        row = await self._read(
            lambda now: now.one(
                "SELECT * FROM extrinsic WHERE hash = ? AND block = ?",
                *(extrinsic_hash, int(block_hash, 16)),
            )
        )
        return None if row is None else result_of(row["block"], row["position"], row["error"])

    async def submit(
        self,
        call: Any,
        keypair: Any,
        *,
        nonce: int | None = None,
        period: int | None = None,
        wait_for_inclusion: bool = True,
        wait_for_finalization: bool = True,
    ) -> bt.ExtrinsicResult:
        """Sign a call and run it in the current block."""
        if nonce is None:
            nonce = await self.account_next_index(keypair.ss58_address)
        try:
            signed, _ = await self._sign(call, keypair, nonce)
        except bt.ChainError as error:
            return bt.ExtrinsicResult(success=False, message=error.message, error=error)
        extrinsics = [signed]
        if (call.module, call.function) == SHIELDED:
            inner = self._shielded.pop(signed.signer, None)
            extrinsics += [inner] if inner is not None else []
        return (await self._write(lambda now: [include(now, each) for each in extrinsics]))[0]

    async def prepare(self, call: Any, **options: Any) -> Any:
        """Refuse: keys are at hand in development."""
        _refuse("prepare")

    async def submit_signature(
        self, unsigned: Any, signature: Any, **options: Any
    ) -> bt.ExtrinsicResult:
        """Refuse: keys are at hand in development."""
        _refuse("submit_signature")

    async def submit_signed(
        self, extrinsic: Any, keypair: Any, **options: Any
    ) -> bt.ExtrinsicResult:
        """Refuse: keys are at hand in development."""
        _refuse("submit_signed")

    def multisig_account(self, signatories: list[str], threshold: int) -> Any:
        """Refuse: there are no shared accounts."""
        _refuse("multisig_account")

    async def submit_multisig(
        self, call: Any, keypair: Any, multisig_account: Any, **options: Any
    ) -> bt.ExtrinsicResult:
        """Refuse: there are no shared accounts."""
        _refuse("submit_multisig")

    async def _sign(self, call: ComposedCall, keypair: Any, nonce: int) -> tuple[Signed, bytes]:
        payload = call.data + nonce.to_bytes(8, "little")
        signature = keypair.sign(payload)
        if inspect.isawaitable(signature):
            signature = await signature
        address = str(keypair.ss58_address)
        known = Keypair(ss58_address=address, crypto_type=keypair.crypto_type)
        if not known.verify(payload, bytes(signature)):
            raise bt.ChainError("the signature is not this account's", "BadProof")
        name = f"0x{blake2b(payload + address.encode(), digest_size=32).hexdigest()}"
        return Signed(call, address, nonce, name), bytes(signature)

    async def _read(self, work: Callable[[Transaction], T]) -> T:
        return await self._in_thread(lambda: self._store.read(work))

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        return await self._in_thread(lambda: self._store.write(work))

    async def _in_thread(self, access: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="devchain")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, access)
        except ChainUnavailable as error:
            raise bt.RpcConnectionError(error.message) from error
        except ChainError as error:
            raise bt.BittensorError(error.message) from error


def _header(block: int) -> dict[str, Any]:
    return {"number": block, "hash": hash_of(block), "parentHash": hash_of(max(0, block - 1))}


def _clock_row(now: Transaction) -> Any:
    return now.one("SELECT * FROM clock")


def _named(table: dict[tuple[str, str], T], module: str, name: str) -> T:
    if (module, name) not in table:
        _refuse(f"{module}.{name}")
    return table[module, name]


def _refuse(what: str) -> NoReturn:
    raise bt.ChainError(f"the development chain does not keep {what}")
