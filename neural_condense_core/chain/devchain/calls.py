"""A composed call of the development chain: what the SDK builds, signs, prices and submits.

Design decisions

* Integers are checked against the width that the chain's encoding gives them, so that a port of
  70000 fails here as it does there: before anything is signed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

SPEC_VERSION = 1
_BITS = {
    **dict.fromkeys(("netuid", "port", "dests", "weights"), 16),
    **dict.fromkeys(("mecid", "ip_type", "protocol", "placeholder1", "placeholder2"), 8),
    **dict.fromkeys(("version", "commit_reveal_version"), 32),
    **dict.fromkeys(("version_key", "reveal_round"), 64),
    "ip": 128,
}


@dataclass(frozen=True)
class ComposedCall:
    """A call, ready to be signed.

    Parameters
    ----------
    module : the pallet
    function : the call's name
    params : by name
    """

    module: str
    function: str
    params: dict[str, Any]

    @cached_property
    def data(self) -> bytes:
        """The call as bytes: what a signature covers."""
        return json.dumps(
            [self.module, self.function, self.params], sort_keys=True, default=_as_text
        ).encode()

    @property
    def spec_version(self) -> int:
        """Version of the rules that the call was composed against."""
        return SPEC_VERSION

    @cached_property
    def call_hash(self) -> bytes:
        """32 bytes."""
        return blake2b(self.data, digest_size=32).digest()


def _as_text(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    raise TypeError(f"a call cannot hold {type(value).__name__}")


def compose(module: str, function: str, params: dict[str, Any]) -> ComposedCall:
    """Check the parameters' ranges and return the call.

    Raises
    ------
    ValueError
        A number does not fit its width.
    """
    for name, value in params.items():
        bits = _BITS.get(name)
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if bits is not None and not all(0 <= int(number) < 1 << bits for number in numbers):
            raise ValueError(f"{function}: {name} does not fit {bits} bits")
    return ComposedCall(module, function, dict(params))
