"""``Metrics``: what the backend counts, for Prometheus.

Where it sits: the engine and the routes tell it what happened; ``GET /metrics`` writes it down.

Design decisions

* A registry of its own: several backends in one process do not mix.
* Every label has a fixed, small set of values: nothing that a client sends can add a series.
* What has a value at any time (queue, workers) is asked for when it is read, and costs nothing
  otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from neural_condense_core import errors
from neural_condense_core.serving.timings import Timings

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "condense"

OK = "ok"
CLIENT_GONE = "client_gone"
REASONS = (
    "queued_tokens", "predicted_wait", "bodies_in_hand", "tokenizing", "not_ready", "other"
)  # fmt: skip
"""Why a request that was right was refused all the same."""

SECONDS = tuple(round(0.0005 * 2**k, 4) for k in range(19))
"""0.5 ms to 131 s."""
TOKENS = tuple(2**k for k in range(16))
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Metrics:
    """Counters, gauges and histograms of one backend."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        requests = self._counter("requests", "Requests by outcome, ok or a code", "outcome")
        self._outcomes = {name: requests.labels(name) for name in (*outcomes(), OK, CLIENT_GONE)}
        rejections = self._counter("rejections", "Right requests that were refused", "reason")
        self._rejections = {name: rejections.labels(name) for name in REASONS}
        dropped = self._counter("dropped", "Requests that left the queue uncomputed", "reason")
        self._dropped = {name: dropped.labels(name) for name in ("expired", "abandoned")}
        cache = self._counter("cache", "Look-ups in the answer cache", "result")
        self._cache = {name: cache.labels(name) for name in ("hit", "miss")}
        self.worker_restarts = self._counter("worker_restarts", "Workers lost and replaced")
        self.out_of_memory = self._counter("out_of_memory", "Batches that did not fit into memory")
        self._batch_size = self._histogram("batch_size", "Requests a batch", BATCH_SIZES)
        self._batch_tokens = self._histogram("batch_tokens", "Tokens a batch", TOKENS)
        self._input_tokens = self._histogram("request_input_tokens", "Tokens a context", TOKENS)
        self._total = self._duration("request", "From a request's arrival to its answer")
        self._tokenization = self._duration("tokenization", "Counting a context's tokens")
        self._queued = self._duration("queue", "Waiting for a worker")
        self._inference = self._duration("inference", "A batch with its worker")

    def answered(self, timings: Timings, total_s: float) -> None:
        """Count a request that was answered."""
        self._outcomes[OK].inc()
        self._total.observe(total_s)
        self._input_tokens.observe(timings.n_tokens)
        self._tokenization.observe(timings.tokenization_s)
        if timings.cache is not None:
            self._cache[timings.cache].inc()
        if timings.cache != "hit":
            self._queued.observe(timings.queue_s)

    def failed(self, error: errors.NeuralCondenseError) -> None:
        """Count a request that was answered with an error."""
        code = error.code if error.code in self._outcomes else errors.NeuralCondenseError.code
        self._outcomes[code].inc()
        reason = "not_ready" if isinstance(error, errors.UnavailableError) else "other"
        if isinstance(error, errors.OverloadedError):
            reason = str(error.detail.get("reason", reason))
        if isinstance(error, errors.RetryableError):
            self._rejections[reason if reason in self._rejections else "other"].inc()

    def gone(self) -> None:
        """Count a client that hung up."""
        self._outcomes[CLIENT_GONE].inc()

    def dropped(self, reason: str) -> None:
        """Count a request that never reached a worker: ``"expired"`` or ``"abandoned"``."""
        self._dropped[reason].inc()

    def batch(self, n_requests: int, n_tokens: int, seconds: float) -> None:
        """Count a batch that came back."""
        self._batch_size.observe(n_requests)
        self._batch_tokens.observe(n_tokens)
        self._inference.observe(seconds)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a value that is read when the metrics are.

        Parameters
        ----------
        name : without the prefix
        text : what it is
        read : returns it
        """
        Gauge(f"{PREFIX}_{name}", text, registry=self.registry).set_function(read)

    def write(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _duration(self, name: str, text: str) -> Histogram:
        return self._histogram(f"{name}_duration_seconds", text, SECONDS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, buckets=buckets, registry=self.registry)


def outcomes() -> tuple[str, ...]:
    """Return the codes of all errors that a request can end with."""
    found = {errors.NeuralCondenseError.code}
    classes: list[type[errors.NeuralCondenseError]] = [errors.NeuralCondenseError]
    while classes:
        below = classes.pop().__subclasses__()
        found.update(each.code for each in below)
        classes += below
    return tuple(sorted(found))
