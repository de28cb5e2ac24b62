"""Joining or starting a Ray cluster, quietly.

Where it sits: under both uses of Ray, ``ray.py`` (serving) and the corpus's engine. Ray is imported
when it is asked for and not before.

Design decisions

* Ray reports its use to its makers unless told not to; it is told so before it is imported.
* A cluster of our own has no dashboard, no HTTP port of Ray's, and what Ray itself does to keep
  strangers out: a token that every call must carry.
* Ray's own lines on stderr are kept to errors; ours say what a user has to know.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import Any

from neural_condense_core.errors import BackendError, ConfigError
from neural_condense_core.serving.devices import count_cores
from neural_condense_core.serving.scale import RaySettings

OBJECT_STORE_BYTES = 512 << 20
"""Shared memory of a cluster of our own; what does not fit goes to disk."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
LOGGERS = ("ray", "ray.serve", "ray.data")


def check_installed() -> None:
    """Refuse to go on without Ray.

    Raises
    ------
    ConfigError
        It is not installed.
    """
    if find_spec("ray") is None:
        raise ConfigError("--engine ray needs Ray: pip install 'neural-condense[ray]'")


def connect(settings: RaySettings) -> None:
    """Join the cluster that the settings name, or start one on this machine.

    Raises
    ------
    ConfigError
        Ray is missing, or this machine has fewer CPUs than the replicas are to have.
    BackendError
        The cluster cannot be reached.
    """
    check_installed()
    os.environ.update(ENVIRONMENT)
    wanted = settings.max_replicas * settings.cpus
    if settings.address is None and wanted > count_cores():
        raise ConfigError(
            f"--max_replicas and --replica_cpus ask for {wanted} CPUs and this machine has "
            f"{count_cores()}; lower them, or name a larger cluster with --ray_address"
        )
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if settings.address is None:
        ray.init(
            include_dashboard=False,
            num_cpus=count_cores(),
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    else:
        try:
            ray.init(address=settings.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"cannot join the Ray cluster at {settings.address!r}: {str(error)[:300]}; this "
                f"machine must be one of its nodes (ray start --address={settings.address})"
            ) from None
    hush()


def hush() -> None:
    """Keep Ray's loggers to errors; parts of it set their own level when they start."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def disconnect() -> None:
    """Leave the cluster; one of our own ends."""
    import ray

    ray.shutdown()
