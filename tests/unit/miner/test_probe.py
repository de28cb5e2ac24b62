import asyncio
import json

import httpx
import pytest
from miner_parts import HIDDEN, MODEL, TIER

from neural_condense_core.config import MinerSettings
from neural_condense_core.constants import EMBEDDED_TARGET_MODEL, TARGET_MODEL, TIERS, TierConfig
from neural_condense_core.errors import ConfigError
from neural_condense_core.miner.probe import backend_line, probe_backend

EMBEDDED = TierConfig("e", 0.0, 10, 2.0, 32, 400, target_model=EMBEDDED_TARGET_MODEL)


class Ours:
    """A backend that has all of our routes."""

    def __init__(self, *, target=MODEL, hidden=HIDDEN, health=(), api_path="/condense", rows=3):
        self.health = list(health)
        self.target, self.hidden, self.rows = target, hidden, rows
        self.api_path = api_path
        self.contexts = []

    def info(self):
        return {
            "condenser": "x",
            "target_model": self.target,
            "hidden_size": self.hidden,
            "api_path": self.api_path,
            "limits": {"max_body_bytes": 1, "max_context_tokens": 1, "timeout_s": 1.0},
            "formats": [],
        }

    def __call__(self, request):
        path = request.url.path
        if path == "/health/ready":
            state = self.health.pop(0) if self.health else {"state": "ready", "workers": 1}
            return httpx.Response(200 if state["state"] == "ready" else 503, json=state)
        if path == "/info":
            return httpx.Response(200, json=self.info())
        asked = json.loads(request.content)
        self.contexts.append(asked["context"])
        if asked["target_model"] != self.target:
            detail = {"code": "unknown_model", "message": f"served is {self.target}"}
            return httpx.Response(404, json={"error": detail})
        rows = [[0.5] * self.hidden] * self.rows
        return httpx.Response(200, json={"compressed_tokens": rows, "target_model": self.target})


class Theirs(Ours):
    """A backend that speaks the specification and nothing more."""

    def __call__(self, request):
        if request.method == "GET":
            return httpx.Response(404, text="no such page")
        return super().__call__(request)


def probe(backend, tier=TIER, **settings):
    made = MinerSettings(netuid=1, **settings)
    return asyncio.run(probe_backend(made, tier, transport=httpx.MockTransport(backend)))


def fault(backend, tier=TIER, **settings):
    with pytest.raises(ConfigError) as caught:
        probe(backend, tier, **settings)
    return caught.value.message


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_a_backend_that_fits(kind):
    backend = kind()
    found = probe(backend)
    assert found.hidden_size == HIDDEN
    assert found.seconds >= 0
    assert [len(context) for context in backend.contexts] == [TIER.max_context_chars]


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_another_model_than_the_tiers_is_told_the_line_that_would_serve_it(kind):
    message = fault(kind(target=TARGET_MODEL), EMBEDDED, backend_port=8085)
    assert EMBEDDED_TARGET_MODEL in message
    assert TARGET_MODEL in message
    assert (
        "python services/miner_backend/serving/icae_app.py --port 8085 --devices 1 "
        "--workers_per_device 1" in message
    )
    assert fault(kind(target=EMBEDDED_TARGET_MODEL), TIERS["research"]).endswith(
        f"--workers_per_device 1 --target_model {TARGET_MODEL} --checkpoint ICAE_TRAINED_FOR_IT"
    )


class Liar(Theirs):
    def __call__(self, request):
        reply = super().__call__(request)
        if reply.status_code == 404 and request.method == "POST":
            rows = [[0.5] * self.hidden]
            return httpx.Response(200, json={"compressed_tokens": rows, "target_model": "other"})
        return reply


def test_a_reply_that_names_another_model():
    assert "its reply names another model" in fault(Liar(target="other"))


@pytest.mark.parametrize("kind", [Ours, Theirs])
def test_another_width_than_the_tiers(kind):
    backend = kind(target=EMBEDDED_TARGET_MODEL, hidden=64)
    assert "64 wide, those of smollm2-135m-instruct are 576" in fault(backend, EMBEDDED)


def test_more_tokens_than_the_tier_takes():
    assert "does not fit tier my-tier" in fault(Theirs(rows=33))


def test_nothing_answers():
    def refuse(request):
        raise httpx.ConnectError("refused")

    message = fault(refuse, backend_port=9999)
    assert "nothing answers at http://localhost:9999" in message
    assert "icae_app.py --port 9999" in message
    assert "nothing answers" in fault(refuse, tier=None)


def test_without_a_tier_only_whether_it_answers_is_asked():
    assert probe(Ours(), tier=None) is None


def test_a_loading_backend_is_waited_for():
    loading = {"state": "loading", "stage": "weights", "done": 0.5}
    assert probe(Ours(health=[loading, loading])).hidden_size == HIDDEN


def test_a_backend_that_loads_for_too_long():
    loading = {"state": "loading", "stage": "weights", "done": 0.5}
    assert "not ready" in fault(Ours(health=[loading] * 1000), backend_wait_s=0.3)


def test_a_backend_that_has_failed():
    failed = {"state": "failed", "reason": "no weights here"}
    assert "no weights here" in fault(Ours(health=[failed, failed]))


def test_another_path():
    assert "--miner.api_path /other" in fault(Ours(api_path="/other"))


def test_a_server_that_is_no_backend():
    message = fault(lambda request: httpx.Response(500, text="oops"))
    assert "does not fit tier my-tier" in message


def test_a_refusal_is_told():
    def busy(request):
        return httpx.Response(503 if request.method == "POST" else 404, json={})

    assert "does not condense" in fault(busy)


def test_lines():
    assert "--target_model" not in backend_line(1, None)
    assert "--target_model" not in backend_line(1, EMBEDDED)
