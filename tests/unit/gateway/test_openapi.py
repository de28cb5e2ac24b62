"""What the gateway says of itself is what it takes and answers."""

from __future__ import annotations

import json

import pytest
from gateway_fakes import World, text_of
from jsonschema import Draft202012Validator

from neural_condense_core.api_keys import ApiUsers
from neural_condense_core.errors import (
    BackendError,
    DeadlineError,
    OverloadedError,
    UnavailableError,
)

CHAT, COMPLETIONS, CONDENSE = "/v1/chat/completions", "/v1/completions", "/v1/condense"
MESSAGES = [{"role": "user", "content": f"{text_of(200)}\n\nwhy?"}]


@pytest.fixture
def spec(world):
    return world.ask("GET", "/openapi.json").json()


def validator(spec, schema):
    return Draft202012Validator({**schema, "components": spec["components"]})


def operations(spec):
    return {
        (method.upper(), path): said
        for path, methods in spec["paths"].items()
        for method, said in methods.items()
    }


def holds(spec, method, path, response):
    """Hold a reply against what is said of its status."""
    said = operations(spec)[method, path]["responses"][str(response.status_code)]
    kind = response.headers["content-type"].partition(";")[0]
    schema = said["content"][kind]["schema"]
    if kind == "application/json":
        validator(spec, schema).validate(response.json())
    return schema


def test_every_operation_is_described(spec):
    found = operations(spec)
    assert len(found) >= 13
    for (method, path), said in found.items():
        assert said["responses"], path
        assert ("requestBody" in said) == (method == "POST"), path
        names = {each["name"] for each in said["parameters"]}
        assert all(f"{{{name}}}" in path for name in names)
        assert len(names) == path.count("{")
        if not path.startswith(("/health", "/metrics")):
            assert {"401", "403", "429", "500"} <= said["responses"].keys(), path
    Draft202012Validator.check_schema(spec["components"]["schemas"]["ChatRequest"])
    text = json.dumps(spec)
    assert "$defs" not in text
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in spec["components"]["schemas"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "toy", "messages": MESSAGES, "condense": {"mode": "always"}}),
        (CHAT, {"model": "toy", "messages": MESSAGES, "stop": ["x"], "max_tokens": 3, "n": 1}),
        (COMPLETIONS, {"model": "toy", "prompt": ["once upon"], "temperature": 0.5}),
        (CONDENSE, {"context": text_of(80), "ratio": 4}),
    ],
)
def test_requests_and_replies_are_as_described(world, spec, path, body):
    asked = operations(spec)["POST", path]["requestBody"]["content"]["application/json"]
    validator(spec, asked["schema"]).validate(body)
    response = world.ask("POST", path, json=body)
    assert response.is_success
    holds(spec, "POST", path, response)


@pytest.mark.parametrize(
    "body",
    [
        {"model": "toy", "messages": []},
        {"model": "toy", "messages": [{"role": "robot", "content": "x"}]},
        {"model": "toy", "messages": MESSAGES, "temperature": 3},
        {"model": "toy", "messages": MESSAGES, "condense": {"mode": "much"}},
        {"messages": MESSAGES},
    ],
)
def test_what_the_schema_refuses_is_refused(world, spec, body):
    asked = operations(spec)["POST", CHAT]["requestBody"]["content"]["application/json"]
    assert not validator(spec, asked["schema"]).is_valid(body)
    assert world.ask("POST", CHAT, json=body).status_code == 400


def test_every_event_of_a_stream_is_as_described(world, spec):
    for path, more in ((CHAT, {"messages": MESSAGES}), (COMPLETIONS, {"prompt": "once"})):
        body = {"model": "toy", "stream": True, "stream_options": {"include_usage": True}, **more}
        response = world.ask("POST", path, json=body)
        schema = holds(spec, "POST", path, response)
        lines = response.text.split("\n\n")[:-2]
        assert len(lines) > 4
        for line in lines:
            validator(spec, schema["x-event"]).validate(json.loads(line.removeprefix("data: ")))


def test_the_other_replies_are_as_described(world, spec):
    info = world.ask("POST", CONDENSE, json={"context": text_of(80)}).json()
    one = "/v1/contexts/{context_id}"
    for method, path in (
        ("GET", "/v1/models"), ("GET", "/v1/models/{model}"), ("GET", "/v1/contexts"),
        ("GET", one), ("DELETE", one), ("GET", "/health/live"), ("GET", "/health/ready"),
        ("GET", "/metrics"), ("GET", "/playground/info"),
    ):  # fmt: skip
        asked = path.format(model="toy", context_id=info["id"])
        response = world.ask(method, asked)
        assert response.is_success, path
        holds(spec, method, path, response)
    world.source.is_ready = False
    response = world.ask("GET", "/health/ready")
    assert response.status_code == 503
    holds(spec, "GET", "/health/ready", response)


def test_a_matrix_is_as_described(world, spec):
    kind = "application/vnd.safetensors"
    headers = {"accept": kind}
    response = world.ask("POST", CONDENSE, json={"context": text_of(80)}, headers=headers)
    assert response.status_code == 200
    holds(spec, "POST", CONDENSE, response)
    assert kind not in operations(spec)["POST", CONDENSE]["responses"]["201"]["content"]


def failing(error):
    found = World()
    found.reading.error = found.source.error = error
    return found


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, CONDENSE])
@pytest.mark.parametrize(
    "error",
    [
        BackendError("x"), DeadlineError("x"), OverloadedError("x"), UnavailableError("x"),
        RuntimeError("x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_failures_are_as_described(spec, path, error):
    bodies = {
        CHAT: {"model": "toy", "messages": MESSAGES},
        COMPLETIONS: {"model": "toy", "prompt": "x"},
        CONDENSE: {"context": text_of(80)},
    }
    response = failing(error).ask("POST", path, json=bodies[path])
    assert response.status_code >= 429
    holds(spec, "POST", path, response)


def test_refusals_are_as_described(world, spec, tmp_path):
    one = "/v1/contexts/{context_id}"
    asked = [
        ("GET", "/v1/models/{model}", 404, {}),
        ("GET", one, 404, {}),
        ("DELETE", one, 404, {}),
        ("GET", "/v1/models", 403, {"headers": {"origin": "http://evil.example"}}),
        ("POST", CHAT, 404, {"json": {"model": "gpt", "messages": MESSAGES}}),
        ("POST", CHAT, 413, {"content": b" " * 16_000_001}),
        ("POST", CONDENSE, 413, {"content": b" " * 4_000_001}),
        ("POST", "/playground/trace", 400, {"content": b"{"}),
        ("POST", "/playground/text", 400, {"content": b"x"}),
    ]
    for method, path, status, more in asked:
        response = world.ask(method, path.format(model="x", context_id="x"), **more)
        assert response.status_code == status, path
        holds(spec, method, path, response)
    with ApiUsers(tmp_path / "keys.sqlite") as users:
        response = World(users).ask("GET", "/v1/models")
        assert response.status_code == 401
        holds(spec, "GET", "/v1/models", response)
