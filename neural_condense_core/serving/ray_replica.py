"""``CondenserReplica``: a loaded condenser as a Ray Serve replica, and how Serve is to run it.

Where it sits: on the far side of ``ray.py``'s hands, in processes that Serve starts on any node.

Design decisions

* A replica merges calls up to the token budget, which happens while there are fewer replicas than
  hands, or where several fronts share a cluster.
* A replica's constructor never fails: what went wrong is told to whoever asks, as a value, and the
  replica calls itself unhealthy, so that Serve tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.serving.jobs import BatchTooLargeError, Job, Loaded, Outcome, WorkerSpec
from neural_condense_core.serving.scale import RaySettings
from neural_condense_core.serving.worker import Worker, build, describe

DEPLOYMENT = "condenser"
MAX_ONGOING = 4
"""Calls that a replica may have in hand: one at work, the others to merge or to be next."""
UPSCALE_DELAY_S = 5.0
DOWNSCALE_DELAY_S = 60.0
METRICS_INTERVAL_S = 2.0
DRAIN_S = 30.0


@dataclass(frozen=True, eq=False)
class Call:
    """A batch on its way to a replica.

    Parameters
    ----------
    jobs : the batch
    n_tokens : its cost, padded; at most the budget, so that a single long context has room
    """

    jobs: tuple[Job, ...]
    n_tokens: int


def count_tokens(calls: list[Call]) -> int:
    """Return the cost of merged calls: Serve's ``batch_size_fn``."""
    return sum(call.n_tokens for call in calls)


class CondenserReplica:
    """A loaded condenser in a Ray Serve replica.

    Parameters
    ----------
    spec : what to load
    hang_timeout_s : seconds after which a batch is held to hang, and the replica to be unhealthy
    """

    def __init__(self, spec: WorkerSpec, hang_timeout_s: float) -> None:
        self._worker: Worker | None = None
        self._hang_timeout_s = hang_timeout_s
        self._busy_since_s: float | None = None
        self._told = False
        self._loaded: Loaded | NeuralCondenseError
        try:
            self._worker = build(spec)
            self._loaded = describe(spec, self._worker, lambda progress: None)
        except NeuralCondenseError as error:
            self._loaded = error
        except Exception as error:  # noqa: BLE001 - user code: whatever it raises is told
            self._loaded = NeuralCondenseError(f"{type(error).__name__}: {error}"[:1000])

    async def describe(self) -> Loaded | NeuralCondenseError:
        """Return what is served, or why nothing can be."""
        self._told = True
        return self._loaded

    async def answer(self, call: Call) -> list[Outcome] | BatchTooLargeError:
        """Answer a batch, maybe together with others."""
        merged = cast(Callable[[Call], Any], self.merge)
        found: list[Outcome] | BatchTooLargeError = await merged(call)
        return found

    async def merge(self, calls: list[Call]) -> list[list[Outcome] | BatchTooLargeError]:
        """Answer merged batches: one list of outcomes a call."""
        if self._worker is None:
            failure = cast(NeuralCondenseError, self._loaded)
            return [[failure] * len(call.jobs) for call in calls]
        jobs = [job for call in calls for job in call.jobs]
        self._busy_since_s = time.monotonic()
        try:
            outcomes = iter(await asyncio.to_thread(self._worker.answer, jobs))
        except BatchTooLargeError as error:
            return [error] * len(calls)
        finally:
            self._busy_since_s = None
        return [[next(outcomes) for _ in call.jobs] for call in calls]

    def check_health(self) -> None:
        """Tell Serve whether to replace this replica.

        Raises
        ------
        RuntimeError
            Nothing could be loaded, or a batch hangs.
        """
        if self._worker is None and self._told:
            raise RuntimeError("nothing could be loaded")
        since_s = self._busy_since_s
        if since_s is not None and time.monotonic() - since_s > self._hang_timeout_s:
            raise RuntimeError("a batch hangs")


def application(
    spec: WorkerSpec, ray: RaySettings, max_batch_tokens: int, hang_timeout_s: float
) -> Any:
    """Return the application that Serve is to run.

    Parameters
    ----------
    spec : what each replica loads
    ray : how many replicas, with how many CPUs
    max_batch_tokens : budget of merged calls
    hang_timeout_s : seconds after which a batch is held to hang
    """
    from ray import serve
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import LoggingConfig

    merging = serve.batch(
        max_batch_size=max_batch_tokens,
        batch_wait_timeout_s=0.0,
        batch_size_fn=count_tokens,
    )
    merged = {"merge": merging(CondenserReplica.merge)}
    replica = type("MergingReplica", (CondenserReplica,), merged)
    scaling: dict[str, Any] = {"num_replicas": ray.max_replicas}
    if ray.min_replicas < ray.max_replicas:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=ray.min_replicas,
                max_replicas=ray.max_replicas,
                target_ongoing_requests=1,
                upscale_delay_s=UPSCALE_DELAY_S,
                downscale_delay_s=DOWNSCALE_DELAY_S,
                metrics_interval_s=METRICS_INTERVAL_S,
                look_back_period_s=2 * METRICS_INTERVAL_S,
            )
        }
    gpus = 1 if spec.device.startswith("cuda") else 0
    deployment = serve.deployment(
        replica,
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": ray.cpus, "num_gpus": gpus},
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_ONGOING * ray.max_replicas,
        graceful_shutdown_timeout_s=DRAIN_S,
        logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
        **scaling,
    )
    return deployment.bind(spec, hang_timeout_s)
