"""``Dendrite``: signed requests to miners.

Where it sits: rounds and the organic API ask miners through this, so that both look alike on the
wire. What comes back is a ``Reply``, whatever happened.

Design decisions

* Only the wire exchange is timed. Waiting for a free slot, writing JSON and signing come before
  the clock starts; checking the signature and decoding come after it stops, off the event loop.
* The body is capped while it is read, at what the tier's largest matrix needs; no redirect is
  followed, no compression taken, no address used but the one on the chain. On public networks that
  address must be a public one, so that nobody makes a validator call its own neighbours.
* A miner gives its refusals a code of its own, but none of those by which the validator tells what
  it found itself: a miner cannot say that its refusal was a good reply, or that it was not asked.
* A connection serves one exchange: a kept one that the miner closes just then would look like a
  miner's fault.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, get_args

import httpx
import orjson

from neural_condense_core.chain.base import Peer
from neural_condense_core.client.exchange import Body
from neural_condense_core.constants import MAX_TIMEOUT_S, TierConfig
from neural_condense_core.errors import BackendError, CodecError, SignatureError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.validator.replies import (
    MALFORMED,
    OK,
    REFUSED,
    STATUSES,
    TIMEOUT,
    UNREACHABLE,
    MinerInfo,
    Reply,
    reason_code,
)
from neural_condense_core.wire.arrays import HEADER_BYTES, MAX_HIDDEN_SIZE, REASONS, Limits
from neural_condense_core.wire.codec import decode
from neural_condense_core.wire.messages import MAX_NAME_CHARS, parse_error
from neural_condense_core.wire.scoring import ReplyCode
from neural_condense_core.wire.signing import nonce_of, sign_request, verify_answer

CONDENSE_PATH = "/v1/condense"
METADATA_PATH = "/v1/metadata"
MAX_CONCURRENT = 32
METADATA_TIMEOUT_S = 4.0
MAX_METADATA_BYTES = 16_384
MAX_TIER_CHARS = 64

_FINDINGS = frozenset({
    *STATUSES, *REASONS, *get_args(ReplyCode), "encoding", "bad_signature", "connect", "broken",
    "no_endpoint", "bad_endpoint", "private_address", "given_up", "cut_short", "judge_refused",
})  # fmt: skip
"""Codes by which the validator tells what it found, which no miner can give to itself."""

_HEADERS = {"Accept-Encoding": "identity", "Accept": "application/vnd.safetensors"}


class Asker(Protocol):
    """What a round needs of a dendrite."""

    async def ask(
        self, peer: Peer, tier: TierConfig, context: str, *, timeout_s: float | None = None
    ) -> Reply:
        """Return what a miner makes of a context; never raises."""
        ...


class Dendrite:
    """Asks miners; one for all tasks of a loop.

    Parameters
    ----------
    key : signs, a wallet or a keypair
    hotkey : its ss58 address
    hidden_size : width of the target model; None = any
    allow_private : ask miners at addresses that are not public, for networks on one machine
    max_concurrent : exchanges at a time
    clock : monotonic seconds
    transport : replaces the network
    """

    def __init__(
        self,
        key: Any,
        hotkey: str,
        *,
        hidden_size: int | None = None,
        allow_private: bool = False,
        max_concurrent: int = MAX_CONCURRENT,
        clock: Callable[[], float] = time.perf_counter,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.hotkey = hotkey
        self.hidden_size = hidden_size
        self._key = key
        self._allow_private = allow_private
        self._slots = asyncio.Semaphore(max_concurrent)
        self._clock = clock
        self._http = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            headers=_HEADERS,
            # Each of httpx's own bounds a single read; asyncio.timeout bounds the whole exchange.
            timeout=httpx.Timeout(MAX_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(
        self, peer: Peer, tier: TierConfig, context: str, *, timeout_s: float | None = None
    ) -> Reply:
        """Return what a miner makes of a context; never raises.

        Parameters
        ----------
        peer : whom to ask
        tier : gives the model, the limits and the timeout
        context : the text
        timeout_s : replaces the tier's
        """
        address = url_of(peer.endpoint, allow_private=self._allow_private)
        if address.url is None:
            return Reply(peer.uid, peer.hotkey, UNREACHABLE, address.fault)
        patience_s = tier.timeout_s if timeout_s is None else timeout_s
        asked = {"tier": tier.name, "target_model": tier.target_model, "context": context}
        body = await asyncio.to_thread(orjson.dumps, asked)
        async with self._slots:
            headers = self._signed(peer, body)
            request = self._http.build_request(
                "POST",
                address.url + CONDENSE_PATH,
                content=body,
                headers={
                    **headers,
                    "Content-Type": "application/json",
                    # The tier's, whatever the patience: a test and a user's request look alike.
                    "X-Request-Timeout": f"{tier.timeout_s:g}",
                },
            )
            exchange = _Exchange(request, self._limits(tier).max_bytes, patience_s)
            await exchange.run(self._http, self._clock)
        return await asyncio.to_thread(self._read, peer, tier, exchange, nonce_of(headers))

    async def metadata(self, peer: Peer) -> MinerInfo | None:
        """Return what a miner says of itself; None if it says nothing that can be read.

        Parameters
        ----------
        peer : whom to ask
        """
        address = url_of(peer.endpoint, allow_private=self._allow_private)
        if address.url is None:
            return None
        async with self._slots:
            request = self._http.build_request("GET", address.url + METADATA_PATH)
            exchange = _Exchange(request, MAX_METADATA_BYTES, METADATA_TIMEOUT_S)
            await exchange.run(self._http, self._clock)
        return _read_metadata(exchange.body) if exchange.status == 200 else None

    def _signed(self, peer: Peer, body: bytes) -> dict[str, str]:
        return sign_request(
            self._key, method="POST", target=CONDENSE_PATH, body=body, receiver=peer.hotkey
        )

    def _limits(self, tier: TierConfig) -> Limits:
        width = self.hidden_size or MAX_HIDDEN_SIZE
        most = tier.max_condensed_tokens
        return Limits(4 * width * most + 8 * most + HEADER_BYTES, most, self.hidden_size)

    def _read(self, peer: Peer, tier: TierConfig, done: _Exchange, nonce_ns: int) -> Reply:
        if done.fault is not None:
            return Reply(peer.uid, peer.hotkey, *done.fault, elapsed_s=done.elapsed_s)
        if done.status != 200:
            status, code = _refusal(done.status, done.body)
            return Reply(peer.uid, peer.hotkey, status, code, elapsed_s=done.elapsed_s)
        try:
            tokens = self._decode(peer, tier, done, nonce_ns)
        except SignatureError:
            code = "bad_signature"
        except CodecError as error:
            code = reason_code(error.detail.get("reason"), error.code)
        else:
            return Reply(peer.uid, peer.hotkey, OK, OK, done.elapsed_s, tokens)
        return Reply(peer.uid, peer.hotkey, MALFORMED, code, elapsed_s=done.elapsed_s)

    def _decode(
        self, peer: Peer, tier: TierConfig, done: _Exchange, nonce_ns: int
    ) -> CondensedTokens:
        verify_answer(
            done.headers,
            done.body,
            target=CONDENSE_PATH,
            nonce_ns=nonce_ns,
            self_hotkey=self.hotkey,
            peer_hotkey=peer.hotkey,
        )
        return decode(
            done.body,
            done.headers.get("content-type", ""),
            self._limits(tier),
            target_model=tier.target_model,
        )


class Address:
    """Where a miner serves.

    Parameters
    ----------
    url : without a path; None where it cannot be asked
    fault : why not
    """

    def __init__(self, url: str | None, fault: str = "") -> None:
        self.url = url
        self.fault = fault


def url_of(endpoint: str | None, *, allow_private: bool) -> Address:
    """Return the address that a miner published.

    Parameters
    ----------
    endpoint : ``"ip:port"`` or ``"[ip]:port"``, literal
    allow_private : take addresses that are not public
    """
    if endpoint is None:
        return Address(None, "no_endpoint")
    host, _, port = endpoint.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return Address(None, "bad_endpoint")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        return Address(None, "bad_endpoint")
    if not (ip.is_global or allow_private):
        return Address(None, "private_address")
    shown = f"[{ip}]" if ip.version == 6 else str(ip)
    return Address(f"http://{shown}:{port}")


class _Exchange:
    """One request and what came of it."""

    def __init__(self, request: httpx.Request, max_bytes: int, timeout_s: float) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.fault: tuple[str, str] | None = None
        self.elapsed_s: float | None = None

    async def run(self, http: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        start = clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(http)
        except TimeoutError:
            self.fault = TIMEOUT, TIMEOUT
        except BackendError as error:
            self.fault = MALFORMED, reason_code(error.detail.get("reason"), error.code)
        except httpx.ConnectError:
            self.fault = UNREACHABLE, "connect"
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL):
            self.fault = UNREACHABLE, "broken"
        self.elapsed_s = clock() - start

    async def _exchange(self, http: httpx.AsyncClient) -> None:
        response = await http.send(self._request, stream=True)
        try:
            cap = self._max_bytes if response.status_code == 200 else MAX_METADATA_BYTES
            body = Body("the miner", response.headers, cap)
            async for part in response.aiter_bytes():
                body.add(part)
        finally:
            await response.aclose()
        self.status, self.headers, self.body = response.status_code, response.headers, body.bytes()


def _refusal(status: int, body: bytes) -> tuple[str, str]:
    said = parse_error(body)
    otherwise = f"http_{status}"
    code = reason_code(said.code if said else None, otherwise)
    if code in _FINDINGS or code.startswith("http_"):
        code = otherwise
    if status == 504:
        return TIMEOUT, code
    return (REFUSED if status >= 400 else MALFORMED), code


def _read_metadata(body: bytes) -> MinerInfo | None:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(said, dict):
        return None
    tier, model = said.get("tier"), said.get("target_model")
    if not isinstance(tier, str) or not 0 < len(tier) <= MAX_TIER_CHARS:
        return None
    if not isinstance(model, str) or not 0 < len(model) <= MAX_NAME_CHARS:
        return None
    return MinerInfo(tier, model)
