"""The development chain's rules: what each call checks, in the chain's order, and what it changes.

Calls reach this module decoded; ``substrate.py`` keeps the record of each extrinsic around them.

Design decisions

* A refusal carries the chain's own name for it, so that the SDK maps it to the same code as on the
  real network.
* Laxer than the chain on purpose: loopback addresses may be served, there are no fees, and no
  minimum stake; stricter nowhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from neural_condense_core.chain.devchain.store import Transaction

RAO = 1_000_000_000
"""Smallest units in one TAO, or in one alpha."""
U16_MAX = 65535
MAX_PENDING_COMMITS = 10


@dataclass(frozen=True)
class SubnetRules:
    """A subnet's parameters; the defaults suit a development run.

    Parameters
    ----------
    tempo : blocks between epochs
    burn : price of a registration, rao
    immunity : blocks for which a newcomer is not replaced
    max_uids, max_validators : places
    weights_rate_limit, serving_rate_limit : blocks between two such calls of one hotkey
    min_weights : fewest weights in one row, but for a lone weight on oneself
    max_weight : largest share of one weight, of 65535
    version_key : oldest that weights may carry
    commit_reveal : whether weights are committed under a time lock; never revealed here, since that
        takes a public source of randomness
    kappa : share of the stake behind consensus, of 65535
    bonds_average : share of the old bonds in the moving average, of 1000000
    activity_cutoff : blocks without weights after which a validator no longer counts
    """

    tempo: int = 20
    burn: int = RAO // 10
    immunity: int = 100
    max_uids: int = 256
    max_validators: int = 64
    weights_rate_limit: int = 5
    serving_rate_limit: int = 0
    min_weights: int = 1
    max_weight: int = U16_MAX
    version_key: int = 0
    commit_reveal: int = 0
    kappa: int = 32767
    bonds_average: int = 900_000
    activity_cutoff: int = 5000


class Rejected(Exception):
    """The chain refuses a call.

    Parameters
    ----------
    name : the chain's name of the reason
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def add_subnet(
    now: Transaction, netuid: int, owner_hotkey: str, owner_coldkey: str, rules: SubnetRules
) -> None:
    """Make a subnet whose owner has uid 0."""
    names = [field.name for field in fields(rules)]
    columns = ", ".join(["netuid", "owner_hotkey", "owner_coldkey", "created_at", *names])
    marks = ", ".join("?" for _ in range(4 + len(names)))
    now.run(
        f"INSERT INTO subnet ({columns}, last_epoch, epochs) VALUES ({marks}, ?, 0)",  # noqa: S608
        *(netuid, owner_hotkey, owner_coldkey, now.block),
        *(getattr(rules, name) for name in names),
        now.block,
    )
    _own(now, owner_hotkey, owner_coldkey)
    _seat(now, netuid, 0, owner_hotkey, owner_coldkey)


def set_rules(now: Transaction, netuid: int, rules: SubnetRules) -> None:
    """Give a subnet other parameters."""
    names = [field.name for field in fields(rules)]
    changes = ", ".join(f"{name} = ?" for name in names)
    now.run(
        f"UPDATE subnet SET {changes} WHERE netuid = ?",  # noqa: S608
        *(getattr(rules, name) for name in names),
        netuid,
    )


def account(now: Transaction, address: str) -> sqlite3.Row:
    """Return an account's row; it is made where it is missing."""
    now.run("INSERT OR IGNORE INTO account VALUES (?, 0, 0)", address)
    row: sqlite3.Row = now.db.execute(
        "SELECT * FROM account WHERE address = ?", (address,)
    ).fetchone()
    return row


def credit(now: Transaction, address: str, rao: int) -> None:
    """Add to an account's free balance; take away where ``rao`` is negative."""
    account(now, address)
    now.run("UPDATE account SET free = free + ? WHERE address = ?", rao, address)


def set_stake(now: Transaction, netuid: int, hotkey: str, rao: int) -> None:
    """Set a hotkey's stake, rao; development only, nobody pays for it."""
    now.run("INSERT OR REPLACE INTO stake VALUES (?, ?, ?)", netuid, hotkey, rao)


def burned_register(now: Transaction, signer: str, netuid: int, hotkey: str) -> None:
    """Register a hotkey, paid by a coldkey.

    Raises
    ------
    Rejected
        No such subnet, registered already, no money, another's hotkey, or no place.
    """
    subnet = now.subnet(netuid)
    if subnet is None:
        raise Rejected("SubnetNotExists")
    if now.neuron(netuid, hotkey) is not None:
        raise Rejected("HotKeyAlreadyRegisteredInSubNet")
    if account(now, signer)["free"] < subnet["burn"]:
        raise Rejected("NotEnoughBalanceToStake")
    owner = now.one("SELECT coldkey FROM owner WHERE hotkey = ?", hotkey)
    if owner is not None and owner["coldkey"] != signer:
        raise Rejected("NonAssociatedColdKey")
    uid = _free_uid(now, subnet)
    credit(now, signer, -subnet["burn"])
    _own(now, hotkey, signer)
    _seat(now, netuid, uid, hotkey, signer)


def _own(now: Transaction, hotkey: str, coldkey: str) -> None:
    now.run("INSERT OR IGNORE INTO owner VALUES (?, ?)", hotkey, coldkey)


def _free_uid(now: Transaction, subnet: sqlite3.Row) -> int:
    neurons = now.neurons(subnet["netuid"])
    if len(neurons) < subnet["max_uids"]:
        return len(neurons)
    exposed = [
        neuron
        for neuron in neurons
        if neuron["uid"] != 0 and neuron["registered_at"] + subnet["immunity"] <= now.block
    ]
    if not exposed:
        raise Rejected("NoNeuronIdAvailable")
    worst = min(exposed, key=lambda row: (row["emission"], row["registered_at"], row["uid"]))
    return int(worst["uid"])


def _seat(now: Transaction, netuid: int, uid: int, hotkey: str, coldkey: str) -> None:
    for table in ("neuron", "weight", "bond"):
        now.run(f"DELETE FROM {table} WHERE netuid = ? AND uid = ?", netuid, uid)  # noqa: S608
    now.run("DELETE FROM bond WHERE netuid = ? AND target = ?", netuid, uid)
    now.run(
        "INSERT INTO neuron (netuid, uid, hotkey, coldkey, registered_at, last_update)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        *(netuid, uid, hotkey, coldkey, now.block, now.block),
    )


def serve_axon(
    now: Transaction,
    signer: str,
    netuid: int,
    ip: int,
    port: int,
    ip_type: int,
    protocol: int,
    version: int,
) -> None:
    """Publish where a hotkey serves; ``ip`` 0 takes it back.

    Raises
    ------
    Rejected
        Not registered, an impossible address or port, or too soon.
    """
    neuron = now.neuron(netuid, signer)
    if neuron is None:
        raise Rejected("HotKeyNotRegisteredInNetwork")
    if ip_type not in (4, 6):
        raise Rejected("InvalidIpType")
    if ip >= 1 << (32 if ip_type == 4 else 128):
        raise Rejected("InvalidIpAddress")
    if port == 0:
        raise Rejected("InvalidPort")
    subnet = _subnet_of(now, netuid)
    served_at = neuron["served_at"]
    if served_at and now.block - served_at < subnet["serving_rate_limit"]:
        raise Rejected("ServingRateLimitExceeded")
    now.run(
        "UPDATE neuron SET ip = ?, port = ?, ip_type = ?, protocol = ?, version = ?, served_at = ?"
        " WHERE netuid = ? AND uid = ?",
        *(str(ip), port, ip_type, protocol, version, now.block, netuid, neuron["uid"]),
    )


def set_mechanism_weights(
    now: Transaction,
    signer: str,
    netuid: int,
    mecid: int,
    dests: list[int],
    weights: list[int],
    version_key: int,
) -> None:
    """Set a validator's weights, u16 at any scale; the largest is stored as 65535.

    Raises
    ------
    Rejected
        Anything that the chain would refuse them for.
    """
    neuron = now.neuron(netuid, signer)
    if mecid != 0:
        raise Rejected("MechanismDoesNotExist")
    if len(dests) != len(weights):
        raise Rejected("WeightVecNotEqualSize")
    if neuron is None:
        raise Rejected("HotKeyNotRegisteredInSubNet")
    subnet = _subnet_of(now, netuid)
    if subnet["commit_reveal"]:
        raise Rejected("CommitRevealEnabled")
    if version_key < subnet["version_key"]:
        raise Rejected("IncorrectWeightVersionKey")
    if now.block - neuron["last_update"] < subnet["weights_rate_limit"]:
        raise Rejected("SettingWeightsTooFast")
    _check_row(now, subnet, neuron, dests, weights)
    top = max(weights)
    now.run("DELETE FROM weight WHERE netuid = ? AND uid = ?", netuid, neuron["uid"])
    now.db.executemany(
        "INSERT INTO weight VALUES (?, ?, ?, ?)",
        [
            (netuid, neuron["uid"], target, value * U16_MAX // top)
            for target, value in zip(dests, weights, strict=True)
        ],
    )
    _touch(now, neuron)


def _check_row(
    now: Transaction,
    subnet: sqlite3.Row,
    neuron: sqlite3.Row,
    dests: list[int],
    weights: list[int],
) -> None:
    on_itself = dests == [neuron["uid"]]
    if not neuron["permit"] and not on_itself:
        raise Rejected("NeuronNoValidatorPermit")
    if len(set(dests)) != len(dests):
        raise Rejected("DuplicateUids")
    seats = len(now.neurons(subnet["netuid"]))
    if any(uid >= seats for uid in dests):
        raise Rejected("UidVecContainInvalidOne")
    if not dests or (len(dests) < subnet["min_weights"] and not on_itself) or not max(weights):
        raise Rejected("WeightVecLengthIsLow")
    if not on_itself and max(weights) * U16_MAX > subnet["max_weight"] * sum(weights):
        raise Rejected("MaxWeightExceeded")


def commit_timelocked_mechanism_weights(
    now: Transaction, signer: str, netuid: int, commit: bytes, reveal_round: int
) -> None:
    """Keep weights under a time lock; as on the chain, neither permit nor content is checked.

    Raises
    ------
    Rejected
        Not registered, commit-reveal is off, too soon, or too many are pending.
    """
    neuron = now.neuron(netuid, signer)
    if neuron is None:
        raise Rejected("HotKeyNotRegisteredInSubNet")
    subnet = _subnet_of(now, netuid)
    if not subnet["commit_reveal"]:
        raise Rejected("CommitRevealDisabled")
    if now.block - neuron["last_update"] < subnet["weights_rate_limit"]:
        raise Rejected("CommittingWeightsTooFast")
    pending = now.all("SELECT 1 FROM weight_commit WHERE netuid = ? AND hotkey = ?", netuid, signer)
    if len(pending) >= MAX_PENDING_COMMITS:
        raise Rejected("TooManyUnrevealedCommits")
    now.run(
        "INSERT INTO weight_commit VALUES (?, ?, ?, ?, ?, ?)",
        *(netuid, subnet["epochs"], signer, now.block, commit, reveal_round),
    )
    _touch(now, neuron)


def _touch(now: Transaction, neuron: sqlite3.Row) -> None:
    now.run(
        "UPDATE neuron SET last_update = ?, active = 1 WHERE netuid = ? AND uid = ?",
        *(now.block, neuron["netuid"], neuron["uid"]),
    )


def _subnet_of(now: Transaction, netuid: int) -> sqlite3.Row:
    subnet = now.subnet(netuid)
    if subnet is None:
        raise Rejected("SubnetNotExists")
    return subnet


Params = Mapping[str, Any]
CALLS: dict[tuple[str, str], Callable[[Transaction, str, Params], None]] = {
    ("SubtensorModule", "burned_register"): lambda now, signer, params: burned_register(
        now, signer, params["netuid"], params["hotkey"]
    ),
    ("SubtensorModule", "serve_axon"): lambda now, signer, params: serve_axon(
        now,
        signer,
        **{
            name: params[name]
            for name in ("netuid", "ip", "port", "ip_type", "protocol", "version")
        },
    ),
    ("SubtensorModule", "set_mechanism_weights"): lambda now, signer, params: set_mechanism_weights(
        now, signer, **params
    ),
    ("SubtensorModule", "commit_timelocked_mechanism_weights"): lambda now, signer, params: (
        commit_timelocked_mechanism_weights(
            now, signer, params["netuid"], bytes(params["commit"]), params["reveal_round"]
        )
    ),
}
"""(pallet, function) -> (transaction, signer's address, parameters)."""
