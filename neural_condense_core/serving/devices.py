"""Which devices the workers run on, found out without torch.

Design decisions

* The front process never loads torch, so the driver itself is asked how many GPUs there are; it
  honours ``CUDA_VISIBLE_DEVICES``. A torch without CUDA counts as no GPU.
* On the CPU a "device" is a share of the cores: the cores are divided among all workers.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from neural_condense_core.errors import ConfigError

ACCELERATORS = ("auto", "cpu", "cuda")
MAX_BATCH_TOKENS = {"cpu": 256, "cuda": 16_384}
"""Default budget of a padded batch. On a CPU batching gains nothing above some 64 tokens a row."""


@dataclass(frozen=True)
class Placement:
    """Where the workers run.

    Parameters
    ----------
    accelerator : ``"cpu"`` or ``"cuda"``
    devices : one torch device a worker, ``("cuda:0", "cuda:1")`` for example
    threads : CPU threads of each worker
    """

    accelerator: str
    devices: tuple[str, ...]
    threads: int


def place(
    accelerator: str, devices: int | None, workers_per_device: int, *, n_gpus: int, n_cores: int
) -> Placement:
    """Return the workers' devices.

    Parameters
    ----------
    accelerator : one of ``ACCELERATORS``
    devices : how many to use; None = all GPUs, or one CPU
    workers_per_device : processes on each
    n_gpus, n_cores : what there is

    Raises
    ------
    ConfigError
        More GPUs are asked for than there are.
    """
    kind = ("cuda" if n_gpus else "cpu") if accelerator == "auto" else accelerator
    if kind == "cuda" and (devices or 1) > n_gpus:
        raise ConfigError(
            f"{devices or 1} CUDA devices are asked for and {n_gpus} can be used; "
            "lower --devices, or give --accelerator cpu"
        )
    if kind == "cuda":
        names = [f"cuda:{index}" for index in range(devices or n_gpus)]
    else:
        names = ["cpu"] * (devices or 1)
    workers = tuple(name for name in names for _ in range(workers_per_device))
    return Placement(kind, workers, max(1, n_cores // len(workers)))


def count_cores() -> int:
    """Return how many cores this process may use, at most ``OMP_NUM_THREADS`` where that is set."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) else cores


def count_gpus() -> int:
    """Return how many CUDA devices the installed torch could use."""
    return _driver_devices() if _torch_has_cuda() else 0


def _torch_has_cuda() -> bool:
    # Reading the package's files instead of importing it: the import takes seconds.
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        if version("torch").endswith("+cpu"):
            return False
    except PackageNotFoundError:
        return False
    libraries = Path(spec.origin).parent / "lib"
    return any(libraries.glob("*torch_cuda*"))


def _driver_devices() -> int:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int()
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0
