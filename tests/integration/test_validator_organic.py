"""The organic API and its clients, sync and async, against each other over real HTTP."""

import asyncio
import contextlib
import json
import logging
import socket
import time

import httpx
import numpy as np
import pytest
from organic_gate import MARKER, TEXT, VALIDATOR, Gate
from subnet_fakes import (
    BROKEN,
    TIERS,
    pair,
)

from neural_condense_core.client.organic import AsyncOrganicClient, OrganicClient, Signer
from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    ContextTooLongError,
    OverloadedError,
    RequestError,
    UnauthorizedError,
    UnknownMinerError,
    UnknownTierError,
)
from neural_condense_core.ratelimit import RateLimiter
from neural_condense_core.validator import gate
from neural_condense_core.validator.organic import Board
from neural_condense_core.wire.signing import sign_request

USER, MINER = pair("user"), pair("miner")


@pytest.fixture
def served(tmp_path):
    made = Gate(tmp_path)
    yield made
    made.close()


def code_of(reply):
    return reply.status_code, reply.json()["error"]["code"]


def test_trap_38_the_sync_client_against_the_real_gate(served):
    with OrganicClient(served.url, api_key=served.key) as client:
        found = client.serve(TEXT)
        assert (found.uid, found.hotkey, found.tier) == (0, "m0", "research")
        np.testing.assert_array_equal(found.tokens.embeds, np.full((2, 8), 0.9, np.float32))
        assert client.condense(TEXT, uid=1).embeds[0, 0] == np.float32(0.5)
        assert {one.name: one.n_miners for one in client.tiers().tiers} == {
            "research": 2, "inference_0": 0,
        }  # fmt: skip
        with pytest.raises(ContextTooLongError):
            client.condense("x" * 1001)


def test_a_client_with_more_patience_than_a_request_may_name_is_served(served):
    with OrganicClient(served.url, api_key=served.key, timeout_s=3_600) as client:
        assert client.serve(TEXT).uid == 0


def test_refusals_come_as_their_own_classes(served):
    with OrganicClient(served.url, api_key="nck_wrong") as client, pytest.raises(UnauthorizedError):
        client.condense(TEXT)
    with OrganicClient(served.url, api_key=served.key) as client:
        with pytest.raises(UnknownTierError):
            client.condense(TEXT, tier="nowhere")
        with pytest.raises(UnknownMinerError):
            client.condense(TEXT, uid=77)


def test_trap_38_the_async_client_against_the_real_gate(served):
    async def run():
        async with AsyncOrganicClient(served.url, api_key=served.key) as client:
            return await asyncio.gather(*(client.condense(TEXT) for _ in range(8)))

    found = asyncio.run(run())
    assert [one.n_condensed_tokens for one in found] == [2] * 8


def test_json_is_the_default_for_anyone(served):
    reply = served.post()
    assert reply.status_code == 200
    assert reply.json()["compressed_tokens"][0][0] == pytest.approx(0.9)
    assert reply.headers["x-condense-miner-uid"] == "0"
    assert reply.headers["x-condense-quota-left"] == "999"
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"context": TEXT, "tier": "none"}, (404, "unknown_tier")),
        ({"context": TEXT, "target_model": "none"}, (404, "unknown_model")),
        ({"context": TEXT, "uid": 999}, (404, "unknown_miner")),
        ({"context": TEXT, "uid": -1}, (404, "unknown_miner")),
        ({"context": TEXT, "tier": "inference_0"}, (503, "unavailable")),
        ({"context": "x" * 1001}, (413, "context_too_long")),
        ({"context": ""}, (422, "invalid_request")),
        ({"context": "  "}, (422, "invalid_request")),
        ({"context": 5}, (422, "invalid_request")),
        ({}, (422, "invalid_request")),
        ([], (422, "invalid_request")),
    ],
)
def test_trap_31_one_status_a_cause_over_http(served, body, expected):
    reply = served.post(body)
    assert code_of(reply) == expected
    assert MARKER not in reply.text


def test_other_faults_of_a_request_have_their_status(served):
    key = {"Authorization": f"Bearer {served.key}"}
    with httpx.Client(trust_env=False, base_url=served.url) as http:
        assert http.post("/v1/condense", content=b"{", headers=key).status_code == 400
        typed = key | {"Content-Type": "text/plain"}
        assert http.post("/v1/condense", content=b"{}", headers=typed).status_code == 415
        wanted = key | {"Accept": "image/png"}
        assert http.post("/v1/condense", json={}, headers=wanted).status_code == 406
        assert http.get("/v1/condense").status_code == 405
        assert http.get("/none").status_code == 404
        late = key | {"X-Request-Timeout": "nan"}
        assert http.post("/v1/condense", json={"context": "a"}, headers=late).status_code == 422
        big = http.post("/v1/condense", json={"context": "x" * 4_000_001}, headers=key)
        assert big.status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer nck_0_x"},
        {"Authorization": "Basic eA=="}, {"Authorization": "Bearer " + "x" * 5000},
        {"X-Bittensor-Hotkey": "5" + "F" * 60_000}, {"X-Bittensor-Hotkey": ""},
    ],
)  # fmt: skip
def test_trap_26_missing_or_wrong_credentials_are_401(served, headers):
    reply = served.post(headers=headers)
    assert reply.status_code == 401
    assert served.dendrite.asked == []


def signed(body, **changes):
    facts = {
        "method": "POST", "target": "/v1/condense", "body": body,
        "receiver": VALIDATOR.ss58_address,
    } | changes  # fmt: skip
    return {**sign_request(USER, **facts), "Content-Type": "application/json"}


def test_trap_26_a_replayed_or_altered_request_is_401(served):
    served.users.add_hotkey(USER.ss58_address, "carol")
    body = b'{"context": "a text of a user"}'
    headers = signed(body)
    with httpx.Client(trust_env=False) as http:
        url = served.url + "/v1/condense"
        assert http.post(url, content=body, headers=headers).status_code == 200
        assert http.post(url, content=body, headers=headers).status_code == 401
        for wrong in (
            signed(b"other"), signed(body, target="/v1/other"),
            signed(body, receiver=MINER.ss58_address), signed(body, method="PUT"),
        ):  # fmt: skip
            assert http.post(url, content=body, headers=wrong).status_code == 401


def test_a_signed_user_needs_to_be_admitted(served):
    signer = Signer(USER, VALIDATOR.ss58_address)
    with OrganicClient(served.url, signer=signer) as client:
        with pytest.raises(RequestError) as caught:
            client.condense(TEXT)
        assert caught.value.detail["status"] == 403
        served.users.add_hotkey(USER.ss58_address, "carol")
        assert client.condense(TEXT).n_condensed_tokens == 2


def test_a_quota_ends_with_429_and_a_time(served):
    _, key = served.users.add("bob", quota=1)
    headers = {"Authorization": f"Bearer {key}"}
    assert served.post(headers=headers).status_code == 200
    reply = served.post(headers=headers)
    assert code_of(reply) == (429, "overloaded")
    assert int(reply.headers["retry-after"]) > 0
    with (
        OrganicClient(served.url, api_key=key, timeout_s=5) as client,
        pytest.raises(OverloadedError),
    ):
        client.condense(TEXT)


def test_failover_is_the_gates_business(served):
    served.dendrite.behaviours["m0"] = BROKEN
    assert served.post().headers["x-condense-miner-uid"] == "1"
    served.dendrite.behaviours["m1"] = BROKEN
    reply = served.post()
    assert code_of(reply) == (502, "backend")
    assert reply.json()["error"]["detail"]["attempts"] == ["not_finite", "not_finite"]
    with OrganicClient(served.url, api_key=served.key) as client, pytest.raises(BackendError):
        client.condense(TEXT)


def test_a_miner_gets_its_own_explanation_and_no_other(served):
    with OrganicClient(served.url, signer=Signer(MINER, VALIDATOR.ss58_address)) as client:
        assert client.explain().hotkey == MINER.ss58_address
    with (
        OrganicClient(served.url, api_key=served.key) as client,
        pytest.raises(ConfigError, match="signed"),
    ):
        client.explain()
    with httpx.Client(trust_env=False) as http:
        url = f"{served.url}/v1/explain?hotkey={USER.ss58_address}"
        headers = sign_request(
            MINER, method="GET", target=url.removeprefix(served.url), body=b"",
            receiver=VALIDATOR.ss58_address,
        )  # fmt: skip
        assert http.get(url, headers=headers).json()["hotkey"] == MINER.ss58_address
        assert http.get(url).status_code == 401


def test_a_question_with_a_body_is_refused(served):
    body = b"x" * 1000
    headers = sign_request(
        MINER, method="GET", target="/v1/explain", body=body, receiver=VALIDATOR.ss58_address
    )
    with httpx.Client(trust_env=False) as http:
        reply = http.request("GET", f"{served.url}/v1/explain", content=body, headers=headers)
    assert code_of(reply) == (413, "body_too_large")


def test_one_address_holds_few_of_the_places_of_signed_bodies(served):
    served.users.add_hotkey(USER.ss58_address, "carol")
    body = json.dumps({"context": TEXT}).encode()
    head = {"content-type": "application/json", "content-length": str(len(body)), "host": "x"}

    def signed():
        return sign_request(
            USER, method="POST", target="/v1/condense", body=body,
            receiver=VALIDATOR.ss58_address,
        )  # fmt: skip

    def ask(address):
        headers = {**head, **signed(), "x-forwarded-for": address}
        with httpx.Client(trust_env=False) as http:
            return http.post(served.url + "/v1/condense", content=body, headers=headers)

    port = httpx.URL(served.url).port
    with contextlib.ExitStack() as held:
        for _ in range(gate.MAX_UNPROVEN_EACH):
            lines = "".join(f"{name}: {value}\r\n" for name, value in (head | signed()).items())
            slow = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(f"POST /v1/condense HTTP/1.1\r\n{lines}\r\n{{".encode())
        routes = next(route for route in served.app.routes if route.path == "/v1/condense")
        unproven = routes.endpoint.__self__._unproven
        give_up_s = time.monotonic() + 20
        while unproven._taken.total() < gate.MAX_UNPROVEN_EACH and time.monotonic() < give_up_s:
            time.sleep(0.01)
        assert code_of(ask("127.0.0.1")) == (429, "overloaded")
        assert ask("203.0.113.9").status_code == 200


def test_guessing_keys_is_stopped(served, monkeypatch):
    monkeypatch.setattr(gate, "FAILURES_A_MINUTE", 3)
    routes = next(route for route in served.app.routes if route.path == "/v1/condense")
    routes.endpoint.__self__._failures = RateLimiter(60.0, default=3)
    wrong = {"Authorization": "Bearer wrong"}
    assert [served.post(headers=wrong).status_code for _ in range(5)] == [401] * 3 + [429] * 2


def test_health_says_what_is_served(served):
    with httpx.Client(trust_env=False, base_url=served.url) as http:
        assert http.get("/health/live").status_code == 200
        assert http.get("/health/ready").json() == {"state": "ready", "workers": 2}
        served.board = Board(TIERS)
        reply = http.get("/health/ready")
        assert (reply.status_code, reply.json()["stage"]) == (503, "waiting for the chain")


def test_trap_28_no_text_in_log_or_records(served, caplog):
    caplog.set_level(logging.DEBUG)
    served.post()
    served.post({"context": TEXT, "tier": "none"})
    served.dendrite.behaviours = {}
    assert served.post().status_code == 500
    assert MARKER not in caplog.text
    for path in served.records.path.parent.iterdir():
        assert MARKER.encode() not in path.read_bytes()
