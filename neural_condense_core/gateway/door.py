"""Who may ask, and how often.

Design decisions

* Without keys there is one user, whoever it is: that is for loopback alone, and settings see to it.
* Addresses that keep failing are refused for a while, so that guessing costs.
* A page of another origin cannot use a gateway without keys through its user's browser, nor can one
  whose name was made to lead here: what is asked for must be called by a loopback name.
* Whoever is over the rate is refused before the quota is charged: a client that tries again does
  not use its day up with refusals.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from neural_condense_core.api_keys import ApiUser, ApiUsers
from neural_condense_core.errors import ForbiddenError, OverloadedError, UnauthorizedError
from neural_condense_core.ratelimit import RateLimiter
from neural_condense_core.wire.incoming import address_group

ANYBODY = "local"
FAILURES_A_MINUTE = 60


class Door:
    """Lets callers in.

    Parameters
    ----------
    users : who has a key; None = no key is asked for
    requests_per_minute : of one user
    clock : monotonic seconds
    """

    def __init__(
        self,
        users: ApiUsers | None,
        requests_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = users
        self._clock = clock
        self._rate = RateLimiter(60.0, default=requests_per_minute)
        self._failures = RateLimiter(60.0, default=FAILURES_A_MINUTE)

    async def admit(self, request: Request, *, charges: bool) -> str:
        """Return the id of who asks.

        Parameters
        ----------
        request : theirs
        charges : whether it counts against quota and rate

        Raises
        ------
        OverloadedError
            Asked too often.
        """
        user = await self._known(request)
        caller = ANYBODY if user is None else user.id
        if charges:
            wait_s = self._rate.check(caller, self._clock())
            if wait_s:
                raise OverloadedError(
                    "more requests a minute than are allowed; retry later",
                    {"reason": "rate"},
                    retry_after_s=wait_s,
                )
            if self._users is not None and user is not None:
                await run_in_threadpool(self._users.charge, user)
        return caller

    async def _known(self, request: Request) -> ApiUser | None:
        if self._users is None:
            _refuse_other_origins(request)
            return None
        address = address_group(request)
        if not self._failures.left(address, self._clock()):
            raise OverloadedError(
                "too many failed attempts from this address; retry later", retry_after_s=60.0
            )
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise UnauthorizedError("send Authorization: Bearer KEY")
            return await run_in_threadpool(self._users.by_token, token.strip())
        except UnauthorizedError:
            self._failures.check(address, self._clock())
            raise


def _refuse_other_origins(request: Request) -> None:
    host, origin = request.headers.get("host"), request.headers.get("origin")
    if host is not None and not _is_loopback(host):
        raise ForbiddenError(
            "without keys this gateway is for its own machine; call it 127.0.0.1 or localhost, or "
            "give it keys"
        )
    if origin is not None and urlsplit(origin).netloc != host:
        raise ForbiddenError("a page of another origin may not use this gateway; give it keys")


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
