import asyncio

import orjson
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException
from starlette.requests import Request

from neural_condense_core.errors import (
    DeadlineError,
    OverloadedError,
    PayloadTooLargeError,
    RequestError,
    UnsupportedMediaError,
)
from neural_condense_core.wire.incoming import (
    DISCARD_FACTOR,
    ClientGoneError,
    FrameworkError,
    UnforeseenError,
    add_error_handlers,
    address_group,
    check_content_type,
    own_answer,
    raw_target,
    read_body,
    timeout_of,
    until_gone,
)


def request(*, headers=(), client=("203.0.113.9", 5), target=b"/a%20b", query=b"", messages=()):
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/a b",
        "raw_path": target,
        "query_string": query,
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "client": client,
    }
    left = list(messages)

    async def receive():
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    return Request(scope, receive)


def body(*parts):
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False
    return request(messages=messages)


def shown(response):
    return response.status_code, orjson.loads(response.body)["error"]


def test_a_body_is_read_whole_up_to_the_cap():
    assert asyncio.run(read_body(body(b"ab", b"cd"), 4)) == b"abcd"
    with pytest.raises(PayloadTooLargeError) as caught:
        asyncio.run(read_body(body(b"ab", b"cde"), 4))
    assert caught.value.detail == {"limit": 4}


def test_what_is_far_too_long_is_not_read_to_its_end():
    endless = body(*[b"x" * 10] * 1000)
    with pytest.raises(PayloadTooLargeError):
        asyncio.run(read_body(endless, 10))
    assert asyncio.run(endless._receive())["body"], f"only {DISCARD_FACTOR} times the cap was read"


def test_a_client_that_hangs_up_half_way():
    gone = request(messages=[
        {"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"},
    ])  # fmt: skip
    with pytest.raises(ClientGoneError):
        asyncio.run(read_body(gone, 10))


def test_work_ends_when_the_client_is_gone():
    ended = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def run():
        with pytest.raises(ClientGoneError):
            await until_gone(request(messages=[{"type": "http.disconnect"}]), work())
        await asyncio.sleep(0)
        assert await until_gone(request(), asyncio.sleep(0, "done")) == "done"

    asyncio.run(run())
    assert ended == [True]


@pytest.mark.parametrize("header", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_taken(header):
    check_content_type(request(headers=[("content-type", header)]))
    check_content_type(request())


@pytest.mark.parametrize("header", ["text/plain", "", "application/jsonx"])
def test_anything_else_is_not(header):
    with pytest.raises(UnsupportedMediaError):
        check_content_type(request(headers=[("content-type", header)]))


@pytest.mark.parametrize(("query", "target"), [(b"", "/a%20b"), (b"c=%2F&d", "/a%20b?c=%2F&d")])
def test_the_target_is_as_it_came(query, target):
    assert raw_target(request(query=query)) == target


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_addresses_of_one_host_are_one_group(host, group):
    assert address_group(request(client=(host, 5))) == group
    assert address_group(request(client=None)) == ""


@pytest.mark.parametrize(("said", "seconds"), [("4", 4.0), ("0.25", 0.25), ("1e1", 10.0)])
def test_how_long_a_caller_waits(said, seconds):
    assert timeout_of(request(headers=[("x-request-timeout", said)])) == seconds
    assert timeout_of(request()) is None


@pytest.mark.parametrize("said", ["0", "-1", "nan", "inf", "soon", "", "1" * 400])
def test_what_is_no_time_is_refused(said):
    with pytest.raises(RequestError, match="x-request-timeout"):
        timeout_of(request(headers=[("x-request-timeout", said)]))


def test_errors_have_one_body():
    busy = OverloadedError("busy", {"a": 1}, retry_after_s=2.1)
    response = own_answer(busy)
    assert shown(response) == (429, {"code": "overloaded", "message": "busy", "detail": {"a": 1}})
    assert response.headers["retry-after"] == "3"
    late = own_answer(DeadlineError("late"))
    assert "retry-after" not in late.headers
    assert shown(own_answer(UnforeseenError()))[0] == 500


def test_an_application_answers_every_error_in_it():
    app = FastAPI()

    @app.get("/busy")
    async def busy() -> None:
        raise OverloadedError("busy", retry_after_s=2.1)

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("a context")

    add_error_handlers(app, ["GET /busy"])
    client = TestClient(app, raise_server_exceptions=False)
    found = client.get("/busy")
    assert (found.status_code, found.headers["retry-after"]) == (429, "3")
    found = client.get("/broken")
    assert (found.status_code, found.json()["error"]["code"]) == (500, "internal")
    assert "a context" not in found.text
    found = client.get("/else")
    assert (found.status_code, found.json()["error"]["detail"]) == (404, {"routes": ["GET /busy"]})


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (405, "method_not_allowed"), (418, "http")]
)
def test_what_the_framework_refuses(status, code):
    found = own_answer(FrameworkError(request(), HTTPException(status), ["GET /x"]))
    assert shown(found)[0] == status
    assert shown(found)[1]["code"] == code
