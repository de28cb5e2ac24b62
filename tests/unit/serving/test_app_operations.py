"""What a client and an operator see of a request beside its reply."""

import asyncio
import logging

import httpx
import pytest
from fake_engine import PRIVATE, ask, error_of

from neural_condense_core.errors import OverloadedError
from neural_condense_core.serving.app import create_app
from neural_condense_core.serving.metrics import Metrics
from neural_condense_core.serving.readiness import Readiness
from neural_condense_core.serving.settings import ServeSettings


@pytest.mark.parametrize(("said", "limit_s"), [("3", 3.0), ("2.5", 2.5), ("900", 7.0), (None, 7.0)])
def test_a_client_shortens_the_time_limit_and_never_lengthens_it(engine, said, limit_s):
    async def go():
        application = create_app(engine, ServeSettings("echo", timeout_s=7.0))
        transport = httpx.ASGITransport(application)
        headers = {} if said is None else {"X-Request-Timeout": said}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            before_s = asyncio.get_running_loop().time()
            await client.post("/condense", json={"context": "a"}, headers=headers)
            return engine.asked[0]["deadline_s"] - before_s

    assert limit_s <= asyncio.run(go()) < limit_s + 0.5


@pytest.mark.parametrize("said", ["0", "-1", "soon", "nan", "inf", "1" * 99, ""])
def test_a_timeout_that_is_no_number_of_seconds_is_422(engine, said):
    reply = ask(engine, json={"context": "a"}, headers={"X-Request-Timeout": said})
    assert (reply.status_code, error_of(reply)["code"]) == (422, "invalid_request")
    assert not engine.asked


def test_where_the_time_went_is_in_the_headers(engine):
    reply = ask(engine, json={"context": "abcdefgh"})
    assert reply.headers["x-queue-time"] == "250.000"
    assert reply.headers["x-inference-time"] == "500.000"
    assert float(reply.headers["x-total-time"]) > 0
    assert float(reply.headers["x-tokenization-time"]) == 0
    assert reply.headers["x-compute-tokens"] == "8"
    assert "x-condense-cache" not in reply.headers


@pytest.mark.parametrize("cache", ["hit", "miss"])
def test_whether_it_came_from_the_cache_is_in_the_headers(engine, cache):
    engine.cache = cache
    reply = ask(engine, json={"context": "abcdefgh"})
    assert reply.headers["x-condense-cache"] == cache


@pytest.mark.parametrize("body", [{"context": "a"}, {}])
def test_a_request_id_comes_back_and_stands_in_the_log(engine, caplog, body):
    caplog.set_level(logging.INFO)
    reply = ask(engine, json=body, headers={"X-Request-Id": "order-66"})
    assert reply.headers["x-request-id"] == "order-66"
    assert "[order-66]" in caplog.text
    replies = [ask(engine, json=body, headers={"X-Request-Id": "a b"}) for _ in range(2)]
    assert len({reply.headers["x-request-id"] for reply in replies}) == 2
    assert "a b" not in caplog.text


def test_metrics_count_what_became_of_requests(engine):
    metrics = Metrics()
    ask(engine, json={"context": PRIVATE}, metrics=metrics)
    ask(engine, json={}, metrics=metrics)
    engine.error = OverloadedError("full", {"reason": "queued_tokens"})
    ask(engine, json={"context": "a"}, metrics=metrics)
    reply = ask(engine, "GET", "/metrics", metrics=metrics)
    assert reply.headers["content-type"].startswith("text/plain; version=")
    lines = reply.text.splitlines()
    assert 'condense_requests_total{outcome="ok"} 1.0' in lines
    assert 'condense_requests_total{outcome="invalid_request"} 1.0' in lines
    assert 'condense_rejections_total{reason="queued_tokens"} 1.0' in lines
    assert PRIVATE not in reply.text


def test_some_workers_missing_is_said_and_still_ready(engine):
    engine.readiness_now = Readiness("ready", 1, "load", 0.3, 5.0, "worker 1 died at work", 2)
    reply = ask(engine, "GET", "/health/ready")
    assert reply.status_code == 200
    assert reply.json() == {
        "state": "ready",
        "workers": 1,
        "total": 2,
        "reason": "worker 1 died at work",
    }
