"""The scoring service's routes over a host without a model."""

import ast
import asyncio
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    UnavailableError,
)
from neural_condense_core.scoring import app as app_module
from neural_condense_core.scoring.app import create_app
from neural_condense_core.scoring.settings import ScoringSettings
from neural_condense_core.scoring.worker import Loaded
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.scoring import (
    MEDIA_TYPE,
    Challenge,
    ReplyRef,
    ScoreRequest,
    encode_score_request,
)

MARKER = "the marker in the context"
TOKEN = "-".join(["a", "token", "of", "some", "length"])


class Host:
    def __init__(self, outcome=b'{"schema": 1}', state="ready"):
        self.outcome = outcome
        self.state = state
        self.failure = NeuralCondenseError("no weights") if state == "failed" else None
        self.loaded = None if state == "loading" else Loaded("t", 4)
        self.started_s = time.monotonic()
        self.bodies = []
        self.cancelled = False

    def start(self):
        pass

    async def score(self, body):
        self.bodies.append(body)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return self.outcome


def body(target_model="t"):
    request = ScoreRequest(
        target_model=target_model,
        seed=1,
        challenges=(Challenge(id="c", context=MARKER, source="s", document="d", items=()),),
        replies=(ReplyRef(id="r", miner="m", challenge="c"),),
    )
    return encode_score_request(
        request, {"r": CondensedTokens(np.ones((2, 4), np.float32), "t", 8)}
    )


def ask(host=None, path="/v1/score", method="POST", settings=None, content=None, **headers):
    app = create_app(host or Host(), settings or ScoringSettings())

    async def go():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
            sent = {
                "content-type": MEDIA_TYPE,
                **{k.replace("_", "-"): v for k, v in headers.items()},
            }
            given = body() if content is None else content
            return await client.request(
                method, path, content=given if method == "POST" else None, headers=sent
            )

    return asyncio.run(go())


def code_of(reply):
    return reply.status_code, reply.json()["error"]["code"]


def test_a_round_reaches_the_model_s_process_as_it_came():
    host = Host()
    reply = ask(host)
    assert (reply.status_code, reply.json()) == (200, {"schema": 1})
    assert host.bodies == [body()]


# Trap 23: no authentication, any model, no limits.
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"bearer {TOKEN}", TOKEN, f"Bearer {TOKEN}x"]
)
def test_trap_23_without_the_token_nothing_is_read(given):
    host = Host()
    headers = {} if given is None else {"authorization": given}
    reply = ask(host, settings=ScoringSettings(token=TOKEN), **headers)
    assert code_of(reply) == (401, "unauthorized")
    assert TOKEN not in reply.text
    assert host.bodies == []


def test_trap_23_with_the_token_it_is_scored():
    reply = ask(settings=ScoringSettings(token=TOKEN), authorization=f"Bearer {TOKEN}")
    assert reply.status_code == 200


def test_trap_23_another_model_is_refused_and_never_loaded():
    host = Host()
    reply = ask(host, content=body("somebody/else"))
    assert code_of(reply) == (404, "unknown_model")
    assert host.bodies == []


def test_trap_23_a_body_over_the_limit_is_refused():
    reply = ask(settings=ScoringSettings(max_body_bytes=1024), content=b"\0" * 2000)
    assert code_of(reply) == (413, "body_too_large")


def test_trap_23_too_many_replies_are_refused():
    reply = ask(settings=ScoringSettings(max_challenges=1, max_replies=1))
    assert reply.status_code == 200
    assert ask(content=b"\0" * 100).status_code == 422


@pytest.mark.parametrize("content", [b"", b"hello", body()[:-1]])
def test_bytes_that_are_no_round_are_refused_at_once(content):
    host = Host()
    reply = ask(host, content=content)
    assert code_of(reply) == (422, "malformed")
    assert MARKER not in reply.text
    assert host.bodies == []


def test_another_content_type_is_refused():
    assert code_of(ask(content_type="application/json")) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        (OverloadedError("busy", retry_after_s=5), 429, "overloaded"),
        (UnavailableError("again"), 503, "unavailable"),
        (DeadlineError("late"), 504, "deadline"),
        (RuntimeError(MARKER), 500, "internal"),
    ],
)
def test_errors_have_their_status(outcome, status, code, caplog):
    with caplog.at_level(logging.DEBUG):
        reply = ask(Host(outcome))
    assert code_of(reply) == (status, code)
    assert ("Retry-After" in reply.headers) is (status in {429, 503})
    assert MARKER not in reply.text + caplog.text


# Trap 28: contexts were logged.
def test_trap_28_no_context_reaches_a_log(caplog):
    with caplog.at_level(logging.DEBUG):
        ask()
        ask(content=body("other"))
    assert "POST /v1/score" in caplog.text
    assert MARKER not in caplog.text


@pytest.mark.parametrize("state", ["loading", "failed", "draining"])
def test_before_and_after_it_is_ready_rounds_are_not_read(state):
    host = Host(state=state)
    assert code_of(ask(host)) == (503, "unavailable")
    ready = ask(host, "/health/ready", "GET")
    assert (ready.status_code, ready.json()["state"]) == (503, state)
    assert ask(host, "/health/live", "GET").status_code == 200


def test_health_and_info():
    assert ask(None, "/health/ready", "GET").json() == {"state": "ready", "workers": 1}
    info = ask(None, "/info", "GET").json()
    assert (info["target_model"], info["hidden_size"]) == ("t", 4)
    assert info["max_condensed_tokens"] == ScoringSettings.max_condensed_tokens
    assert "reconstruction" in info["tasks"]
    assert code_of(ask(Host(state="loading"), "/info", "GET")) == (503, "unavailable")


def test_the_framework_s_errors_have_the_same_body():
    assert code_of(ask(None, "/docs", "GET")) == (404, "not_found")
    assert code_of(ask(None, "/v1/score", "GET")) == (405, "method_not_allowed")


def test_rounds_that_arrive_are_counted(monkeypatch):
    monkeypatch.setattr(app_module, "MAX_BODIES", 0)
    assert code_of(ask()) == (429, "overloaded")


# Trap 22: text from outside was passed to eval, and weights were unpickled.
def test_trap_22_nothing_from_outside_is_run():
    package = Path(app_module.__file__).parents[1]
    banned = {"eval", "exec", "pickle", "marshal", "trust_remote_code", "allow_pickle"}
    found = set()
    for folder in ("scoring", "wire", "client"):
        for path in (package / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = {getattr(node, name, None) for name in ("id", "module", "arg", "name")}
                found |= {f"{path.name}: {name}" for name in names & banned}
    assert found == set()


def test_the_front_loads_no_torch():
    program = (
        "import sys, json; import neural_condense_core.scoring.app; "
        "print(json.dumps([m for m in ('torch', 'transformers') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout) == []
