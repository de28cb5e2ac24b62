"""Extrinsics of the development chain: run in the current block, recorded, and answered for.

Design decisions

* Each call runs in a savepoint of the transaction that records it: a call that is refused leaves
  its record and its nonce, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import bittensor as bt

from neural_condense_core.chain.devchain.calls import ComposedCall
from neural_condense_core.chain.devchain.ledger import CALLS, Rejected, account
from neural_condense_core.chain.devchain.store import Transaction

SHIELDED = ("MevShield", "submit_encrypted")
KEPT_BLOCKS = 20_000
"""Blocks for which extrinsics are kept."""


@dataclass(frozen=True)
class Signed:
    """A signed call.

    Parameters
    ----------
    call : what to run
    signer : ss58 address
    nonce : of the signer's account
    hash : names the extrinsic, ``0x`` and 64 hexadecimal digits
    """

    call: ComposedCall
    signer: str
    nonce: int
    hash: str


def include(now: Transaction, signed: Signed) -> bt.ExtrinsicResult:
    """Run a call in the current block and record it."""
    nonce = account(now, signed.signer)["nonce"]
    if signed.nonce != nonce:
        name = "Stale" if signed.nonce < nonce else "Future"
        error = bt.ChainError(f"nonce {signed.nonce}, the account is at {nonce}", name)
        return bt.ExtrinsicResult(success=False, message=error.message, error=error)
    now.run("UPDATE account SET nonce = nonce + 1 WHERE address = ?", signed.signer)
    refusal = _dispatch(now, signed)
    row = now.one("SELECT count(*) AS n FROM extrinsic WHERE block = ?", now.block)
    position = row["n"] if row is not None else 0
    now.run(
        "INSERT INTO extrinsic VALUES (?, ?, ?, ?, ?, ?, ?)",
        *(now.block, position, signed.hash, signed.signer),
        *(signed.call.module, signed.call.function, refusal),
    )
    now.run("DELETE FROM extrinsic WHERE block < ?", now.block - KEPT_BLOCKS)
    return result_of(now.block, position, refusal)


def _dispatch(now: Transaction, signed: Signed) -> str | None:
    name = (signed.call.module, signed.call.function)
    if name == SHIELDED:
        return None
    run = CALLS.get(name)
    if run is None:
        return "CallFiltered"
    try:
        with _savepoint(now):
            run(now, signed.signer, signed.call.params)
    except Rejected as refusal:
        return refusal.name
    return None


@contextmanager
def _savepoint(now: Transaction) -> Iterator[None]:
    now.run("SAVEPOINT call")
    try:
        yield
    except BaseException:
        now.run("ROLLBACK TO call")
        raise
    finally:
        now.run("RELEASE call")


def result_of(block: int, position: int, refusal: str | None) -> bt.ExtrinsicResult:
    """Return what the SDK reports of an extrinsic.

    Parameters
    ----------
    block, position : where it is
    refusal : the chain's name of the reason, or None: it ran
    """
    error = None
    if refusal is not None:
        error = bt.ChainError(refusal, refusal)
        error.message = error.description or refusal
    return bt.ExtrinsicResult(
        success=error is None,
        message="Success" if error is None else error.message,
        block_hash=hash_of(block),
        extrinsic_id=f"{block}-{position:04d}",
        fee=bt.Balance.from_rao(0),
        error=error,
    )


def hash_of(block: int) -> str:
    """Return a block's hash, which holds its number."""
    return f"0x{block:064x}"
