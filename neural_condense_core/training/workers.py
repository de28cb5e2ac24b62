"""The processes of one run: as many as ``torchrun`` or ``accelerate launch`` started, else one.

Design decisions

* Both launchers set the same variables (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``); nothing else
  is read, so the same command line runs on a CPU, one GPU and several.
* What is trained is small beside what is frozen: gradients are added up in one flat buffer, and no
  wrapper around the module has to know which parts of it an objective uses.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from neural_condense_core.errors import ConfigError

TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Workers:
    """One process among those of the run, the one that asks.

    Parameters
    ----------
    rank : its number; 0 writes files and shows progress
    size : how many there are
    device : where this one computes
    """

    rank: int
    size: int
    device: str

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def own_rows(self, batch: int) -> slice:
        """Return which rows of a batch this process computes.

        Raises
        ------
        ConfigError
            The rows cannot be divided evenly.
        """
        n_own, rest = divmod(batch, self.size)
        if rest or not n_own:
            raise ConfigError(f"a batch of {batch} cannot be divided among {self.size} processes")
        return slice(self.rank * n_own, (self.rank + 1) * n_own)

    def sum_numbers(self, numbers: Tensor) -> Tensor:
        """Return numbers, (n,) float64, added up over all processes."""
        if self.size == 1:
            return numbers
        moved = numbers.to(self.device)
        distributed.all_reduce(moved)
        return moved.cpu()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add gradients up over all processes, in place; each has the same parameters' ones."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, part in zip(
            gradients,
            flat.split_with_sizes([gradient.numel() for gradient in gradients]),
            strict=True,
        ):
            gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set on any process."""
        if self.size == 1:
            return flag
        return bool(self.sum_numbers(torch.tensor([float(flag)], dtype=torch.float64))[0] > 0)

    def leave(self) -> None:
        """End the connection to the other processes."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def alone(device: str = "cpu") -> Workers:
    """Return the only process of a run."""
    return Workers(0, 1, device)


def join_run(device: str = "auto") -> Workers:
    """Find out which process of the run this is, and connect to the others.

    Parameters
    ----------
    device : torch device; ``"auto"`` = this process's GPU if there is one, else the CPU

    Raises
    ------
    ConfigError
        The variables of a launcher contradict each other.
    """
    try:
        rank, size, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    except ValueError as error:
        raise ConfigError(
            f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}"
        ) from error
    if not 0 <= rank < size:
        raise ConfigError(f"RANK is {rank} and WORLD_SIZE {size}")
    if device == "auto":
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
        # what is trained keeps 24 bits; products of frozen float32 tables may round
        torch.set_float32_matmul_precision("high")
    if size > 1:
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    return Workers(rank, size, device)
