"""What can be read from the development chain: storage items, maps and runtime calls, by name.

``substrate.py`` answers the SDK's reads from these tables; what is missing here is a clear error
there. Values have the shape in which the SDK's transport decodes the real chain's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from neural_condense_core.chain.devchain.store import Transaction

Read = Callable[[Transaction, list[Any]], Any]
SYMBOL = "δ"
NAME = "development"
EXISTENTIAL_DEPOSIT = 500
POOL = 1_000_000_000_000
"""Both sides of the pool that the metagraph reports, rao: one alpha is worth one TAO."""


def _of_subnet(column: str) -> Read:
    def read(now: Transaction, params: list[Any]) -> Any:
        subnet = now.subnet(params[0])
        return None if subnet is None else subnet[column]

    return read


def _constant(value: Any) -> Read:
    return lambda now, params: value


def _vector(column: str, kind: type = int) -> Read:
    def read(now: Transaction, params: list[Any]) -> list[Any]:
        return [kind(neuron[column]) for neuron in now.neurons(params[0])]

    return read


def _uid(now: Transaction, params: list[Any]) -> int | None:
    neuron = now.neuron(params[0], params[1])
    return None if neuron is None else int(neuron["uid"])


def _hotkey(now: Transaction, params: list[Any]) -> str | None:
    neuron = now.one("SELECT hotkey FROM neuron WHERE netuid = ? AND uid = ?", *params)
    return None if neuron is None else str(neuron["hotkey"])


def _owner(now: Transaction, params: list[Any]) -> str | None:
    row = now.one("SELECT coldkey FROM owner WHERE hotkey = ?", params[0])
    return None if row is None else str(row["coldkey"])


def _account(now: Transaction, params: list[Any]) -> dict[str, Any]:
    row = now.one("SELECT * FROM account WHERE address = ?", params[0])
    free, nonce = (row["free"], row["nonce"]) if row else (0, 0)
    return {"nonce": nonce, "data": {"free": free, "reserved": 0, "frozen": 0}}


def _since_step(now: Transaction, params: list[Any]) -> int | None:
    subnet = now.subnet(params[0])
    return None if subnet is None else now.block - int(subnet["last_epoch"])


def _timestamp(now: Transaction, params: list[Any]) -> int:
    clock = now.one("SELECT * FROM clock")
    if clock is None:
        return 0
    return int((clock["started_at"] + now.block * clock["block_time_s"]) * 1000)


ITEMS: dict[tuple[str, str], Read] = {
    ("System", "Account"): _account,
    ("Timestamp", "Now"): _timestamp,
    **{
        ("SubtensorModule", name): read
        for name, read in {
            "ActivityCutoff": _of_subnet("activity_cutoff"),
            "Active": _vector("active", bool),
            "BlocksSinceLastStep": _since_step,
            "BondsMovingAverage": _of_subnet("bonds_average"),
            "Burn": _of_subnet("burn"),
            "CollateralLockShare": _constant(0),
            "CommitRevealWeightsEnabled": lambda now, params: bool(
                _of_subnet("commit_reveal")(now, params)
            ),
            "Consensus": _vector("consensus"),
            "Dividends": _vector("dividends"),
            "ImmunityPeriod": _of_subnet("immunity"),
            "Incentive": _vector("incentive"),
            "Kappa": _of_subnet("kappa"),
            "Keys": _hotkey,
            "LastEpochBlock": _of_subnet("last_epoch"),
            "LastUpdate": _vector("last_update"),
            "MaxAllowedUids": _of_subnet("max_uids"),
            "MaxAllowedValidators": _of_subnet("max_validators"),
            "MaxWeightsLimit": _of_subnet("max_weight"),
            "MinAllowedWeights": _of_subnet("min_weights"),
            "NetworksAdded": lambda now, params: now.subnet(params[0]) is not None,
            "Owner": _owner,
            "PendingEpochAt": _constant(0),
            "RevealPeriodEpochs": _constant(1),
            "ServingRateLimit": _of_subnet("serving_rate_limit"),
            "SubnetEpochConsensus": _constant("Yuma"),
            "SubnetEpochIndex": _of_subnet("epochs"),
            "SubnetOwner": _of_subnet("owner_coldkey"),
            "SubnetOwnerHotkey": _of_subnet("owner_hotkey"),
            "SubnetworkN": lambda now, params: len(now.neurons(params[0])),
            "Tempo": _of_subnet("tempo"),
            "Uids": _uid,
            "ValidatorPermit": _vector("permit", bool),
            "WeightsSetRateLimit": _of_subnet("weights_rate_limit"),
            "WeightsVersionKey": _of_subnet("version_key"),
        }.items()
    },
}


def _subnets(column: str) -> Read:
    return lambda now, params: [
        (row["netuid"], row[column]) for row in now.all("SELECT * FROM subnet ORDER BY netuid")
    ]


def _each_subnet(value: Any) -> Read:
    return lambda now, params: [
        (row["netuid"], value) for row in now.all("SELECT netuid FROM subnet ORDER BY netuid")
    ]


def _rows(table: str) -> Read:
    def read(now: Transaction, params: list[Any]) -> list[tuple[int, list[tuple[int, int]]]]:
        found: dict[int, list[tuple[int, int]]] = {}
        for row in now.all(
            f"SELECT * FROM {table} WHERE netuid = ? ORDER BY uid, target",  # noqa: S608
            params[0],
        ):
            found.setdefault(row["uid"], []).append((row["target"], row["value"]))
        return list(found.items())

    return read


def _commits(now: Transaction, params: list[Any]) -> list[tuple[int, list[tuple[Any, ...]]]]:
    found: dict[int, list[tuple[Any, ...]]] = {}
    for row in now.all("SELECT * FROM weight_commit WHERE netuid = ? ORDER BY block", params[0]):
        found.setdefault(row["epoch"], []).append((
            row["hotkey"],
            row["block"],
            f"0x{row['ciphertext'].hex()}",
            row["reveal_round"],
        ))
    return list(found.items())


MAPS: dict[tuple[str, str], Read] = {
    ("Commitments", "CommitmentOf"): _constant([]),
    ("Commitments", "RevealedCommitments"): _constant([]),
    **{
        ("SubtensorModule", name): read
        for name, read in {
            "Bonds": _rows("bond"),
            "Burn": _subnets("burn"),
            "IsNetworkMember": lambda now, params: [
                (row["netuid"], True)
                for row in now.all("SELECT netuid FROM neuron WHERE hotkey = ?", params[0])
            ],
            "Keys": lambda now, params: [
                (neuron["uid"], neuron["hotkey"]) for neuron in now.neurons(params[0])
            ],
            "NetworksAdded": _each_subnet(True),
            "SubnetworkN": lambda now, params: [
                (row["netuid"], len(now.neurons(row["netuid"])))
                for row in now.all("SELECT netuid FROM subnet ORDER BY netuid")
            ],
            "Tempo": _subnets("tempo"),
            "TimelockedWeightCommits": _commits,
            "TokenSymbol": _each_subnet(SYMBOL),
            "Uids": lambda now, params: [
                (neuron["hotkey"], neuron["uid"]) for neuron in now.neurons(params[0])
            ],
            "Weights": _rows("weight"),
        }.items()
    },
}


def _next_epoch(now: Transaction, params: list[Any]) -> int | None:
    subnet = now.subnet(params[0])
    return None if subnet is None else int(subnet["last_epoch"] + subnet["tempo"])


def _hyperparameters(now: Transaction, params: list[Any]) -> list[dict[str, Any]] | None:
    subnet = now.subnet(params[0])
    if subnet is None:
        return None
    names = {
        "kappa": "kappa",
        "immunity_period": "immunity",
        "min_allowed_weights": "min_weights",
        "max_weights_limit": "max_weight",
        "tempo": "tempo",
        "weights_version": "version_key",
        "weights_rate_limit": "weights_rate_limit",
        "serving_rate_limit": "serving_rate_limit",
        "activity_cutoff": "activity_cutoff",
        "max_validators": "max_validators",
        "commit_reveal_weights_enabled": "commit_reveal",
        "bonds_moving_avg": "bonds_average",
    }
    return [{"name": name, "value": {"U64": subnet[column]}} for name, column in names.items()]


def metagraph(now: Transaction, params: list[Any]) -> dict[str, Any] | None:
    """Return the record of ``SubnetInfoRuntimeApi.get_metagraph``, or None: no such subnet."""
    subnet = now.subnet(params[0])
    if subnet is None:
        return None
    neurons = now.neurons(subnet["netuid"])
    return {
        "netuid": subnet["netuid"],
        "name": NAME,
        "symbol": SYMBOL,
        "identity": None,
        "network_registered_at": subnet["created_at"],
        "owner_hotkey": subnet["owner_hotkey"],
        "owner_coldkey": subnet["owner_coldkey"],
        "block": now.block,
        "tempo": subnet["tempo"],
        "last_step": subnet["last_epoch"],
        "blocks_since_last_step": now.block - subnet["last_epoch"],
        "num_uids": len(neurons),
        "max_uids": subnet["max_uids"],
        "tao_in": POOL,
        "alpha_in": POOL,
        "moving_price": {"bits": 1 << 32},
        **_columns(now, subnet["netuid"], neurons),
    }


def _columns(now: Transaction, netuid: int, neurons: list[sqlite3.Row]) -> dict[str, list[Any]]:
    stakes = dict(
        tuple(row) for row in now.all("SELECT hotkey, amount FROM stake WHERE netuid = ?", netuid)
    )
    stake = [stakes.get(neuron["hotkey"], 0) for neuron in neurons]
    zeros = [0] * len(neurons)
    named = {
        "hotkeys": "hotkey",
        "coldkeys": "coldkey",
        "active": "active",
        "validator_permit": "permit",
        "last_update": "last_update",
        "block_at_registration": "registered_at",
        "incentives": "incentive",
        "dividends": "dividends",
        "consensus": "consensus",
        "emission": "emission",
    }
    columns = {key: [neuron[column] for neuron in neurons] for key, column in named.items()}
    columns["pruning_score"] = [max(row["incentive"], row["dividends"]) for row in neurons]
    return {
        **columns,
        "identities": [None] * len(neurons),
        "axons": [_axon(neuron) for neuron in neurons],
        "rank": [],
        "trust": [],
        "alpha_stake": stake,
        "tao_stake": zeros,
        "total_stake": stake,
    }


def _axon(neuron: sqlite3.Row) -> dict[str, int]:
    return {
        "block": neuron["served_at"],
        "version": neuron["version"],
        "ip": int(neuron["ip"] or 0),
        "port": neuron["port"],
        "ip_type": neuron["ip_type"],
        "protocol": neuron["protocol"],
    }


RUNTIME: dict[tuple[str, str], Read] = {
    ("SubnetInfoRuntimeApi", "get_metagraph"): metagraph,
    ("SubnetInfoRuntimeApi", "get_next_epoch_start_block"): _next_epoch,
    ("SubnetInfoRuntimeApi", "get_subnet_hyperparams_v3"): _hyperparameters,
}
