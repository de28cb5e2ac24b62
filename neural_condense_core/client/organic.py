"""Clients of a validator's organic API: ``OrganicClient`` and ``AsyncOrganicClient``.

Where they sit: an application condenses its users' texts by the subnet's best miners through
these; a miner asks why it has its score.

Design decisions

* An API key, or a hotkey that signs. A signed request names the validator's hotkey, so that no
  other can use it.
* One call, one deadline, told to the validator too, so that both give up together.
* The validator already tries several miners: only 429 and 503 are asked again, as it says when.
* What comes is ``CondensedTokens``, as from a backend: it can be spliced in or sent to an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import httpx
import orjson

from neural_condense_core.client.async_client import AsyncClient, Call, CallSettings
from neural_condense_core.client.exchange import MAX_CONTROL_BYTES, Answer
from neural_condense_core.client.loop_thread import SyncClient
from neural_condense_core.errors import BackendError, CodecError, ConfigError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.codec import decode
from neural_condense_core.wire.organic import (
    CONDENSE_PATH,
    EXPLAIN_PATH,
    HOTKEY_HEADER,
    MAX_DEADLINE_S,
    TIER_HEADER,
    TIERS_PATH,
    TIMEOUT_HEADER,
    UID_HEADER,
    Explanation,
    TierList,
)
from neural_condense_core.wire.scoring import parse_message
from neural_condense_core.wire.signing import sign_request

if TYPE_CHECKING:
    from neural_condense_core.wire.signing import Key

MAX_ANSWER_BYTES = 16_000_000


@dataclass(frozen=True)
class Signer:
    """Who signs, and for whom.

    Parameters
    ----------
    key : a wallet or a key pair
    validator : hotkey of the validator
    """

    key: Key
    validator: str


@dataclass(frozen=True)
class Served:
    """What a user gets.

    Parameters
    ----------
    tokens : the condensed tokens
    uid, hotkey : of the miner that made them
    tier : that served
    """

    tokens: CondensedTokens
    uid: int
    hotkey: str
    tier: str


class Settings(CallSettings, total=False):
    """Keyword arguments that both clients take.

    Parameters
    ----------
    api_key : of ``condense keys add``
    signer : signs instead of an API key
    timeout_s : deadline of a call, 60
    max_retries : how often 429 or 503 is asked again, 3
    limits : what is accepted as an answer
    clock, sleep : monotonic seconds; waits
    transport : replaces the network
    """

    api_key: str | None
    signer: Signer | None


class AsyncOrganicClient(AsyncClient):
    """Async client; an async context manager, usable by several tasks of one loop.

    Parameters
    ----------
    url : of the validator's API, ``"https://validator.example:9000"``; ``ConfigError`` if it is no
        URL
    **settings : see ``Settings``
    """

    service = "validator"
    default_timeout_s = 60.0

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        super().__init__(url, settings)
        path = httpx.URL(self.url).raw_path.decode("ascii")
        self._base_path = path.partition("?")[0].rstrip("/")
        self._api_key = settings.get("api_key")
        self._signer = settings.get("signer")

    async def condense(
        self,
        context: str,
        *,
        tier: str | None = None,
        target_model: str | None = None,
        uid: int | None = None,
    ) -> CondensedTokens:
        """Condense a text; errors as of ``serve``.

        Parameters
        ----------
        context : the text
        tier : by name; None = the first that is served
        target_model : the model that will read them; the tier's, if given
        uid : only this miner; None = the best
        """
        served = await self.serve(context, tier=tier, target_model=target_model, uid=uid)
        return served.tokens

    async def serve(
        self,
        context: str,
        *,
        tier: str | None = None,
        target_model: str | None = None,
        uid: int | None = None,
    ) -> Served:
        """Condense a text and say who did it.

        Besides what is listed, what the validator refuses comes as the error that its status stands
        for, with its message; ``detail["status"]`` holds the status.

        Parameters
        ----------
        context, tier, target_model, uid : as in ``condense``

        Raises
        ------
        BackendError
            The validator answered with something that cannot be used.
        """
        wanted = {"context": context, "tier": tier, "target_model": target_model, "uid": uid}
        body = orjson.dumps({key: value for key, value in wanted.items() if value is not None})
        answer = await self._send("POST", CONDENSE_PATH, body, self._limits.max_bytes)
        try:
            tokens = decode(
                answer.body,
                answer.headers.get("content-type", ""),
                self._limits,
                target_model=target_model,
            )
            return Served(
                tokens,
                int(answer.headers[UID_HEADER]),
                answer.headers[HOTKEY_HEADER],
                answer.headers[TIER_HEADER],
            )
        except CodecError as error:
            message = f"{self.url} answered with tokens that cannot be used: {error.message}"
            raise BackendError(message, error.detail) from error
        except (KeyError, ValueError):
            raise BackendError(f"{self.url} does not say which miner answered") from None

    async def explain(self) -> Explanation:
        """Return why the signing miner has its score.

        Raises
        ------
        ConfigError
            There is no signer: a key says nothing about who asks.
        """
        if self._signer is None:
            raise ConfigError("only a signed request is told about its miner; give a signer")
        answer = await self._send("GET", EXPLAIN_PATH, max_bytes=MAX_ANSWER_BYTES)
        return parse_message(Explanation, answer.body)

    async def tiers(self) -> TierList:
        """Return what is served, and within which limits."""
        answer = await self._send("GET", TIERS_PATH)
        return parse_message(TierList, answer.body)

    async def _send(
        self, method: str, path: str, body: bytes = b"", max_bytes: int = MAX_CONTROL_BYTES
    ) -> Answer:
        # A signature is good for one try.
        headers = partial(self._headers, method, path, body)
        return await self._call(Call(method, path, body, headers, max_bytes))

    def _headers(self, method: str, path: str, body: bytes, left_s: float) -> dict[str, str]:
        headers = {"Accept": "application/vnd.safetensors, application/json; q=0.5"}
        if method == "POST":
            headers |= {
                "Content-Type": "application/json",
                # Less than is left here, so that its refusal arrives before this call gives up.
                TIMEOUT_HEADER: f"{min(max(0.9 * left_s, 0.001), MAX_DEADLINE_S):.3f}",
            }
        if self._signer is not None:
            headers |= sign_request(
                self._signer.key,
                method=method,
                target=self._base_path + path,
                body=body,
                receiver=self._signer.validator,
            )
        elif self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        return headers


class OrganicClient(SyncClient[AsyncOrganicClient]):
    """Sync client; a context manager, usable by several threads.

    Parameters
    ----------
    url : of the validator's API; ``ConfigError`` if it is no URL
    **settings : see ``Settings``
    """

    def __init__(self, url: str, **settings: Unpack[Settings]) -> None:
        super().__init__(AsyncOrganicClient(url, **settings))

    def condense(self, context: str, **wanted: Any) -> CondensedTokens:
        """Condense a text; parameters and errors as ``AsyncOrganicClient.condense``."""
        return self._loop.run(self._client.condense(context, **wanted))

    def serve(self, context: str, **wanted: Any) -> Served:
        """Condense a text and say who did it; as ``AsyncOrganicClient.serve``."""
        return self._loop.run(self._client.serve(context, **wanted))

    def explain(self) -> Explanation:
        """Return why the signing miner has its score."""
        return self._loop.run(self._client.explain())

    def tiers(self) -> TierList:
        """Return what is served, and within which limits."""
        return self._loop.run(self._client.tiers())
