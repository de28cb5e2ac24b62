"""What the SDK says of a write, as an ``Outcome``: results and exceptions to stable codes.

``sdk.py`` asks here; nothing else sees the SDK's errors.

Design decisions

* The one question that matters after a failure is whether the extrinsic may be on the chain. It
  may from the moment it was signed: then a failure without a verdict is ``"unknown"``, and is never
  sent again blindly. Before that it is ``"chain_unavailable"``.
* Codes are the SDK's own (``rate_limited``, ``not_registered``, ...), plus ``wallet`` for a key
  that cannot be used and ``runtime_mismatch`` where SDK and chain disagree about what there is.
"""

from __future__ import annotations

import bittensor as bt
from bittensor.sp_core import KeyfileError

from neural_condense_core.chain.base import Outcome

OK = "ok"
UNKNOWN = "unknown"
UNAVAILABLE = "chain_unavailable"
WALLET = "wallet"
UNCONFIRMED = "unconfirmed"

RESIGN = frozenset({
    *("BadProof", "AncientBirthBlock", "Stale", "Future"),
    *("PriorityTooLow", "Invalid", "Dropped", "Usurped"),
})
"""Refusals of the pool that a fresh signature cures; nothing was included."""
_UNDECIDED = frozenset({"FinalityTimeout", "Retracted"})
_OUTAGES = (bt.RpcConnectionError, bt.ConnectionNotReady, TimeoutError, OSError)
READ_FIRST = "it may be on the chain all the same: read the chain before sending it again"


def of_result(result: bt.ExtrinsicResult) -> Outcome:
    """Return the outcome of a write that came back."""
    block = _block_of(result)
    if result.success:
        reveal = result.data.get("reveal_round")
        return Outcome(True, OK, result.message, block, None if reveal is None else int(reveal))
    error = result.error
    if error is None or error.name in _UNDECIDED or (block is None and error.name is None):
        return Outcome(False, UNKNOWN, f"{result.message}; {READ_FIRST}", block)
    return Outcome(False, error.code.value, _explained(error), block)


def of_error(error: Exception, *, signed: bool) -> Outcome:
    """Return the outcome of a write that raised.

    Parameters
    ----------
    error : what the SDK or a deadline raised
    signed : whether the extrinsic had been signed, and so may have been sent
    """
    said = str(error).strip() or type(error).__name__
    if signed:
        return Outcome(False, UNKNOWN, f"{said}; {READ_FIRST}")
    if isinstance(error, (FileNotFoundError, PermissionError, KeyfileError)):
        return Outcome(False, WALLET, f"the wallet cannot be used: {said}")
    if isinstance(error, _OUTAGES):
        return Outcome(False, UNAVAILABLE, f"the chain was not reached, nothing was sent: {said}")
    if isinstance(error, bt.PolicyError):
        return Outcome(False, error.code.value, said)
    if isinstance(error, bt.ChainError):
        return Outcome(False, error.code.value, _explained(error))
    if is_mismatch(error):
        return Outcome(
            False,
            "runtime_mismatch",
            f"the chain's runtime and the bittensor SDK disagree ({said}); "
            "update neural-condense, or report it",
        )
    if isinstance(error, (bt.BittensorError, ValueError, TypeError)):
        return Outcome(False, "invalid_argument", said)
    return Outcome(False, "internal", f"{type(error).__name__}: {said}; nothing was sent")


def is_mismatch(error: Exception) -> bool:
    """Return whether the SDK's transport leaked an error of its own, say a missing storage item."""
    return type(error).__module__.startswith("bittensor._transport")


def wants_resigning(result: bt.ExtrinsicResult) -> bool:
    """Return whether the pool refused, and a fresh signature may pass."""
    return not result.success and result.error is not None and result.error.name in RESIGN


def _block_of(result: bt.ExtrinsicResult) -> int | None:
    number = (result.extrinsic_id or "").partition("-")[0]
    return int(number) if number.isdigit() else None


def _explained(error: bt.ChainError) -> str:
    name = f"{error.name}: " if error.name else ""
    return f"{name}{error.message}; {error.remediation}"
