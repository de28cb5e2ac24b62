"""``RaySettings``: how a Ray cluster is used; knows nothing of Ray itself.

Where it sits: the command lines fill it in; ``ray.py`` and the corpus's Ray engine use it.
"""

from __future__ import annotations

from dataclasses import dataclass

from neural_condense_core.errors import ConfigError

ENGINES = ("local", "ray")
"""Who runs a backend's workers: this machine's processes, or a Ray cluster."""


@dataclass(frozen=True)
class RaySettings:
    """Which cluster, and how much of it.

    Parameters
    ----------
    address : ``HOST:PORT`` of a cluster's head; None = one of our own, on this machine's loopback
    min_replicas, max_replicas : how many condensers run; more than the least only under load
    cpus : CPUs of each, its threads; on GPUs each has one GPU besides
    """

    address: str | None = None
    min_replicas: int = 1
    max_replicas: int = 1
    cpus: int = 1

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ConfigError
            A field is out of its range; the message names the flag.
        """
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ConfigError(
                "--min_replicas must be from 1 to --max_replicas, got "
                f"{self.min_replicas} and {self.max_replicas}"
            )
        if self.cpus < 1:
            raise ConfigError(f"--replica_cpus must be at least 1, got {self.cpus}")
