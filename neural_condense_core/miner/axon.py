"""The axon: signed requests of validators over HTTP, answered with signed condensed tokens.

Where it sits: ``access.py`` decides who may ask, ``forwarding.py`` asks the backend; ``node.py``
runs this and brings new rosters.

Design decisions

* The cheap refusals come first: an unsigned request, a stranger's or one too many costs a few
  microseconds and its body is never read. A body is bounded by the tier's longest context and has
  a short deadline.
* Strangers who claim a validator's hotkey hold none of the places of validators (``in_hand.py``).
* A request counts against its sender's allowance once its signature is checked, not before:
  otherwise anybody could use up a validator's allowance.
* The deadline is the validator's, less a margin in which the refusal still arrives.
* No error repeats the context, and no log line holds anything of it.
* A stale signature of a known validator is what a wrong clock looks like; it is logged as such, at
  most once a minute.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import (
    BackendError,
    ContextTooLongError,
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    RequestError,
    SignatureError,
    UnavailableError,
    UnknownModelError,
    type_and_frames,
)
from neural_condense_core.miner.access import Access
from neural_condense_core.miner.forwarding import Forwarded, Forwarder
from neural_condense_core.miner.in_hand import InHand
from neural_condense_core.ratelimit import RateLimiter
from neural_condense_core.wire.codec import SAFETENSORS
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
    timeout_of,
    until_gone,
)
from neural_condense_core.wire.messages import (
    Live,
    MinerMetadata,
    MinerRequest,
    NotReady,
    Ready,
    parse_body,
)
from neural_condense_core.wire.signing import (
    Caller,
    Key,
    NonceStore,
    claimed_hotkey,
    sign_answer,
    verify_request,
)

log = logging.getLogger(__name__)

CONDENSE_PATH = "/v1/condense"
METADATA_PATH = "/v1/metadata"
LIVE_PATH = "/health/live"
READY_PATH = "/health/ready"
BACKEND_SECONDS_HEADER = "X-Condense-Backend-Seconds"

MAX_JSON_BYTES_PER_CHAR = 12
"""A character outside the basic plane, written as two escapes."""
MAX_ENVELOPE_BYTES = 4096
METADATA_WINDOW_S = 60.0
METADATA_PER_WINDOW = 120
BODY_TIMEOUT_S = 2.0
MARGIN_SHARE, MAX_MARGIN_S = 0.05, 0.5
CLOCK_WARNING_EVERY_S = 60.0

_ROUTES = [
    f"POST {CONDENSE_PATH}",
    *(f"GET {path}" for path in (METADATA_PATH, LIVE_PATH, READY_PATH)),
]


@dataclass(frozen=True)
class Identity:
    """Who a miner is.

    Parameters
    ----------
    key : the hotkey's key pair
    hotkey : its ss58 address
    tier : the tier it serves
    hidden_size : width of its rows
    """

    key: Key
    hotkey: str
    tier: TierConfig
    hidden_size: int


class Axon:
    """The routes and what they share; for one event loop.

    Parameters
    ----------
    identity : who answers
    access : who may ask
    forwarder : reaches the backend
    nonces : requests seen, shared with other processes of this hotkey
    max_concurrent : proven requests in hand at once
    clock : monotonic seconds
    """

    def __init__(
        self,
        identity: Identity,
        access: Access,
        forwarder: Forwarder,
        nonces: NonceStore,
        *,
        max_concurrent: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self.access = access
        self.is_draining = False
        self._forwarder = forwarder
        self._nonces = nonces
        self._clock = clock
        self._in_hand = InHand(max_concurrent)
        self._has_backend = True
        self._addresses = RateLimiter(METADATA_WINDOW_S, default=METADATA_PER_WINDOW)
        self._next_clock_warning_s = clock()

    async def condense(self, request: Request) -> Response:
        """Answer one request and log how it went.

        Raises
        ------
        NeuralCondenseError
            It is refused; the handlers turn that into the answer.
        """
        began = self._clock()
        try:
            response = await self._condense(request, began)
        except ClientGoneError:
            log.info("POST %s: the caller hung up", CONDENSE_PATH)
            return Response(status_code=499)
        except NeuralCondenseError as error:
            self._log_refusal(request, error)
            raise
        except Exception as error:  # noqa: BLE001 - left to itself, its message would be logged
            log.error("POST %s: 500, raised %s", CONDENSE_PATH, type_and_frames(error))
            return own_answer(UnforeseenError())
        log.info(
            "POST %s: 200 for %s in %.1f ms",
            CONDENSE_PATH,
            _short(request),
            (self._clock() - began) * 1000,
        )
        return response

    async def metadata(self, request: Request) -> Response:
        """Say who answers here and within which limits.

        Raises
        ------
        OverloadedError
            This address has asked too often.
        """
        wait_s = self._addresses.check(address_group(request), self._clock())
        if wait_s > 0:
            raise OverloadedError("asked too often; see Retry-After", retry_after_s=wait_s)
        tier = self.identity.tier
        body = MinerMetadata(
            version=_own_version(),
            hotkey=self.identity.hotkey,
            tier=tier.name,
            target_model=tier.target_model,
            hidden_size=self.identity.hidden_size,
            max_condensed_tokens=tier.max_condensed_tokens,
            max_context_chars=tier.max_context_chars,
        )
        return json_response(200, body)

    async def live(self) -> Live:
        """Say that the process answers."""
        return Live()

    async def ready(self) -> Response:
        """Say whether validators are served."""
        if self.is_draining:
            return _not_ready("draining", "stopping")
        if self.access.roster is None:
            return _not_ready("loading", "the chain has not been read yet")
        if not self._has_backend:
            return _not_ready("loading", "the backend did not answer the last request")
        return json_response(200, Ready(workers=1))

    async def drain(self, patience_s: float) -> bool:
        """Take no new requests and wait for those in hand.

        Parameters
        ----------
        patience_s : how long, seconds

        Returns
        -------
        whether all were answered
        """
        self.is_draining = True
        return await self._in_hand.wait_idle(patience_s)

    async def _condense(self, request: Request, began: float) -> Response:
        if self.is_draining:
            raise UnavailableError("the miner is stopping; ask another")
        self.access.admit(claimed_hotkey(request.headers))
        check_content_type(request)
        deadline = began + self._patience_s(request)
        self._in_hand.check_room()
        with self._in_hand.admitted():
            return await self._answer(request, deadline)

    async def _answer(self, request: Request, deadline: float) -> Response:
        target = raw_target(request)
        with self._in_hand.unproven.take(address_group(request)):
            body = await self._read(request, deadline)
            caller = await run_in_threadpool(self._verify, request, body, target)
        with self._in_hand.proven():
            self.access.count(caller.hotkey, self._clock())
            context = self._context_of(body)
            left_s = deadline - self._clock()
            made = await until_gone(request, self._forward(context, left_s))
            headers = await run_in_threadpool(
                sign_answer,
                self.identity.key,
                target=target,
                nonce_ns=caller.nonce_ns,
                body=made.body,
                receiver=caller.hotkey,
            )
        headers[BACKEND_SECONDS_HEADER] = f"{made.backend_s:.6f}"
        headers["Content-Type"] = SAFETENSORS.content_type
        return Response(made.body, headers=headers)

    def _patience_s(self, request: Request) -> float:
        allowed_s = self.identity.tier.timeout_s
        said_s = timeout_of(request)
        if said_s is not None:
            allowed_s = min(allowed_s, said_s)
        return allowed_s - min(MARGIN_SHARE * allowed_s, MAX_MARGIN_S)

    async def _read(self, request: Request, deadline: float) -> bytes:
        limit = MAX_JSON_BYTES_PER_CHAR * self.identity.tier.max_context_chars + MAX_ENVELOPE_BYTES
        try:
            async with asyncio.timeout(min(deadline - self._clock(), BODY_TIMEOUT_S)):
                return await read_body(request, limit)
        except TimeoutError:
            raise DeadlineError("the body did not arrive in time") from None

    def _verify(self, request: Request, body: bytes, target: str) -> Caller:
        return verify_request(
            request.headers,
            body,
            method=request.method,
            target=target,
            self_hotkey=self.identity.hotkey,
            store=self._nonces,
        )

    def _context_of(self, body: bytes) -> str:
        asked = parse_body(MinerRequest, body)
        tier = self.identity.tier
        if asked.tier != tier.name:
            raise RequestError(f"this miner serves tier {tier.name}", {"tier": tier.name})
        if asked.target_model != tier.target_model:
            raise UnknownModelError(
                f"this miner condenses for {tier.target_model}",
                {"target_model": tier.target_model},
            )
        if len(asked.context) > tier.max_context_chars:
            limit = tier.max_context_chars
            raise ContextTooLongError(
                f"the context is longer than {limit} characters",
                {"limit": limit, "n_chars": len(asked.context)},
            )
        return asked.context

    async def _forward(self, context: str, left_s: float) -> Forwarded:
        if left_s <= 0:
            raise DeadlineError("no time was left for the backend")
        try:
            made = await self._forwarder.condense(context, left_s)
        except BackendError as error:
            self._has_backend = error.detail.get("reason") != "unreachable"
            raise
        self._has_backend = True
        return made

    def _log_refusal(self, request: Request, error: NeuralCondenseError) -> None:
        reason = error.detail.get("reason", "")
        log.info(
            "POST %s: %d %s %s for %s",
            CONDENSE_PATH,
            error.status,
            error.code,
            reason,
            _short(request),
        )
        if not isinstance(error, SignatureError) or reason != "stale":
            return
        now = self._clock()
        if now >= self._next_clock_warning_s:
            self._next_clock_warning_s = now + CLOCK_WARNING_EVERY_S
            log.warning(
                "a request that claims to be from validator %s is stale: if others are too, this "
                "machine's clock is wrong; compare it with: timedatectl",
                _short(request),
            )


def create_app(axon: Axon) -> FastAPI:
    """Return the application of an axon."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_api_route(CONDENSE_PATH, axon.condense, methods=["POST"], response_class=Response)
    app.add_api_route(METADATA_PATH, axon.metadata, response_class=Response)
    app.add_api_route(LIVE_PATH, axon.live)
    app.add_api_route(READY_PATH, axon.ready, response_class=Response)
    add_error_handlers(app, _ROUTES)
    return app


def _not_ready(state: Any, reason: str) -> Response:
    return json_response(503, NotReady(state=state, reason=reason), {"Retry-After": "1"})


def _short(request: Request) -> str:
    try:
        claimed = claimed_hotkey(request.headers)[:8]
    except SignatureError:
        return "nobody"
    return claimed if claimed.isascii() and claimed.isalnum() else "?"


def _own_version() -> str:
    try:
        return version("neural-condense")
    except PackageNotFoundError:
        return "source"
