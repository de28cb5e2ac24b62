"""HTTP to an engine's server: bounded JSON in, bounded JSON or server-sent events out.

Where it sits: ``vllm.py`` and ``sglang.py`` say what to send and what an answer means; sockets,
deadlines and errors are here.

Design decisions

* A server's message is cut to size before it is repeated. Prompts are sent as ids and rows, never
  as text, so no message can quote a context.
* Answers are counted while they are read; an event that never ends, or an answer without end, is
  cut off by size and by time.
* Proxies of the environment are not used: engines run beside us or behind an address of their own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import httpx
import orjson

from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    DeadlineError,
    OverloadedError,
    RequestError,
    UnavailableError,
)

KEY_VARIABLE = "CONDENSE_ENGINE_KEY"
"""Environment variable with the API key of the engine's server, where it wants one."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_EVENT_BYTES = 1024 * 1024
MAX_MESSAGE_CHARS = 300
MAX_WAIT_DIGITS = 6
CONNECT_TIMEOUT_S = 5.0
DEFAULT_TIMEOUT_S = 300.0
"""For one whole answer."""

_RETRYABLE = {429: OverloadedError, 503: UnavailableError}


class EngineHTTP:
    """One engine's server.

    Parameters
    ----------
    url : where it listens, ``http://127.0.0.1:8000`` for example
    engine : its name, for messages
    timeout_s : seconds for one whole answer
    transport : how to send; tests give their own

    Raises
    ------
    ConfigError
        The address is none, or holds a password.
    """

    def __init__(
        self,
        url: str,
        engine: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"an engine's address is no URL: {error}") from None
        if parsed.userinfo:  # messages name the address
            raise ConfigError(
                f"an engine's address holds no user or password; put the key into {KEY_VARIABLE}"
            )
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"an engine's address begins with http:// or https://, got {url!r}")
        self.url = url.rstrip("/")
        self.engine = engine
        self.timeout_s = timeout_s
        key = os.environ.get(KEY_VARIABLE)
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            headers={"authorization": f"Bearer {key}"} if key else None,
            transport=transport,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str) -> Any:
        """Return the JSON of a GET."""
        with self._answer("GET", path, None) as answer:
            return self._json(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON of a POST."""
        with self._answer("POST", path, body) as answer:
            return self._json(answer)

    def events(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        """Yield the JSON of each server-sent event of a POST, up to ``[DONE]``."""
        with self._answer("POST", path, body) as answer:
            for line in self._lines(answer):
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    yield self._parse(data)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> Iterator[httpx.Response]:
        content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = {"content-type": "application/json"} if body is not None else None
        try:
            with self._http.stream(
                method, self.url + path, content=content, headers=headers
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    self._fail(answer)
                yield answer
        except httpx.TimeoutException as error:
            raise DeadlineError(
                f"{self.engine} at {self.url} did not answer in time ({type(error).__name__})"
            ) from error
        except httpx.HTTPError as error:
            raise BackendError(
                f"{self.engine} at {self.url} cannot be reached: {type(error).__name__}; is it "
                "running, and is this its address?"
            ) from error

    def _fail(self, answer: httpx.Response) -> NoReturn:
        status = answer.status_code
        said = f"{self.engine} answered {status}"
        try:
            message = _message(orjson.loads(self._whole(answer)))
        except (ValueError, BackendError):
            message = ""
        text = f"{said}: {message}" if message else said
        if status in _RETRYABLE:
            after = answer.headers.get("retry-after", "")
            wait_s = float(after) if after.isdecimal() and len(after) < MAX_WAIT_DIGITS else 1.0
            raise _RETRYABLE[status](text, retry_after_s=wait_s)
        if status in (400, 413, 422):
            raise RequestError(text)
        hint = f"; set {KEY_VARIABLE}" if status in (401, 403) else ""
        raise BackendError(text + hint)

    def _json(self, answer: httpx.Response) -> Any:
        return self._parse(self._whole(answer))

    def _parse(self, data: bytes) -> Any:
        try:
            return orjson.loads(data)
        except ValueError as error:
            raise BackendError(
                f"{self.engine} at {self.url} sent something that is not JSON"
            ) from error

    def _whole(self, answer: httpx.Response) -> bytes:
        return b"".join(self._chunks(answer))

    def _chunks(self, answer: httpx.Response) -> Iterator[bytes]:
        """Yield an answer's bytes within the limits.

        Raises
        ------
        BackendError
            It is too large.
        DeadlineError
            It takes too long.
        """
        ends = time.monotonic() + self.timeout_s
        n_bytes = 0
        for chunk in answer.iter_bytes():
            n_bytes += len(chunk)
            if n_bytes > MAX_ANSWER_BYTES:
                raise BackendError(
                    f"{self.engine}'s answer is larger than {MAX_ANSWER_BYTES} bytes"
                )
            if time.monotonic() > ends:
                raise DeadlineError(f"{self.engine}'s answer took more than {self.timeout_s:g} s")
            yield chunk

    def _lines(self, answer: httpx.Response) -> Iterator[bytes]:
        held = b""
        for chunk in self._chunks(answer):
            *lines, held = (held + chunk).split(b"\n")
            if len(held) > MAX_EVENT_BYTES:
                raise BackendError(f"{self.engine} sent a line without end")
            yield from (line.rstrip(b"\r") for line in lines)
        if held:
            yield held


def _message(body: Any) -> str:
    """Return what an error body says, fit for a terminal."""
    error = body.get("error", body) if isinstance(body, dict) else {}
    said = error.get("message", "") if isinstance(error, dict) else error
    text = " ".join(str(said).split())
    return "".join(c for c in text if c.isprintable())[:MAX_MESSAGE_CHARS]
