"""HTTP to an engine: what each status means, what is bounded, what is never sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from neural_condense_core.llm import engine_http
from neural_condense_core.llm.engine_http import KEY_VARIABLE, EngineHTTP


def engine(answer: Callable[[httpx.Request], httpx.Response], **options: float) -> EngineHTTP:
    return EngineHTTP("http://engine/", "vLLM", transport=httpx.MockTransport(answer), **options)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestError),
        (401, BackendError),
        (404, BackendError),
        (413, RequestError),
        (422, RequestError),
        (429, OverloadedError),
        (500, BackendError),
        (503, UnavailableError),
    ],
)
def test_a_status_is_a_typed_error_with_the_engines_own_words(
    status: int, kind: type[NeuralCondenseError]
) -> None:
    said = {"error": {"message": "too\nmany \x1b[31m tokens" + "x" * 900}}
    http = engine(lambda _: httpx.Response(status, json=said, headers={"retry-after": "7"}))
    with pytest.raises(kind, match=f"vLLM answered {status}: too many") as caught:
        http.post("/v1/completions", {})
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 400
    if isinstance(caught.value, OverloadedError | UnavailableError):
        assert caught.value.retry_after_s == 7.0
    if status == 401:
        assert KEY_VARIABLE in caught.value.message


@pytest.mark.parametrize("body", [b"not json", b"[]", b'{"error": "no"}', b"\xff"])
def test_an_error_body_of_any_form_is_still_that_error(body: bytes) -> None:
    with pytest.raises(RequestError, match="vLLM answered 400"):
        engine(lambda _: httpx.Response(400, content=body)).post("/", {})


def test_an_answer_that_is_not_json_is_the_engines_fault() -> None:
    with pytest.raises(BackendError, match="not JSON"):
        engine(lambda _: httpx.Response(200, content=b"<html>")).get("/")


def test_silence_is_a_deadline() -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("late", request=request)

    with pytest.raises(DeadlineError, match="did not answer in time"):
        engine(slow).get("/")


def test_events_are_read_across_chunks_up_to_done() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'data: {"a"'
        yield b': 1}\r\n\r\n: a comment\n\nevent: x\ndata:{"a": 2}\n'
        yield b"\ndata: [DONE]\n\ndata: never\n\n"

    http = engine(lambda _: httpx.Response(200, content=chunks()))
    assert list(http.events("/", {})) == [{"a": 1}, {"a": 2}]


def test_answers_are_bounded_in_size_line_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1024

    http = engine(lambda _: httpx.Response(200, content=endless()))
    with pytest.raises(BackendError, match="without end"):
        list(http.events("/", {}))
    monkeypatch.setattr(engine_http, "MAX_ANSWER_BYTES", 4096)
    with pytest.raises(BackendError, match="larger than"):
        http.get("/")
    slow = engine(lambda _: httpx.Response(200, content=endless()), timeout_s=0.0)
    with pytest.raises(DeadlineError, match="took more than"):
        slow.get("/")


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(500, json={})

    for key in (None, "secret-key"):
        if key:
            monkeypatch.setenv(KEY_VARIABLE, key)
        with pytest.raises(BackendError) as caught:
            engine(answer).get("/")
        assert "secret" not in caught.value.message
    assert seen == [None, "Bearer secret-key"]


@pytest.mark.parametrize(
    "url", ["ftp://engine", "engine:8000", "http://", "http://ann:secret@engine", "http://[::1"]
)
def test_an_address_that_cannot_be_one_is_refused_and_no_password_is_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineHTTP(url, "vLLM")
    assert "secret" not in caught.value.message


def test_a_wait_without_end_is_not_believed() -> None:
    headers = {"retry-after": "9" * 400}
    http = engine(lambda _: httpx.Response(503, headers=headers))
    with pytest.raises(UnavailableError) as caught:
        http.post("/", {})
    assert caught.value.retry_after_s == 1.0
