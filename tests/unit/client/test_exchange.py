"""What a question asks, what an answer means and when to ask again; no network, no time."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neural_condense_core.client.exchange import (
    BACK_OFF_S,
    MAX_MESSAGE_CHARS,
    Answer,
    Body,
    Budget,
    Question,
    error_from,
    not_ready_error,
    parse_retry_after,
    read_health,
    read_info,
    read_progress,
)
from neural_condense_core.errors import (
    BackendError,
    ContextTooLongError,
    DeadlineError,
    MalformedJsonError,
    NeuralCondenseError,
    NotAcceptableError,
    OverloadedError,
    PayloadTooLargeError,
    RequestError,
    UnavailableError,
    UnknownModelError,
    UnsupportedMediaError,
)
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import (
    JSON,
    JSON_LIST,
    NPY,
    SAFETENSORS,
    Format,
    encode,
    negotiate,
    reply_headers,
)
from neural_condense_core.wire.digest import content_digest
from neural_condense_core.wire.messages import NotReady, Ready, parse_request

URL = "http://backend/condense"
TOKENS = CondensedTokens(np.array([[0.5, -1.0], [2.0, 3.0]], np.float32), "m", 8)
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def answer_in(format_: Format, *, with_headers: bool = True) -> Answer:
    headers = {key.lower(): value for key, value in reply_headers(TOKENS, format_).items()}
    if not with_headers:
        headers = {"content-type": headers["content-type"]}
    return Answer(200, headers, encode(TOKENS, format_))


def test_a_question_leaves_out_what_is_left_open() -> None:
    assert json.loads(Question("text").body()) == {"context": "text"}
    full = Question("text", ratio=4, max_condensed_tokens=7, target_model="m")
    found = parse_request(full.body())
    assert (found.ratio, found.max_condensed_tokens, found.target_model) == (4.0, 7, "m")


def test_a_question_asks_for_safetensors_of_its_dtype() -> None:
    assert negotiate(Question("x").headers()["Accept"]) == SAFETENSORS
    half = negotiate(Question("x", dtype="float16").headers()["Accept"])
    assert (half.name, half.dtype) == ("safetensors", "float16")


@pytest.mark.parametrize(
    ("left_s", "told"), [(60.0, "59.500"), (1.0, "0.900"), (1e-9, "0.001"), (None, None)]
)
def test_a_question_says_how_long_it_waits(left_s: float | None, told: str | None) -> None:
    assert Question("x").headers(left_s).get("x-request-timeout") == told


@pytest.mark.parametrize("format_", [SAFETENSORS, JSON])
def test_the_digest_is_checked_where_there_is_one(format_: Format) -> None:
    whole = answer_in(format_)
    headers = {**whole.headers, "content-digest": content_digest(whole.body)}
    assert Question("x").read(Answer(200, headers, whole.body), URL).n_context_tokens == 8
    for body in (whole.body + b" ", b"", whole.body[:-1]):
        with pytest.raises(BackendError) as caught:
            Question("x").read(Answer(200, headers, body), URL)
        assert caught.value.detail["reason"] == "digest"


def test_a_context_that_is_no_unicode_is_the_callers_fault() -> None:
    with pytest.raises(RequestError) as caught:
        Question("SECRET \ud800").body()
    assert "SECRET" not in str(caught.value)


def test_a_question_does_not_show_its_context() -> None:
    assert "SECRET" not in repr(Question("SECRET"))


@pytest.mark.parametrize("format_", [SAFETENSORS, JSON])
def test_answers_that_say_everything(format_: Format) -> None:
    found = Question("x").read(answer_in(format_, with_headers=False), URL)
    assert found.embeds.tolist() == TOKENS.embeds.tolist()
    assert (found.target_model, found.n_context_tokens) == ("m", 8)


@pytest.mark.parametrize("format_", [JSON_LIST, NPY])
def test_answers_that_say_less_need_the_header_or_a_counter(format_: Format) -> None:
    with_header = Question("x", target_model="m").read(answer_in(format_), URL)
    assert with_header.n_context_tokens == 8
    bare = answer_in(format_, with_headers=False)
    counted = Question("four", target_model="m", count_tokens=len).read(bare, URL)
    assert counted.n_context_tokens == 4
    with pytest.raises(BackendError) as caught:
        Question("x", target_model="m").read(bare, URL)
    assert caught.value.detail["reason"] == "metadata"


def test_an_estimate_stands_in_where_the_backend_does_not_say() -> None:
    guess = {"target_model": "m", "estimate_tokens": lambda text: 77}
    bare = answer_in(JSON_LIST, with_headers=False)
    assert Question("x", **guess).read(bare, URL).n_context_tokens == 77
    for says in (answer_in(JSON_LIST), answer_in(JSON, with_headers=False)):
        assert Question("x", **guess).read(says, URL).n_context_tokens == 8
    counted = Question("four", **guess, count_tokens=len).read(bare, URL)
    assert counted.n_context_tokens == 4


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (Question("x", target_model="n"), answer_in(SAFETENSORS), "target_model"),
        (Question("x", max_condensed_tokens=1), answer_in(SAFETENSORS), "too_many_tokens"),
        (Question("x", limits=Limits(9999, 1)), answer_in(JSON), "too_many_tokens"),
        (Question("x", limits=Limits(9999, 9, 3)), answer_in(JSON), "hidden_size"),
        (Question("x"), Answer(200, {"content-type": "text/html"}, b"<html>"), "media_type"),
        (Question("x"), Answer(200, {}, b"[[1.0]]"), "media_type"),
        (Question("x"), Answer(200, {"content-type": "application/json"}, b"oops"), "json"),
    ],
)
def test_answers_that_cannot_be_used(question: Question, answer: Answer, reason: str) -> None:
    with pytest.raises(BackendError) as caught:
        question.read(answer, URL)
    assert caught.value.detail["reason"] == reason
    assert URL in str(caught.value)


def error_answer(status: int, code: str, **headers: str) -> Answer:
    body = {"error": {"code": code, "message": "the message", "detail": {"limit": 5}}}
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Answer(status, named, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "not_json", MalformedJsonError),
        (404, "unknown_model", UnknownModelError),
        (404, "not_found", RequestError),
        (406, "not_acceptable", NotAcceptableError),
        (413, "body_too_large", PayloadTooLargeError),
        (413, "context_too_long", ContextTooLongError),
        (415, "unsupported_media_type", UnsupportedMediaError),
        (422, "invalid_request", RequestError),
        (422, "of the future", RequestError),
        (429, "overloaded", OverloadedError),
        (500, "internal", BackendError),
        (502, "backend", BackendError),
        (503, "unavailable", UnavailableError),
        (504, "deadline", DeadlineError),
        (302, "moved", BackendError),
    ],
)
def test_every_error_body_becomes_its_exception(
    status: int, code: str, kind: type[NeuralCondenseError]
) -> None:
    error = error_from(error_answer(status, code), URL)
    assert type(error) is kind
    assert "the message" in str(error)
    assert error.detail == {"limit": 5, "status": status}
    with pytest.raises(kind):
        Question("x").read(error_answer(status, code), URL)


@pytest.mark.parametrize("status", [301, 404, 405, 422, 500, 502])
def test_an_error_without_our_body_is_the_backends(status: int) -> None:
    error = error_from(Answer(status, {}, b"<html>SECRET</html>"), URL)
    assert type(error) is BackendError
    assert str(error).startswith(f"{URL} answered HTTP {status}")
    assert "SECRET" not in str(error)


def test_a_message_from_outside_is_cut_and_stripped() -> None:
    body = {"error": {"code": "x", "message": "\x1b[31mred\n" + "a" * 10_000}}
    text = str(error_from(Answer(422, {}, json.dumps(body).encode()), URL))
    assert text.isprintable()
    assert len(text) < MAX_MESSAGE_CHARS + 100


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("3", 3.0),
        (" 1.5 ", 1.5),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("1e9", None),
        ("9" * 40, None),
        ("Mon, 23 Nov 2026 12:00:07 GMT", 7.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 12:00:07 -0000", 7.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    ["Nov 999999999999999999999 + 19:12:08 1995", "Mon, 1 Jan 2026 00:00:00 +9999", "Mon, ", ","],
)
def test_retry_after_that_is_no_date(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


DATE_WORDS = st.sampled_from([
    "Mon,", "Nov", "1995", "99999999999999999999", "19:12:08", "+", "-", "+9999", "GMT", ":", "0",
])  # fmt: skip


@given(st.text() | st.lists(DATE_WORDS | st.text(max_size=3), max_size=8).map(" ".join))
@example("Nov 999999999999999999999 + 19:12:08 1995")
def test_no_header_text_breaks_retry_after(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def overloaded(retry_after: str | None) -> OverloadedError:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    error = error_from(Answer(429, headers, b""), URL)
    assert isinstance(error, OverloadedError)
    return error


def test_a_wait_is_what_the_backend_asks_for_else_it_doubles() -> None:
    budget = Budget(60.0, 4, Clock())
    told = overloaded("3")
    assert told.retry_after_s == 3.0
    assert budget.wait_before_retry(told) == 3.0
    waits = [budget.wait_before_retry(overloaded(None)) for _ in range(3)]
    assert waits == [2 * BACK_OFF_S, 4 * BACK_OFF_S, 8 * BACK_OFF_S]
    with pytest.raises(OverloadedError):
        budget.wait_before_retry(overloaded("0"))


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    clock = Clock()
    budget = Budget(5.0, 4, clock)
    with pytest.raises(OverloadedError):
        budget.wait_before_retry(overloaded("5"))
    clock.now += 4.0
    assert budget.remaining_s() == 1.0
    clock.now += 1.0
    with pytest.raises(DeadlineError, match="within 5 s"):
        budget.remaining_s()


def test_a_backend_cannot_smuggle_a_wait_into_the_detail() -> None:
    body = {"error": {"code": "overloaded", "message": "m", "detail": {"retry_after_s": 50.0}}}
    error = error_from(Answer(429, {}, json.dumps(body).encode()), URL)
    assert isinstance(error, OverloadedError)
    assert Budget(60.0, 1, Clock()).wait_before_retry(error) == BACK_OFF_S


def test_a_body_is_capped_while_it_is_read() -> None:
    body = Body(URL, {}, 4)
    body.add(b"ab")
    body.add(b"cd")
    assert body.bytes() == b"abcd"
    with pytest.raises(BackendError) as caught:
        body.add(b"e")
    assert caught.value.detail == {"reason": "too_large", "limit": 4}


def test_a_compressed_body_is_refused_unread() -> None:
    with pytest.raises(BackendError) as caught:
        Body(URL, {"content-encoding": "gzip"}, 4)
    assert caught.value.detail == {"reason": "encoding"}


def test_health_of_either_status() -> None:
    assert read_health(Answer(200, {}, b'{"state": "ready", "workers": 1}'), URL) == Ready(
        workers=1
    )
    loading = read_health(Answer(503, {}, b'{"state": "loading"}'), URL)
    assert loading == NotReady(state="loading")
    for answer in (Answer(200, {}, b"ok"), Answer(503, {}, b""), Answer(404, {}, b"")):
        with pytest.raises(BackendError):
            read_health(answer, URL)


def test_info_of_a_stranger() -> None:
    for answer in (Answer(200, {}, b"{}"), Answer(404, {}, b"")):
        with pytest.raises(BackendError):
            read_info(answer, URL)


def test_progress() -> None:
    assert read_progress(None) is None
    assert read_progress(NotReady(state="loading")) is None
    assert read_progress(NotReady(state="draining")) is None
    assert read_progress(Ready(workers=2)) == Ready(workers=2)
    with pytest.raises(BackendError, match="no memory"):
        read_progress(NotReady(state="failed", reason="no memory"))


def test_a_backend_that_was_not_ready_in_time_says_where_it_stood() -> None:
    last = NotReady(state="loading", stage="weights", done=0.25)
    assert "loading: weights (25%)" in str(not_ready_error(URL, 9.0, last))
    assert "is it running?" in str(not_ready_error(URL, 9.0, None))
