"""The validator's HTTP API: users' requests, and miners' questions about their own scores.

Where it sits: ``node.py`` runs it beside the rounds when a port is given.

Design decisions

* Who asks is settled first: an API key before the body is read, a signature after, but for a
  hotkey that could not be admitted anyway. Wrong, missing, stale and replayed all give 401.
* A signed body is read before it is known whose it is, in places of its own: a stranger holds none
  of the users', and one address only a few of those. A question has no body at all.
* Addresses that keep failing to authenticate are refused for a while, so that guessing costs.
* One status for each cause, all errors in the one body; nothing of a context in any of them, nor in
  the log.
* A miner gets its own explanation and nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from neural_condense_core.api_keys import ApiUser, ApiUsers
from neural_condense_core.errors import (
    DeadlineError,
    ForbiddenError,
    NeuralCondenseError,
    OverloadedError,
    RequestError,
    SignatureError,
    UnauthorizedError,
    UnavailableError,
    type_and_frames,
)
from neural_condense_core.ratelimit import RateLimiter
from neural_condense_core.validator.organic import (
    Board,
    OrganicRequest,
    OrganicService,
)
from neural_condense_core.validator.replies import Reply
from neural_condense_core.wire.codec import encode, negotiate, reply_headers
from neural_condense_core.wire.incoming import (
    ClientGoneError,
    UnforeseenError,
    add_error_handlers,
    address_group,
    check_content_type,
    json_response,
    own_answer,
    raw_target,
    read_body,
    until_gone,
)
from neural_condense_core.wire.messages import MAX_BODY_BYTES, Live, NotReady, Ready, parse_body
from neural_condense_core.wire.organic import (
    CONDENSE_PATH,
    EXPLAIN_PATH,
    HOTKEY_HEADER,
    MAX_DEADLINE_S,
    QUOTA_HEADER,
    REQUEST_ID_HEADER,
    TIER_HEADER,
    TIERS_PATH,
    TIMEOUT_HEADER,
    UID_HEADER,
    Explanation,
    OrganicBody,
    TierInfo,
    TierList,
)
from neural_condense_core.wire.places import Places
from neural_condense_core.wire.signing import (
    HOTKEY_HEADER as SIGNER_HEADER,
)
from neural_condense_core.wire.signing import (
    NonceStore,
    claimed_hotkey,
    verify_request,
)

log = logging.getLogger(__name__)

LIVE_PATH = "/health/live"
READY_PATH = "/health/ready"
MAX_IN_HAND = 64
MAX_UNPROVEN, MAX_UNPROVEN_EACH = 32, 8
MAX_CONNECTIONS = 1024
BODY_TIMEOUT_S = 30.0
NO_BODY_TIMEOUT_S = 2.0
FAILURES_A_MINUTE = 60
EXPLANATIONS_A_MINUTE = 30
ROUTES = [
    f"POST {CONDENSE_PATH}", f"GET {TIERS_PATH}", f"GET {EXPLAIN_PATH}", f"GET {LIVE_PATH}",
    f"GET {READY_PATH}",
]  # fmt: skip


@dataclass(frozen=True)
class GateParts:
    """What the routes work with.

    Parameters
    ----------
    service : serves users
    users : who may ask
    board : what the validator knows now
    explain : hotkey -> explanation; blocking
    hotkey : of this validator; signed requests must be for it
    store : remembers signed requests
    clock : monotonic seconds
    """

    service: OrganicService
    users: ApiUsers
    board: Callable[[], Board]
    explain: Callable[[str], Explanation]
    hotkey: str
    store: NonceStore
    clock: Callable[[], float] = time.monotonic


def create_app(parts: GateParts) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="Neural Condense organic API",
        description="Condensed tokens from the best miners of the subnet.",
        docs_url=None,
        redoc_url=None,
    )
    routes = _Routes(parts)
    for method, path, endpoint, summary in (
        ("POST", CONDENSE_PATH, routes.condense, "Condense a text"),
        ("GET", EXPLAIN_PATH, routes.explain, "Why the signing miner has its score"),
        ("GET", TIERS_PATH, routes.tiers, "The tiers, their models and limits"),
        ("GET", LIVE_PATH, routes.live, "Whether the process answers"),
        ("GET", READY_PATH, routes.ready, "Whether requests are served"),
    ):
        app.add_api_route(
            path, endpoint, methods=[method], summary=summary, response_class=Response
        )
    add_error_handlers(app, ROUTES)
    return app


class _Routes:
    def __init__(self, parts: GateParts) -> None:
        self._parts = parts
        self._failures = RateLimiter(60.0, default=FAILURES_A_MINUTE)
        self._explained = RateLimiter(60.0, default=EXPLANATIONS_A_MINUTE)
        self._n_in_hand = 0
        self._unproven = Places(MAX_UNPROVEN, MAX_UNPROVEN_EACH)

    async def condense(self, request: Request) -> Response:
        return await self._guarded(request, self._condense(request))

    async def explain(self, request: Request) -> Response:
        return await self._guarded(request, self._explain(request))

    async def tiers(self) -> Response:
        board = self._parts.board()
        found = tuple(
            TierInfo(
                name=name,
                target_model=tier.target_model,
                max_context_chars=tier.max_context_chars,
                max_condensed_tokens=tier.max_condensed_tokens,
                timeout_s=tier.timeout_s,
                n_miners=len(board.ranking.get(name, ())),
            )
            for name, tier in board.tiers.items()
        )
        return json_response(200, TierList(tiers=found))

    async def live(self) -> Response:
        return json_response(200, Live())

    async def ready(self) -> Response:
        board = self._parts.board()
        n_miners = sum(map(len, board.ranking.values()))
        if n_miners:
            return json_response(200, Ready(workers=n_miners))
        stage = "waiting for the chain" if board.roster is None else "waiting for miners"
        return json_response(503, NotReady(state="loading", stage=stage), {"Retry-After": "5"})

    async def _guarded(self, request: Request, work: Awaitable[Response]) -> Response:
        request_id = uuid.uuid4().hex[:16]
        try:
            response = await work
        except ClientGoneError:
            return Response(status_code=499)
        except NeuralCondenseError as error:
            log.info("%s: %d %s (%s)", request.url.path, error.status, error.code, request_id)
            response = own_answer(error)
        except Exception as error:  # noqa: BLE001 - left to itself, its message would be logged
            log.error("%s: 500, raised %s", request.url.path, type_and_frames(error))
            response = own_answer(UnforeseenError())
        response.headers[REQUEST_ID_HEADER] = request_id
        return response

    async def _condense(self, request: Request) -> Response:
        check_content_type(request)
        format_ = negotiate(request.headers.get("accept"))
        user, body = await self._user_and_body(request)
        if self._n_in_hand >= MAX_IN_HAND:
            raise OverloadedError("too many requests are in hand; retry later")
        self._n_in_hand += 1
        try:
            asked = parse_body(OrganicBody, body)
            left = await run_in_threadpool(self._parts.users.charge, user)
            wanted = OrganicRequest(
                asked.context, asked.tier, asked.target_model, asked.uid, _deadline(request)
            )
            work = self._parts.service.serve(wanted, user.id)
            reply, tier = await until_gone(request, work)
            if reply.tokens is None:
                raise UnavailableError("the reply holds nothing; retry")
            content = await run_in_threadpool(encode, reply.tokens, format_)
        finally:
            self._n_in_hand -= 1
        headers = {
            **reply_headers(reply.tokens, format_),
            **_miner_headers(reply),
            TIER_HEADER: tier.name,
            QUOTA_HEADER: str(left),
        }
        return Response(content, headers=headers)

    async def _explain(self, request: Request) -> Response:
        hotkey, _ = await self._signed(request, max_bytes=0, patience_s=NO_BODY_TIMEOUT_S)
        wait_s = self._explained.check(hotkey, self._parts.clock())
        if wait_s:
            raise OverloadedError("asked too often; retry later", retry_after_s=wait_s)
        return json_response(200, await run_in_threadpool(self._parts.explain, hotkey))

    async def _user_and_body(self, request: Request) -> tuple[ApiUser, bytes]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        users = self._parts.users
        if scheme.lower() == "bearer":
            with self._counted(request):
                user = await run_in_threadpool(users.by_token, token.strip())
            return user, await _body(request)
        if SIGNER_HEADER not in request.headers:
            raise UnauthorizedError(
                "send Authorization: Bearer KEY, or sign the request with an admitted hotkey"
            )
        with self._counted(request):
            claimed = claimed_hotkey(request.headers)
        admitted = await run_in_threadpool(users.by_hotkey, claimed)
        if admitted is None:
            raise ForbiddenError("this hotkey is not admitted here; ask the validator's owner")
        _, body = await self._signed(request)
        return admitted, body

    async def _signed(
        self,
        request: Request,
        *,
        max_bytes: int = MAX_BODY_BYTES,
        patience_s: float = BODY_TIMEOUT_S,
    ) -> tuple[str, bytes]:
        """Return who signed a request, and its body."""
        with self._counted(request):
            claimed_hotkey(request.headers)
        # Who signed is known only with the body: strangers must not hold the users' places.
        with self._unproven.take(address_group(request)):
            body = await _body(request, max_bytes, patience_s)
        with self._counted(request):
            caller = await run_in_threadpool(
                verify_request,
                request.headers,
                body,
                method=request.method,
                target=raw_target(request),
                self_hotkey=self._parts.hotkey,
                store=self._parts.store,
            )
        return caller.hotkey, body

    @contextlib.contextmanager
    def _counted(self, request: Request) -> Iterator[None]:
        """Guard a check of who asks: an address that fails it too often is refused at once.

        Raises
        ------
        OverloadedError
            It has failed too often within the last minute.
        SignatureError
            The check failed.
        UnauthorizedError
            The check failed.
        """
        address = request.client.host if request.client else ""
        now = self._parts.clock()
        if not self._failures.left(address, now):
            raise OverloadedError(
                "too many failed attempts from this address; retry later", retry_after_s=60.0
            )
        try:
            yield
        except (SignatureError, UnauthorizedError):
            self._failures.check(address, now)
            raise


async def _body(
    request: Request, max_bytes: int = MAX_BODY_BYTES, patience_s: float = BODY_TIMEOUT_S
) -> bytes:
    try:
        async with asyncio.timeout(patience_s):
            return await read_body(request, max_bytes)
    except TimeoutError:
        raise DeadlineError("the body did not arrive in time; send it faster") from None


def _deadline(request: Request) -> float | None:
    said = request.headers.get(TIMEOUT_HEADER)
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise RequestError(
            f"{TIMEOUT_HEADER} must be seconds above 0 and at most {MAX_DEADLINE_S:g}"
        )
    return seconds


def _miner_headers(reply: Reply) -> dict[str, str]:
    return {UID_HEADER: str(reply.uid), HOTKEY_HEADER: reply.hotkey}
