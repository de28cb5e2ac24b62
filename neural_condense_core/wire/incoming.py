"""HTTP requests as they arrive: bodies counted while they are read, refusals with one body.

Where it sits: every service of ours that listens reads its requests and answers its errors with
these functions.

Design decisions

* Bodies are not read by the framework: they are counted, whatever ``Content-Length`` says, have a
  deadline, and are never echoed.
* Every error, the framework's own too, has the one body of ``errors.py``. What was not foreseen is
  told to nobody, and logged by type and place only: its message may quote a context.
* A client that hangs up gives its request up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from neural_condense_core.errors import (
    NeuralCondenseError,
    PayloadTooLargeError,
    RequestError,
    RetryableError,
    UnsupportedMediaError,
)
from neural_condense_core.wire.accept import parse_media_type
from neural_condense_core.wire.messages import ErrorBody

if TYPE_CHECKING:
    from fastapi import FastAPI

T = TypeVar("T")

DISCARD_FACTOR = 4
"""How much of a body over the cap is still read, so that the client gets to see the refusal."""
TIMEOUT_HEADER = "x-request-timeout"
MAX_NUMBER_CHARS = 32
MAX_RETRY_AFTER_S = 86_400.0
WATCH_AFTER_S = 0.025
"""From when on a request is watched for its client's hanging up."""
IPV6_HOST_BITS = 64


class ClientGoneError(Exception):
    """The client hung up before its answer was ready."""


def check_content_type(request: Request) -> None:
    """Refuse a body that says it is no JSON; one that says nothing is taken for JSON.

    Raises
    ------
    UnsupportedMediaError
        ``Content-Type`` is something else than ``application/json``.
    """
    header = request.headers.get("content-type")
    if header is not None and parse_media_type(header)[0] != "application/json":
        raise UnsupportedMediaError(
            "the body must be application/json; set the Content-Type header",
            {"supported": ["application/json"]},
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body and count it on the way, whatever ``Content-Length`` says.

    Parameters
    ----------
    request : the request
    max_bytes : the cap; of a longer body a few times that is read and dropped, so that a client
        that writes before it reads gets the refusal and not a broken connection

    Raises
    ------
    PayloadTooLargeError
        It is longer.
    ClientGoneError
        The client hung up half way.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= max_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
            if size > DISCARD_FACTOR * max_bytes:
                break
    except ClientDisconnect:
        raise ClientGoneError from None
    if size > max_bytes:
        raise PayloadTooLargeError(
            f"the body is larger than {max_bytes} bytes; send a shorter context",
            {"limit": max_bytes},
        )
    return b"".join(chunks)


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """Await some work unless the client hangs up, which cancels it.

    Raises
    ------
    ClientGoneError
        It hung up.
    CancelledError
        The caller itself was cancelled.
    """
    # Small requests come in thousands: the work stays in the caller's own task, and what is
    # answered at once is not watched at all.
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    watchers: list[asyncio.Task[None]] = []
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        await _hang_up(request)
        is_gone = True
        if task is not None:
            task.cancel()

    begin = loop.call_later(WATCH_AFTER_S, lambda: watchers.append(loop.create_task(watch())))
    try:
        return await work
    except asyncio.CancelledError:
        if is_gone and task is not None:
            task.uncancel()
            raise ClientGoneError from None
        raise
    finally:
        begin.cancel()
        for watcher in watchers:
            watcher.cancel()


def raw_target(request: Request) -> str:
    """Return path and query as they came over the wire, which is what a caller signs."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


def address_group(request: Request) -> str:
    """Return the caller's address; of IPv6 its network, as one host has the whole of that."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_HOST_BITS), strict=False))
    return host


def timeout_of(request: Request) -> float | None:
    """Return the seconds that a caller will wait, by ``X-Request-Timeout``; None if unsaid.

    Raises
    ------
    RequestError
        The header is no number of seconds above 0.
    """
    said = request.headers.get(TIMEOUT_HEADER)
    if said is None:
        return None
    try:
        seconds = float(said) if len(said) < MAX_NUMBER_CHARS else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise RequestError(f"{TIMEOUT_HEADER} must be seconds above 0", {"header": TIMEOUT_HEADER})
    return seconds


class UnforeseenError(NeuralCondenseError):
    """What nobody foresaw, as it is told to clients: nothing of the exception."""

    def __init__(self) -> None:
        super().__init__("the service failed; its log says where")


class FrameworkError(NeuralCondenseError):
    """What the framework refused, 404 and 405 mostly.

    Parameters
    ----------
    request : the refused one
    error : the framework's
    routes : what is served, ``"GET /info"`` for example
    """

    def __init__(self, request: Request, error: Exception, routes: list[str]) -> None:
        self.status = error.status_code if isinstance(error, HTTPException) else 500
        self.headers = dict(getattr(error, "headers", None) or {})
        message, detail = "the request cannot be served", dict[str, object]()
        self.code = "http"
        if self.status == 404:
            self.code, detail = "not_found", {"routes": routes}
            message = f"no such route; served are {', '.join(routes)}"
        elif self.status == 405:
            allowed = self.headers.get("allow", self.headers.get("Allow", ""))
            self.code, detail = "method_not_allowed", {"allowed": allowed}
            message = f"this route does not take {request.method}; it takes {allowed}"
        super().__init__(message, detail)


def error_headers(error: NeuralCondenseError) -> dict[str, str]:
    """Return the headers of an error's reply: ``Retry-After`` where it may pass."""
    headers = dict(error.headers) if isinstance(error, FrameworkError) else {}
    if isinstance(error, RetryableError):
        wait_s = min(max(error.retry_after_s, 1.0), MAX_RETRY_AFTER_S)
        headers["Retry-After"] = str(math.ceil(wait_s))
    return headers


def own_answer(error: NeuralCondenseError) -> Response:
    """Return the reply to an error in the one error body."""
    headers = error_headers(error)
    if not isinstance(error, (FrameworkError, UnforeseenError)):
        headers["Vary"] = "Accept"
    return error_response(error.status, error.code, error.message, error.detail, headers)


def add_error_handlers(
    app: FastAPI,
    routes: list[str],
    answer: Callable[[NeuralCondenseError], Response] = own_answer,
) -> None:
    """Let an application answer every error, the framework's own too, in one form.

    Parameters
    ----------
    app : the application
    routes : what is served, for the message of 404
    answer : writes the reply to an error
    """

    async def own(request: Request, error: Exception) -> Response:
        return answer(error if isinstance(error, NeuralCondenseError) else UnforeseenError())

    async def framework(request: Request, error: Exception) -> Response:
        return answer(FrameworkError(request, error, routes))

    app.add_exception_handler(NeuralCondenseError, own)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(Exception, own)


def error_response(
    status: int, code: str, message: str, detail: dict[str, Any], headers: Mapping[str, str]
) -> Response:
    """Return the response of an error."""
    body = ErrorBody.model_validate({"error": {"code": code, "message": message, "detail": detail}})
    return json_response(status, body, headers)


def json_response(
    status: int, body: BaseModel, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a message of ours as a response."""
    return Response(body.model_dump_json(), status, headers, "application/json")


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
