"""What a gateway counts, for Prometheus; bounded label sets, nothing of a prompt."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from neural_condense_core.gateway.preparing import Report
from neural_condense_core.gateway.replies import Usage
from neural_condense_core.gateway.store import ContextStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """Counters of one gateway.

    Parameters
    ----------
    store : whose size is told
    """

    def __init__(self, store: ContextStore) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "condense_gateway_requests", "Requests", ["route", "status"], registry=registry
        )
        self._tokens = Counter(
            "condense_gateway_tokens", "Tokens by kind", ["kind"], registry=registry
        )
        self._parts = Counter(
            "condense_gateway_parts",
            "Parts of prompts that were condensed or tried",
            ["sent_as", "reason", "from_store"],
            registry=registry,
        )
        self._first = Histogram(
            "condense_gateway_first_token_seconds",
            "From arrival to the first piece",
            buckets=_SECONDS,
            registry=registry,
        )
        self._total = Histogram(
            "condense_gateway_request_seconds",
            "From arrival to the end of the answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_hand = Gauge("condense_gateway_in_hand", "Requests in hand", registry=registry)
        restarts = Gauge("condense_gateway_reader_restarts", "Readers lost", registry=registry)
        self.restarts = restarts
        contexts = Gauge("condense_gateway_contexts", "Stored contexts", registry=registry)
        contexts.set_function(lambda: len(store))
        nbytes = Gauge("condense_gateway_contexts_bytes", "Of their matrices", registry=registry)
        nbytes.set_function(lambda: store.nbytes)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._total.labels(route).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Note how long the first piece took."""
        self._first.observe(seconds)

    def answered(self, usage: Usage, report: Report) -> None:
        """Count what an answer took."""
        self._tokens.labels("prompt").inc(usage.n_prompt)
        self._tokens.labels("cached").inc(usage.n_cached)
        self._tokens.labels("completion").inc(usage.n_completion)
        self._tokens.labels("saved").inc(max(0, usage.n_saved))
        for part in report.parts:
            self._parts.labels(part.sent_as, part.reason, str(part.from_store).lower()).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)
