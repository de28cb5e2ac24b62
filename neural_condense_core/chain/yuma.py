"""Yuma consensus: stakes and weights to incentive, consensus, dividends and bonds; pure NumPy.

The development chain runs it at every epoch, after its masks (permits, activity, age of weights).

Design decisions

* Classic bonds, in floats. Incentive and consensus are those of Yuma3 as well, which changes only
  bonds and dividends.
* Bonds go in as the chain stores them (each column's largest is 1) and are made to sum to 1 by
  column *before* the moving average; that is what agrees with the runtime.
* Validators that hold stake and set no weights count: a lone validator with less than ``kappa`` of
  the stake therefore earns nobody anything.

References
----------
Subtensor, ``docs/consensus.md`` eq. 3-7; measured vectors in ``tests/golden/yuma_golden.json``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

KAPPA = 32767 / 65535
BONDS_ALPHA = 0.1


@dataclass(frozen=True)
class Shares:
    """What an epoch gives, by uid.

    Parameters
    ----------
    incentive : (n,) share of the miners' emission, sums to 1, or all 0 where nobody agrees
    dividends : (n,) share of the validators' emission, sums to 1, or all 0
    consensus : (n,) weight that ``kappa`` of the stake grants at least
    trust : (n,) of each validator, the part of its weights within consensus
    bonds : (n, n) validator x miner, each column's largest is 1, or all 0
    """

    incentive: Vector
    dividends: Vector
    consensus: Vector
    trust: Vector
    bonds: Matrix


def yuma(
    stake: Vector,
    weights: Matrix,
    bonds: Matrix,
    *,
    kappa: float = KAPPA,
    bonds_alpha: float = BONDS_ALPHA,
) -> Shares:
    """Run one epoch.

    Parameters
    ----------
    stake : (n,) of active validators with a permit, any scale; 0 for everybody else
    weights : (n, n) validator x miner, any scale by row; what does not count is 0
    bonds : (n, n) as the epoch before left them
    kappa : share of the stake that a weight needs behind it, 0..1
    bonds_alpha : share of the new bonds in the moving average, 0..1
    """
    stake = _to_one(stake, axis=0)
    weights = _to_one(weights, axis=1)
    consensus = consensus_weights(stake, weights, kappa)
    clipped = np.minimum(weights, consensus)
    incentive = _to_one(stake @ clipped, axis=0)
    fresh = _to_one(stake[:, None] * clipped, axis=0)
    mixed = _to_one(bonds_alpha * fresh + (1 - bonds_alpha) * _to_one(bonds, axis=0), axis=0)
    return Shares(
        incentive=incentive,
        dividends=_to_one(mixed @ incentive, axis=0),
        consensus=consensus,
        trust=clipped.sum(axis=1),
        bonds=_divided(mixed, mixed.max(axis=0, keepdims=True, initial=0.0)),
    )


def consensus_weights(stake: Vector, weights: Matrix, kappa: float) -> Vector:
    """Return, by miner, the largest weight that ``kappa`` of the stake grants at least.

    Parameters
    ----------
    stake : (n,) sums to 1, or all 0
    weights : (n, n) validator x miner
    kappa : share of the stake, 0..1
    """
    order = np.argsort(-weights, axis=0, kind="stable")
    backing = np.cumsum(stake[order], axis=0)
    ranked = np.take_along_axis(weights, order, axis=0)
    enough = backing >= kappa
    first = np.argmax(enough, axis=0)[None, :]
    found = np.take_along_axis(ranked, first, axis=0)[0]
    return np.where(enough.any(axis=0), found, 0.0)


def _to_one(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return _divided(values, values.sum(axis=axis, keepdims=True))


def _divided(values: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(values, by, out=np.zeros_like(values, dtype=np.float64), where=by > 0)
