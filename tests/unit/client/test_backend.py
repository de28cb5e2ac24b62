"""Both clients against one scripted backend behind httpx's mock transport."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from neural_condense_core.client.backend import AsyncBackendClient, BackendClient
from neural_condense_core.client.exchange import MAX_CONTROL_BYTES
from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    DeadlineError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import encode, negotiate, reply_headers
from neural_condense_core.wire.messages import Info, InfoLimits, NotReady, Ready, parse_request

URL = "http://backend:8080"
TOKENS = CondensedTokens(np.arange(6, dtype=np.float32).reshape(2, 3), "m", 8, np.array([1, 5]))
INFO = Info(
    condenser="echo",
    target_model="m",
    limits=InfoLimits(max_body_bytes=1, max_context_tokens=2, timeout_s=3.0),
    formats=[],
)

Step = Callable[[httpx.Request], httpx.Response]


def condensed(request: httpx.Request) -> httpx.Response:
    assert parse_request(request.content).context
    format_ = negotiate(request.headers["accept"])
    return httpx.Response(
        200, content=encode(TOKENS, format_), headers=reply_headers(TOKENS, format_)
    )


def refused(status: int, **headers: str) -> Step:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    body = {"error": {"code": "invalid_request", "message": "why", "detail": {}}}
    return lambda _: httpx.Response(status, json=body, headers=named)


def health(status: int, **fields: object) -> Step:
    return lambda _: httpx.Response(status, json=fields)


def down(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def silent(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("nothing came", request=request)


class Script:
    """A backend that answers with one step after the other; the last one for ever."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []
        self.now = 0.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step(request)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def call_sync(script: Script, method: str, *args: Any, **kwargs: Any) -> Any:
    settings = kwargs.pop("settings", {})
    transport = httpx.MockTransport(script.answer)
    with BackendClient(
        URL, transport=transport, sleep=script.sleep, clock=script.clock, **settings
    ) as client:
        return getattr(client, method)(*args, **kwargs)


def call_async(script: Script, method: str, *args: Any, **kwargs: Any) -> Any:
    settings = kwargs.pop("settings", {})
    transport = httpx.MockTransport(script.answer)

    async def run() -> Any:
        async with AsyncBackendClient(
            URL, transport=transport, sleep=script.sleep, clock=script.clock, **settings
        ) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


Call = Callable[..., Any]


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return request.param  # type: ignore[no-any-return]


def test_condense_asks_for_safetensors_and_reads_them(call: Call) -> None:
    script = Script(condensed)
    found = call(script, "condense", "text", ratio=4, max_condensed_tokens=2, target_model="m")
    assert found.embeds.tolist() == TOKENS.embeds.tolist()
    assert found.positions.tolist() == [1, 5]
    (request,) = script.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/condense")
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "context": "text",
        "ratio": 4,
        "max_condensed_tokens": 2,
        "target_model": "m",
    }


def test_condense_by_another_path_and_dtype(call: Call) -> None:
    script = Script(condensed)
    settings = {"api_path": "/v2/squeeze", "dtype": "float16"}
    found = call(script, "condense", "text", settings=settings)
    assert found.embeds.dtype == np.float16
    assert script.requests[0].url.path == "/v2/squeeze"


def test_condense_takes_json_from_a_backend_that_knows_no_accept(call: Call) -> None:
    script = Script(lambda _: httpx.Response(200, json=[[1.0, 2.0], [3.0, 4.0]]))
    settings = {"count_tokens": len}
    found = call(script, "condense", "four", target_model="m", settings=settings)
    assert found.embeds.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.n_context_tokens == 4


def test_overload_is_asked_again_after_the_wait_it_names(call: Call) -> None:
    script = Script(refused(429, retry_after="2"), refused(503), condensed)
    assert call(script, "condense", "text").n_condensed_tokens == 2
    assert script.waits == [2.0, 1.0]
    assert len(script.requests) == 3


@pytest.mark.parametrize(("status", "kind"), [(429, OverloadedError), (503, UnavailableError)])
def test_retries_are_bounded(call: Call, status: int, kind: type[Exception]) -> None:
    script = Script(refused(status, retry_after="0"))
    with pytest.raises(kind):
        call(script, "condense", "text", settings={"max_retries": 2})
    assert len(script.requests) == 3


def test_a_wait_past_the_deadline_ends_the_call_at_once(call: Call) -> None:
    script = Script(refused(429, retry_after="30"))
    with pytest.raises(OverloadedError) as caught:
        call(script, "condense", "text", settings={"timeout_s": 10.0})
    assert caught.value.retry_after_s == 30.0
    assert script.waits == []


def test_the_deadline_covers_all_tries(call: Call) -> None:
    script = Script(refused(503, retry_after="4"))
    with pytest.raises(UnavailableError):
        call(script, "condense", "text", settings={"timeout_s": 10.0, "max_retries": 99})
    assert script.waits == [4.0, 4.0]


def test_a_backend_is_told_how_much_time_is_left(call: Call) -> None:
    script = Script(refused(503, retry_after="4"), refused(503, retry_after="2"), condensed)
    call(script, "condense", "text", settings={"timeout_s": 10.0})
    told = [float(request.headers["x-request-timeout"]) for request in script.requests]
    assert told == [9.5, 5.5, 3.6]


@pytest.mark.parametrize(
    "error",
    [httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError],
    ids=lambda e: e.__name__,
)
def test_a_connection_that_broke_is_tried_again(call: Call, error: type[httpx.HTTPError]) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise error("broke", request=request)

    script = Script(broken, condensed)
    assert call(script, "condense", "text").n_condensed_tokens == 2
    assert script.waits == [0.5]
    with pytest.raises(BackendError, match="broke") as caught:
        call(Script(broken), "condense", "text", settings={"max_retries": 2})
    assert caught.value.detail["reason"] == "unreachable"


def test_a_body_that_changed_on_its_way_is_refused(call: Call) -> None:
    def changed(request: httpx.Request) -> httpx.Response:
        format_ = negotiate(request.headers["accept"])
        body = encode(TOKENS, format_)
        headers = reply_headers(TOKENS, format_, body)
        return httpx.Response(200, content=body[:-1] + b"\1", headers=headers)

    script = Script(changed)
    with pytest.raises(BackendError, match="Content-Digest") as caught:
        call(script, "condense", "text")
    assert caught.value.detail["reason"] == "digest"
    assert len(script.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_at_fault_is_not_sent_again(call: Call, status: int) -> None:
    script = Script(refused(status))
    with pytest.raises(RequestError, match="why"):
        call(script, "condense", "text")
    assert len(script.requests) == 1


def test_no_backend_there(call: Call) -> None:
    with pytest.raises(BackendError, match="is the backend running") as caught:
        call(Script(down), "condense", "text")
    assert caught.value.detail == {"reason": "unreachable"}
    assert caught.value.exit_code == 3


def test_a_backend_that_says_nothing(call: Call) -> None:
    with pytest.raises(DeadlineError, match="within 60 s"):
        call(Script(silent), "condense", "text")


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "http://h:port"])
@pytest.mark.parametrize("client", [BackendClient, AsyncBackendClient])
def test_a_url_that_is_none(client: type[BackendClient | AsyncBackendClient], url: str) -> None:
    with pytest.raises(ConfigError, match="no URL"):
        client(url)


class Endless(httpx.AsyncByteStream):
    """A body that never ends; counts what was taken."""

    def __init__(self) -> None:
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.taken += 1000
            yield b"x" * 1000


@pytest.mark.parametrize(("status", "cap"), [(200, 50_000), (500, MAX_CONTROL_BYTES)])
def test_a_body_without_end_is_cut_at_the_cap(call: Call, status: int, cap: int) -> None:
    script = Script()
    stream = Endless()
    script.steps.append(lambda _: httpx.Response(status, stream=stream))
    with pytest.raises(BackendError) as caught:
        call(script, "condense", "text", settings={"limits": Limits(50_000, 4)})
    assert caught.value.detail["reason"] == "too_large"
    assert stream.taken <= cap + 2000


async def hang(_: httpx.Request) -> httpx.Response:
    await asyncio.sleep(60)
    raise AssertionError


def test_an_answer_that_never_comes_meets_the_deadline() -> None:
    async def run() -> None:
        transport = httpx.MockTransport(hang)
        async with AsyncBackendClient(URL, transport=transport, timeout_s=0.05) as client:
            await client.condense("text")

    with pytest.raises(DeadlineError):
        asyncio.run(run())


def test_the_sync_client_works_inside_a_running_loop_and_in_several_threads() -> None:
    script = Script(condensed)

    async def run() -> list[CondensedTokens]:
        with BackendClient(URL, transport=httpx.MockTransport(script.answer)) as client:
            inside = client.condense("text")
            others = (asyncio.to_thread(client.condense, "text") for _ in range(4))
            return [inside, *await asyncio.gather(*others)]

    assert [found.n_condensed_tokens for found in asyncio.run(run())] == [2] * 5


def test_on_progress_is_called_in_the_callers_thread() -> None:
    seen: list[int] = []
    script = Script(health(200, state="ready", workers=1))
    call_sync(script, "wait_ready", 5.0, lambda _: seen.append(threading.get_ident()))
    assert seen == [threading.get_ident()]


def test_closing_ends_the_thread_and_what_others_ask() -> None:
    before = threading.active_count()
    client = BackendClient(URL, transport=httpx.MockTransport(hang))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.condense, "text")
        time.sleep(0.1)
        client.close()
        with pytest.raises(CancelledError):
            asked.result(timeout=5)
    client.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        client.info()


def test_a_signal_ends_a_sync_call() -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with BackendClient(URL, transport=httpx.MockTransport(hang)) as client:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.condense("text")
    assert time.monotonic() - began < 5


def test_a_compressed_answer_is_refused(call: Call) -> None:
    def gzipped(_: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(b"\x1f\x8b")
        return httpx.Response(200, stream=stream, headers={"content-encoding": "gzip"})

    with pytest.raises(BackendError) as caught:
        call(Script(gzipped), "condense", "text")
    assert caught.value.detail == {"reason": "encoding"}


def test_redirects_are_not_followed(call: Call) -> None:
    script = Script(lambda _: httpx.Response(307, headers={"location": "http://elsewhere/"}))
    with pytest.raises(BackendError, match="HTTP 307"):
        call(script, "condense", "text")
    assert len(script.requests) == 1


def test_ready_and_info(call: Call) -> None:
    script = Script(health(503, state="loading", stage="weights"))
    assert call(script, "ready") == NotReady(state="loading", stage="weights")
    assert script.requests[0].url.path == "/health/ready"
    script = Script(lambda _: httpx.Response(200, json=INFO.model_dump()))
    assert call(script, "info") == INFO
    assert script.requests[0].url.path == "/info"


def test_wait_ready_sees_every_state(call: Call) -> None:
    script = Script(
        down,
        silent,
        health(503, state="loading", stage="weights", done=0.5),
        health(200, state="ready", workers=2),
    )
    seen: list[object] = []
    assert call(script, "wait_ready", 30.0, seen.append) == Ready(workers=2)
    loading = NotReady(state="loading", stage="weights", done=0.5)
    assert seen == [None, None, loading, Ready(workers=2)]


def test_wait_ready_gives_up_where_the_backend_did(call: Call) -> None:
    script = Script(health(503, state="failed", reason="no memory"))
    with pytest.raises(BackendError, match="no memory"):
        call(script, "wait_ready", 30.0)
    assert script.waits == []


def test_wait_ready_of_something_else_on_the_port(call: Call) -> None:
    with pytest.raises(BackendError, match="HTTP 404"):
        call(Script(lambda _: httpx.Response(404)), "wait_ready", 30.0)


@pytest.mark.parametrize(
    ("step", "stood"),
    [(down, "is it running"), (health(503, state="loading", stage="weights"), "weights")],
)
def test_wait_ready_ends(call: Call, step: Step, stood: str) -> None:
    script = Script(step)
    with pytest.raises(DeadlineError, match=stood):
        call(script, "wait_ready", 3.0)
    assert sum(script.waits) == pytest.approx(3.0, abs=0.3)


def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with BackendClient("http://127.0.0.1:9") as client:
        assert client._client._http._mounts == {}
