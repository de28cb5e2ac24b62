import asyncio
import logging

import httpx
import orjson
import pytest
from fake_engine import PRIVATE, ask, error_of

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    UnavailableError,
    UnknownModelError,
)
from neural_condense_core.serving import condense_route
from neural_condense_core.serving.app import create_app
from neural_condense_core.serving.engine import Readiness
from neural_condense_core.serving.settings import OWN_PATHS, ServeSettings
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import JSON_BASE64, SAFETENSORS, from_safetensors


def test_context_alone_is_valid(engine):
    reply = ask(engine, json={"context": "abcdefgh"})
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == {
        "compressed_tokens",
        "target_model",
        "n_context_tokens",
        "n_condensed_tokens",
        "positions",
    }
    assert (len(body["compressed_tokens"]), len(body["compressed_tokens"][0])) == (2, 64)
    assert (body["target_model"], body["n_context_tokens"]) == ("toy", 8)
    assert reply.headers["vary"] == "Accept"


def test_every_field_reaches_the_engine(engine):
    fields = {"target_model": "toy", "ratio": 2, "max_condensed_tokens": 3}
    reply = ask(engine, json={"context": "abcdefgh", "unknown": 1, **fields})
    assert reply.json()["n_condensed_tokens"] == 3
    (asked,) = engine.asked
    asked.pop("deadline_s")
    assert asked == {"target_model": "toy", "ratio": 2.0, "max_condensed_tokens": 3}


def test_the_deadline_is_the_time_limit(engine):
    async def go():
        application = create_app(engine, ServeSettings("echo", timeout_s=7.0))
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            before_s = asyncio.get_running_loop().time()
            await client.post("/condense", json={"context": "a"})
            return engine.asked[0]["deadline_s"] - before_s

    assert 7.0 <= asyncio.run(go()) < 7.5


@pytest.mark.parametrize(
    ("accept", "settings", "encoding", "kind"),
    [
        ("*/*", {}, None, dict),
        ("application/json", {}, None, dict),
        ("application/json; shape=list", {}, None, list),
        ("*/*", {"reply": "list"}, None, list),
        ("application/json", {"reply": "list"}, None, list),
        ("application/json; shape=object", {"reply": "list"}, None, dict),
        ("*/*", {"reply": "list"}, "float", list),
        ("*/*", {}, "float", dict),
    ],
)
def test_both_shapes(engine, accept, settings, encoding, kind):
    body = {"context": "abcdefgh"}
    if encoding:
        body["encoding_format"] = encoding
    reply = ask(
        engine, settings=ServeSettings("echo", **settings), json=body, headers={"Accept": accept}
    )
    assert type(reply.json()) is kind


def test_encoding_format_and_accept_wins(engine):
    body = {"context": "abcdefgh", "encoding_format": "base64"}
    assert "compressed_tokens_b64" in ask(engine, json=body).json()
    reply = ask(engine, json=body, headers={"Accept": SAFETENSORS.media_type})
    assert reply.headers["content-type"] == SAFETENSORS.content_type
    assert ask(engine, json=body).headers["content-type"] == JSON_BASE64.content_type


def test_binary_replies_are_described_by_headers(engine):
    accept = {"Accept": "application/vnd.safetensors; dtype=float16"}
    reply = ask(engine, json={"context": "abcdefgh"}, headers=accept)
    assert reply.headers["x-condense-dtype"] == "float16"
    assert reply.headers["x-condense-shape"] == "2,64"
    assert reply.headers["x-condense-n-context-tokens"] == "8"
    assert reply.headers["vary"] == "Accept"
    tokens = from_safetensors(reply.content, Limits(10_000, 10))
    assert (tokens.embeds.shape, tokens.target_model) == ((2, 64), "toy")


JSON_TYPE = {"Content-Type": "application/json"}

BAD_BODIES = [
    (b"", 400, "not_json"),
    (b"{", 400, "not_json"),
    (b'{"context": NaN}', 400, "not_json"),
    (b"\xff\xfe", 400, "not_json"),
    (b"[]", 422, "invalid_request"),
    (b"{}", 422, "invalid_request"),
    (b'{"context": 3}', 422, "invalid_request"),
    (b'{"context": ["' + PRIVATE.encode() + b'"]}', 422, "invalid_request"),
    (b'{"context": ""}', 422, "invalid_request"),
    (b'{"context": " \\n\\t"}', 422, "invalid_request"),
    (b'{"context": "a", "ratio": "4"}', 422, "invalid_request"),
    (b'{"context": "a", "ratio": 0.5}', 422, "invalid_request"),
    (b'{"context": "a", "max_condensed_tokens": 0}', 422, "invalid_request"),
    (b'{"context": "a", "encoding_format": "hex"}', 422, "invalid_request"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES)
def test_bad_bodies(engine, body, status, code):
    reply = ask(engine, content=body, headers=JSON_TYPE)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    assert not engine.asked


def test_a_context_above_the_limit_is_413_and_not_echoed(engine):
    reply = ask(engine, json={"context": PRIVATE * 100})
    assert (reply.status_code, error_of(reply)["code"]) == (413, "context_too_long")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("nonsense", 415),
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        (None, 200),
    ],
)
def test_content_type(engine, header, status):
    headers = {} if header is None else {"Content-Type": header}
    reply = ask(engine, content=b'{"context": "a"}', headers=headers)
    assert reply.status_code == status
    if status == 415:
        assert error_of(reply)["code"] == "unsupported_media_type"


def test_406_lists_what_is_offered(engine):
    reply = ask(engine, json={"context": "a"}, headers={"Accept": "image/png"})
    assert reply.status_code == 406
    assert "application/vnd.safetensors" in error_of(reply)["detail"]["offered"]
    assert not engine.asked


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_cap_is_413_whether_it_says_its_length_or_not(
    engine, monkeypatch, chunked
):
    monkeypatch.setattr(condense_route, "MAX_BODY_BYTES", 1000)
    fits = b'{"context": "' + b"a" * 985 + b'"}'
    assert len(fits) == 1000

    async def chunks(body):
        for start in range(0, len(body), 64):
            yield body[start : start + 64]

    for body, status in [(fits, 200), (fits + b" ", 413), (fits + b" " * 9000, 413)]:
        content = chunks(body) if chunked else body
        reply = ask(engine, content=content, headers=JSON_TYPE)
        assert reply.status_code == status
        if status == 413:
            assert error_of(reply)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (UnknownModelError("toy is served", {"target_model": "toy"}), 404, "unknown_model", None),
        (OverloadedError("full"), 429, "overloaded", "1"),
        (OverloadedError("full", retry_after_s=2.2), 429, "overloaded", "3"),
        (UnavailableError("loading", retry_after_s=0.1), 503, "unavailable", "1"),
        (DeadlineError("late"), 504, "deadline", None),
        (NeuralCondenseError("broken"), 500, "internal", None),
        (ValueError(PRIVATE), 500, "internal", None),
    ],
)
def test_errors_of_the_engine(engine, error, status, code, retry_after):
    engine.error = error
    reply = ask(engine, json={"context": PRIVATE})
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    assert reply.headers.get("retry-after") == retry_after


def test_unknown_routes_and_methods_have_the_one_error_body(engine):
    reply = ask(engine, "GET", f"/{PRIVATE}")
    assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")
    assert "POST /condense" in reply.json()["error"]["detail"]["routes"]
    reply = ask(engine, "GET", "/condense")
    assert (reply.status_code, error_of(reply)["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


def test_api_path_moves_the_endpoint(engine):
    settings = ServeSettings("echo", api_path="/v1/squeeze")
    body = {"context": "a"}
    assert ask(engine, path="/v1/squeeze", settings=settings, json=body).status_code == 200
    assert ask(engine, path="/condense", settings=settings, json=body).status_code == 404
    assert ask(engine, "GET", "/info", settings=settings).json()["api_path"] == "/v1/squeeze"


def test_every_route_but_the_condensing_one_is_an_own_path(engine):
    application = create_app(engine, ServeSettings("echo"))
    paths = [route.path for route in application.routes]
    assert sorted(paths) == sorted([*OWN_PATHS, "/condense"])


def test_health(engine):
    assert ask(engine, "GET", "/health/live").json() == {"state": "live"}
    reply = ask(engine, "GET", "/health/ready")
    assert (reply.status_code, reply.json()) == (
        200,
        {"state": "ready", "workers": 2, "total": 1, "reason": None},
    )
    engine.readiness_now = Readiness("loading", 0, "load", 0.3, 1.25, None)
    reply = ask(engine, "GET", "/health/ready")
    assert reply.status_code == 503
    assert reply.json() == {
        "state": "loading",
        "stage": "load",
        "done": 0.3,
        "elapsed_s": 1.25,
        "reason": None,
        "workers": 0,
        "total": 1,
    }
    assert reply.headers["retry-after"] == "1"


def test_info(engine):
    settings = ServeSettings("echo", max_context_tokens=100, timeout_s=5.0)
    body = ask(engine, "GET", "/info", settings=settings).json()
    assert body.pop("formats")[0] == "application/json"
    assert body == {
        "condenser": "echo",
        "target_model": "toy",
        "hidden_size": 64,
        "ratios": [2, 4],
        "default_ratio": 4.0,
        "model_revision": None,
        "api_path": "/condense",
        "limits": {"max_body_bytes": 4_000_000, "max_context_tokens": 100, "timeout_s": 5.0},
    }
    engine.loaded = None
    assert ask(engine, "GET", "/info").status_code == 503


def test_openapi_types_the_request_the_reply_and_the_errors(engine):
    spec = ask(engine, "GET", "/openapi.json").json()
    post = spec["paths"]["/condense"]["post"]
    assert "context" in orjson.dumps(post["requestBody"]).decode()
    statuses = {"400", "404", "406", "413", "415", "422", "429", "500", "503", "504"}
    assert set(post["responses"]) == {"200"} | statuses
    for status in statuses:
        schema = post["responses"][status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    assert "application/vnd.safetensors" in post["responses"]["200"]["content"]


def test_no_context_in_logs(engine, caplog):
    caplog.set_level(logging.DEBUG)
    ask(engine, json={"context": PRIVATE})
    engine.error = OverloadedError("full")
    ask(engine, json={"context": PRIVATE})
    assert "200 6 condensed, 23 tokens in" in caplog.text
    assert "429 overloaded, 0 tokens in" in caplog.text
    assert PRIVATE not in caplog.text


def test_a_client_that_hangs_up_gives_its_request_up(engine):
    engine.delay_s = 30.0
    application = create_app(engine, ServeSettings("echo"))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/condense",
        "raw_path": b"/condense",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
    }
    messages = [
        {"type": "http.request", "body": b'{"context": "a"}', "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive():
        if len(messages) == 1:
            await asyncio.sleep(0.05)
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(asyncio.wait_for(application(scope, receive, send), 5))
    assert engine.cancelled == 1
    assert sent[0]["status"] == 499


def test_a_body_that_never_ends_is_504(engine):
    async def trickle():
        yield b'{"context": '
        await asyncio.sleep(30)

    settings = ServeSettings("echo", timeout_s=0.1)
    reply = ask(engine, settings=settings, content=trickle(), headers=JSON_TYPE)
    assert (reply.status_code, error_of(reply)["code"]) == (504, "deadline")
