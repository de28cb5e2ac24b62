"""The backend on a Ray cluster: the same engine and routes, its workers in Ray Serve replicas.

Where it sits: ``RayBackend`` is ``server.py``'s process with other hands. A ``RayHand`` gives the
batches that the engine's queue forms to a Ray Serve deployment, and Serve chooses the replica.

Design decisions

* The front keeps what it has on one machine: routes, errors, admission, deadlines, cache, drain.
  Serve brings what one machine has not: replicas on every node, their replacement, scaling by load.
* As many hands as there may be replicas: when all are busy, Serve sees as many calls and scales up
  to that number; the engine's queue, which is ordered and bounded, holds the rest.
* A front that finds its application running joins it; the one that started it ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from neural_condense_core.errors import NeuralCondenseError, OverloadedError
from neural_condense_core.serving import ray_cluster
from neural_condense_core.serving.devices import MAX_BATCH_TOKENS, Placement
from neural_condense_core.serving.hands import MakeHand
from neural_condense_core.serving.jobs import (
    BatchTooLargeError,
    Job,
    Loaded,
    Outcome,
    Progress,
    WorkerSpec,
)
from neural_condense_core.serving.ray_replica import DEPLOYMENT, Call, application
from neural_condense_core.serving.replica import WorkerLostError
from neural_condense_core.serving.scale import RaySettings
from neural_condense_core.serving.server import SIGNALS, Backend, serve_until_stopped
from neural_condense_core.serving.settings import ServeSettings

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""After so long without a replica, the log says what Serve is waiting for."""


class Deployment:
    """One condenser on a cluster, shared by all hands of a front.

    Parameters
    ----------
    spec : what each replica loads
    ray : which cluster, how many replicas
    max_batch_tokens : budget of merged calls
    hang_timeout_s : seconds after which a batch is held to hang
    on_connected : called in the event loop once Ray is there
    """

    def __init__(
        self,
        spec: WorkerSpec,
        ray: RaySettings,
        max_batch_tokens: int,
        hang_timeout_s: float,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.ray = ray
        self.max_batch_tokens = max_batch_tokens
        self.hang_timeout_s = hang_timeout_s
        words = repr((spec, ray.min_replicas, ray.max_replicas, ray.cpus, max_batch_tokens))
        self.name = f"condense-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
        self._on_connected = on_connected
        self._lock = asyncio.Lock()
        self._is_connected = False
        self._is_ours = False

    async def handle(self) -> Any:
        """Return Serve's handle of the application, which is started if it is not there."""
        async with self._lock:
            if not self._is_connected:
                await asyncio.to_thread(ray_cluster.connect, self.ray)
                self._is_connected = True
                self._on_connected()
            return await asyncio.to_thread(self._deployed)

    async def waiting_for(self) -> str:
        """Return what Serve says of an application that is not running."""
        return await asyncio.to_thread(self._status)

    async def close(self) -> None:
        """End the application if it is ours, and leave the cluster."""
        async with self._lock:
            if self._is_connected:
                self._is_connected = False
                await asyncio.to_thread(self._leave)

    def _deployed(self) -> Any:
        from ray import serve

        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        ray_cluster.hush()
        found = serve.status().applications.get(self.name)
        if found is None or found.status in {"DEPLOY_FAILED", "DELETING", "NOT_STARTED"}:
            self._is_ours = True
            target = application(self.spec, self.ray, self.max_batch_tokens, self.hang_timeout_s)
            serve.run_many(
                [serve.RunTarget(target=target, name=self.name, route_prefix=None)],
                wait_for_applications_running=False,
            )
        return serve.get_deployment_handle(DEPLOYMENT, self.name)

    def _status(self) -> str:
        from ray import serve

        found = serve.status().applications.get(self.name)
        if found is None:
            return "the application is gone"
        messages = [each.message for each in found.deployments.values() if each.message]
        return "; ".join([str(found.status.value), *messages])[:500]

    def _leave(self) -> None:
        from ray import serve

        # Whatever is gone already need not be ended.
        with contextlib.suppress(Exception):
            if self._is_ours:
                serve.delete(self.name)
        ray_cluster.disconnect()


class RayHand:
    """One batch at a time, done by whichever replica Serve chooses.

    Parameters
    ----------
    index : its number, for logs
    deployment : the replicas
    """

    def __init__(self, index: int, deployment: Deployment) -> None:
        self.index = index
        self.deployment = deployment
        self.progress = Progress(0, "connect", 0.0)
        self.alive = False
        self._handle: Any = None

    async def load(self) -> Loaded:
        """Wait until a replica answers.

        Raises
        ------
        WorkerLostError
            Ray cannot be reached, or the replica could not load.
        """
        self.progress = Progress(0, "connect", 0.05)
        try:
            self._handle = await self.deployment.handle()
            self.progress = Progress(0, "load", 0.3)
            found = await self._described()
        except NeuralCondenseError as error:
            raise WorkerLostError(error.message, error) from None
        except Exception as error:
            log.debug("worker %d: no replica", self.index, exc_info=True)
            raise WorkerLostError(f"Ray: {_reason(error)}") from None
        if isinstance(found, NeuralCondenseError):
            raise WorkerLostError(found.message, found)
        self.alive = True
        return found

    def mark_ready(self) -> None:
        """Note that a replica answered."""
        self.progress = Progress(0, "ready", 1.0)

    async def run(self, jobs: Sequence[Job], limit_s: float) -> list[Outcome]:
        """Answer a batch; one that does not fit into memory raises ``BatchTooLargeError``.

        Parameters
        ----------
        jobs : the batch
        limit_s : seconds after which the replica is held to hang

        Raises
        ------
        WorkerLostError
            The replica or its node is gone, or it hangs.
        """
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        response = self._handle.answer.remote(self._call(jobs))
        answered = False
        try:
            async with asyncio.timeout(limit_s):
                found: list[Outcome] | BatchTooLargeError = await response
            answered = True
        except BackPressureError:
            refusal = OverloadedError("the replicas have as much to do as they may; retry later")
            return [refusal] * len(jobs)
        except TimeoutError:
            self.alive = False
            raise WorkerLostError(f"a replica was silent for {limit_s:.0f} s") from None
        except (RayError, RayServeException) as error:
            self.alive = False
            raise WorkerLostError(f"a replica was lost: {_reason(error)}") from None
        finally:
            if not answered:
                response.cancel()
        if isinstance(found, BatchTooLargeError):
            raise found
        return found

    async def close(self) -> None:
        """Leave the cluster, with all other hands."""
        self.alive = False
        await self.deployment.close()

    async def _described(self) -> Loaded | NeuralCondenseError:
        asked = asyncio.ensure_future(_answered(self._handle.describe.remote()))
        try:
            while True:
                done, _ = await asyncio.wait({asked}, timeout=PATIENCE_S)
                if done:
                    found: Loaded | NeuralCondenseError = asked.result()
                    return found
                log.warning("no replica yet: %s", await self.deployment.waiting_for())
        finally:
            asked.cancel()

    def _call(self, jobs: Sequence[Job]) -> Call:
        lengths = [len(job.context) for job in jobs]
        cost = max(lengths) * len(lengths)
        return Call(tuple(jobs), min(cost, self.deployment.max_batch_tokens))


class RayBackend(Backend):
    """A front whose workers are on a Ray cluster.

    Parameters
    ----------
    settings : the flags
    listener : a bound socket
    ray : which cluster, how many replicas
    """

    def __init__(self, settings: ServeSettings, listener: socket.socket, ray: RaySettings) -> None:
        self.ray = ray
        super().__init__(settings, listener)

    def make_placement(self) -> Placement:
        """Return what each replica has; a GPU only where it is asked for."""
        cuda = self.settings.accelerator == "cuda"
        device, kind = ("cuda:0", "cuda") if cuda else ("cpu", "cpu")
        return Placement(kind, (device,) * self.ray.max_replicas, self.ray.cpus)

    def make_hands(self) -> MakeHand:
        """Return what makes hands of one deployment."""
        settings = self.settings
        budget = settings.max_batch_tokens or MAX_BATCH_TOKENS[self.placement.accelerator]
        hang_s = settings.hang_timeout_s or max(2 * settings.timeout_s, 60.0)
        shared: list[Deployment] = []

        def make(index: int, spec: WorkerSpec, on_death: Callable[[], None]) -> RayHand:
            if not shared:
                shared.append(
                    Deployment(spec, self.ray, budget, hang_s, on_connected=self.catch_signals)
                )
            return RayHand(index, shared[0])

        return make

    def catch_signals(self) -> None:
        """Take the signals again: connecting to Ray replaces the handlers."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            loop.add_signal_handler(number, self._on_signal)


def run(settings: ServeSettings, ray: RaySettings) -> None:
    """Serve on a Ray cluster until stopped."""
    ray_cluster.check_installed()
    serve_until_stopped(settings, lambda listener: RayBackend(settings, listener, ray))


async def _answered(response: Any) -> Any:
    return await response


def _reason(error: Exception) -> str:
    # An error of Ray's may hold the traceback of ours, and that a context.
    return type(error).__name__
