"""The scoring service's client, on a transport that is no network."""

import asyncio

import httpx
import numpy as np
import pytest

from neural_condense_core.client.scoring import ScoringClient
from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    DeadlineError,
    OverloadedError,
    UnknownModelError,
)
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.scoring import (
    Challenge,
    MinerScore,
    ReplyRef,
    ScoreAnswer,
    ScoreLimits,
    ScoreRequest,
    ScoringInfo,
    decode_score_request,
)

REQUEST = ScoreRequest(
    target_model="t",
    seed=1,
    challenges=(Challenge(id="c", context="text", source="s", document="d", items=()),),
    replies=(ReplyRef(id="r", miner="m", challenge="c"),),
)
TENSORS = {"r": CondensedTokens(np.ones((2, 4), np.float32), "t", 8)}
ANSWER = ScoreAnswer(
    target_model="t",
    seconds=0.5,
    miners={"m": MinerScore(content_recovery=0.5, recovery=0.6, n_items=2)},
)
OTHER = {"another": ANSWER.miners["m"]}
TOKEN = "-".join(["a", "token", "of", "some", "length"])
INFO = ScoringInfo(
    target_model="t",
    hidden_size=4,
    max_condensed_tokens=9,
    max_body_bytes=10,
    max_replies=11,
    max_challenges=12,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds


def run(handler, call, token=None, timeout_s=60.0, clock=None):
    clock = clock or Clock()

    async def go():
        transport = httpx.MockTransport(handler)
        async with ScoringClient(
            "http://s:1/", token, timeout_s, clock=clock, sleep=clock.sleep, transport=transport
        ) as client:
            return await call(client)

    return asyncio.run(go())


def score(client):
    return client.score(REQUEST, TENSORS)


def json_of(message, status=200, **headers):
    return httpx.Response(
        status, content=message.model_dump_json(), headers={"Content-Type": "application/json"}
    )


def error(status, code, **headers):
    body = {"error": {"code": code, "message": "no", "detail": {}}}
    return httpx.Response(status, json=body, headers=headers)


def test_a_round_goes_out_whole_and_its_answer_comes_back():
    seen = []

    def handler(request):
        seen.append(request)
        return json_of(ANSWER)

    assert run(handler, score, token=TOKEN) == ANSWER
    (sent,) = seen
    assert (sent.method, sent.url.path) == ("POST", "/v1/score")
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent.headers["Content-Type"] == "application/vnd.safetensors"
    found, tensors = decode_score_request(sent.content, ScoreLimits())
    assert found == REQUEST
    np.testing.assert_array_equal(tensors["r"], TENSORS["r"].embeds)


def test_without_a_token_none_is_sent():
    def handler(request):
        assert "Authorization" not in request.headers
        return json_of(ANSWER)

    run(handler, score)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_until_the_deadline(status):
    answers = [error(status, "x", **{"Retry-After": "7"}), json_of(ANSWER)]
    clock = Clock()
    assert run(lambda _: answers.pop(0), score, clock=clock) == ANSWER
    assert clock.waits == [7.0]
    with pytest.raises((OverloadedError, Exception)) as refused:
        run(lambda _: error(status, "x", **{"Retry-After": "70"}), score)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(404, "unknown_model"), UnknownModelError),
        (error(504, "deadline"), DeadlineError),
        (error(500, "internal"), BackendError),
        (httpx.Response(200, text="hello"), BackendError),
        (httpx.Response(200, json={"schema": 1}), BackendError),
        (json_of(ANSWER.model_copy(update={"miners": {}})), BackendError),
        (
            json_of(
                ANSWER.model_copy(update={"miners": {**ANSWER.miners, "n": ANSWER.miners["m"]}})
            ),
            BackendError,
        ),
    ],
    ids=range(7),
)
def test_anything_but_a_score_is_an_error(answer, kind):
    with pytest.raises(kind):
        run(lambda _: answer, score)


def test_nan_in_an_answer_is_no_score():
    text = ANSWER.model_dump_json().replace("0.6", "NaN")
    with pytest.raises(BackendError):
        run(lambda _: httpx.Response(200, text=text), score)


def test_nobody_there_is_said_so():
    def handler(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(BackendError, match="is the scoring service running"):
        run(handler, score)


def test_a_slow_service_is_given_up():
    async def handler(request):
        await asyncio.sleep(30)

    with pytest.raises(DeadlineError):
        run(handler, score, timeout_s=0.05)


def test_info_and_readiness():
    answers = {
        "/info": json_of(INFO),
        "/health/ready": httpx.Response(200, json={"state": "ready", "workers": 1}),
    }
    assert run(lambda r: answers[r.url.path], lambda c: c.info()) == INFO
    assert run(lambda r: answers[r.url.path], lambda c: c.ready()) is True
    loading = httpx.Response(503, json={"state": "loading"})
    assert run(lambda _: loading, lambda c: c.ready()) is False
    with pytest.raises(BackendError):
        run(lambda _: error(500, "x"), lambda c: c.info())


@pytest.mark.parametrize("url", ["localhost:8089", "ftp://x", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError):
        ScoringClient(url)


def test_the_token_is_not_shown():
    client = ScoringClient("http://s:1", TOKEN)
    assert TOKEN not in repr(client) + str(vars(client))
