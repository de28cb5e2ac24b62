"""One exchange with a backend, network apart: what to ask, what an answer means, when to retry.

Where it sits: ``client/backend.py`` puts httpx around it; everything that can be decided
without waiting is decided here.

Design decisions

* safetensors is asked for, JSON is taken: a backend that knows no ``Accept`` still serves.
* No compression is accepted, so that the cap counts the bytes that end up in memory.
* 429, 503 and a connection that broke are retried, for to condense a text twice does no harm. A
  ``Retry-After`` that lies beyond the deadline ends the call at once with the backend's error.
* A backend is told a little less time than is left, so that its refusal arrives in time.
* A body that is not the one its ``Content-Digest`` states is refused before it is parsed.
* Nothing a backend says is trusted: its error message is cut to size and stripped of control
  characters before it reaches a terminal or a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NoReturn

import orjson

from neural_condense_core.errors import (
    BackendError,
    CodecError,
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    RequestError,
    RetryableError,
    UnavailableError,
)
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import decode
from neural_condense_core.wire.digest import check_digest
from neural_condense_core.wire.messages import (
    Info,
    NotReady,
    Ready,
    parse_error,
    parse_health,
    parse_info,
)
from neural_condense_core.wire.organic import TIMEOUT_HEADER

DEFAULT_LIMITS = Limits(max_bytes=256 * 1024 * 1024, max_tokens=16_384)
LOST = "connection_lost"
"""Key in the detail of a ``BackendError`` for a connection that broke: asking again may do."""
MAX_CONTROL_BYTES = 1_000_000
MAX_MESSAGE_CHARS = 500
BACK_OFF_S = 0.5
MAX_BACK_OFF_S = 8.0
WAY_BACK_SHARE, MAX_WAY_BACK_S = 0.1, 0.5
"""What is kept of the time that is left for the answer's way back: a share, and at most seconds."""

_REQUEST_KINDS: tuple[type[RequestError], ...] = (RequestError, *RequestError.__subclasses__())
_REQUEST_ERRORS: Mapping[str, type[RequestError]] = {cls.code: cls for cls in _REQUEST_KINDS}


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer.

    Parameters
    ----------
    status : HTTP status
    headers : keys in lower case
    body : within the cap
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Question:
    """What the caller of ``condense`` wants; knows how to ask for it and how to read the answer.

    Parameters
    ----------
    context : the text
    ratio, max_condensed_tokens, target_model : as in the request; None = the backend's choice
    dtype : dtype to ask for on the wire; None = the backend's
    limits : what is accepted as an answer
    count_tokens : counts the context's tokens; its count wins over the backend's, and is needed
        for a backend that does not say it, such as one that answers with a bare list
    estimate_tokens : counts them roughly, only where the backend does not say
    """

    context: str = field(repr=False)
    ratio: float | None = None
    max_condensed_tokens: int | None = None
    target_model: str | None = None
    dtype: str | None = None
    limits: Limits = DEFAULT_LIMITS
    count_tokens: Callable[[str], int] | None = field(default=None, repr=False)
    estimate_tokens: Callable[[str], int] | None = field(default=None, repr=False)

    def headers(self, left_s: float | None = None) -> dict[str, str]:
        """Return the request's headers.

        Parameters
        ----------
        left_s : seconds that the caller still waits; None = it does not say
        """
        parameter = "" if self.dtype is None else f"; dtype={self.dtype}"
        accept = f"application/vnd.safetensors{parameter}, application/json; q=0.5"
        headers = {"Accept": accept, "Content-Type": "application/json"}
        if left_s is not None:
            told_s = max(left_s - min(WAY_BACK_SHARE * left_s, MAX_WAY_BACK_S), 0.001)
            headers[TIMEOUT_HEADER] = f"{told_s:.3f}"
        return headers

    def body(self) -> bytes:
        """Return the request's body; what the caller left open is left out.

        Raises
        ------
        RequestError
            The context cannot be written as UTF-8.
        """
        wanted = {
            "context": self.context,
            "ratio": self.ratio,
            "max_condensed_tokens": self.max_condensed_tokens,
            "target_model": self.target_model,
        }
        try:
            return orjson.dumps({key: value for key, value in wanted.items() if value is not None})
        except orjson.JSONEncodeError as error:
            raise RequestError(f"the request cannot be written as JSON: {error}") from None

    def read(self, answer: Answer, url: str) -> CondensedTokens:
        """Return the condensed tokens of an answer.

        Raises
        ------
        BackendError
            The answer is not what was asked for; ``detail["reason"]`` says why. Error answers
            raise what ``error_from`` makes of them.
        """
        if answer.status != 200:
            _refuse(answer, url)
        try:
            check_digest(answer.headers.get("content-digest"), answer.body)
            tokens = decode(
                answer.body,
                answer.headers.get("content-type", ""),
                self.limits,
                target_model=self.target_model,
                n_context_tokens=self._count(answer),
            )
        except CodecError as error:
            message = f"{url} answered with condensed tokens that cannot be used: {error.message}"
            raise BackendError(message, error.detail) from error
        limit = self.max_condensed_tokens
        if limit is not None and tokens.n_condensed_tokens > limit:
            message = (
                f"{url} answered with {tokens.n_condensed_tokens} condensed tokens, not {limit}"
            )
            raise BackendError(message, {"reason": "too_many_tokens", "limit": limit})
        return tokens

    def _count(self, answer: Answer) -> int | None:
        if self.count_tokens is not None:
            return self.count_tokens(self.context)
        said = answer.headers.get("x-condense-n-context-tokens", "")
        if said.isdecimal() and len(said) < 16:
            return int(said)
        # Looked for in the bytes: to parse a large matrix twice would take longer than the search.
        if self.estimate_tokens is None or b'"n_context_tokens"' in answer.body:
            return None
        return self.estimate_tokens(self.context)


def error_from(answer: Answer, url: str) -> NeuralCondenseError:
    """Return the exception that an answer other than 200 stands for."""
    info = parse_error(answer.body)
    said = "" if info is None else f": {_clean(info.message)}"
    message = f"{url} answered HTTP {answer.status}{said}"
    detail: dict[str, object] = {**(info.detail if info else {}), "status": answer.status}
    detail.pop("retry_after_s", None)
    if answer.status in {429, 503}:
        retryable = OverloadedError if answer.status == 429 else UnavailableError
        wait_s = parse_retry_after(answer.headers.get("retry-after"))
        if wait_s is None:
            return retryable(message, detail)
        return retryable(message, {**detail, "retry_after_s": wait_s}, retry_after_s=wait_s)
    if answer.status == 504:
        return DeadlineError(message, detail)
    if info is not None and 400 <= answer.status < 500:
        return _REQUEST_ERRORS.get(info.code, RequestError)(message, detail)
    if info is None:
        message += "; is it a condensing backend?"
    return BackendError(message, detail)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks to wait; None if it says nothing.

    Parameters
    ----------
    value : seconds or an HTTP date
    now : for dates; None = the clock's time
    """
    if value is None:
        return None
    text = value.strip()
    if text.replace(".", "", 1).isdecimal() and len(text) < 16:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError, IndexError):  # all seen for texts that are none
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


class Budget:
    """The time and the tries that one call has.

    Parameters
    ----------
    timeout_s : for the whole call, retries and waits included
    max_retries : how often is asked again after 429, 503 or a connection that broke
    clock : monotonic seconds
    """

    def __init__(self, timeout_s: float, max_retries: int, clock: Callable[[], float]) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._end = clock() + timeout_s
        self._left = max_retries
        self._back_off_s = BACK_OFF_S

    def left_s(self) -> float:
        """Return the seconds left, negative once the time is over."""
        return self._end - self._clock()

    def remaining_s(self) -> float:
        """Return the seconds left; raise ``deadline_error()`` if there are none."""
        left = self.left_s()
        if left <= 0:
            raise self.deadline_error()
        return left

    def deadline_error(self) -> DeadlineError:
        """Return the error for a call that took too long."""
        message = f"no answer within {self.timeout_s:g} s; allow more time or send less text"
        return DeadlineError(message, {"timeout_s": self.timeout_s})

    def wait_before_retry(self, error: RetryableError | BackendError) -> float:
        """Return the seconds to wait before asking again, or raise the error where that is over.

        Parameters
        ----------
        error : what the backend answered, or that the connection broke
        """
        if isinstance(error, BackendError) and not error.detail.get(LOST):
            raise error
        told = error.detail.get("retry_after_s")
        wait_s = float(told) if isinstance(told, float) else self._back_off_s
        self._back_off_s = min(2 * self._back_off_s, MAX_BACK_OFF_S)
        self._left -= 1
        if self._left < 0 or self._clock() + wait_s >= self._end:
            raise error
        return wait_s


def read_health(answer: Answer, url: str) -> NotReady | Ready:
    """Return what ``GET /health/ready`` says.

    Raises
    ------
    BackendError
        It is no such answer.
    """
    if answer.status not in {200, 503}:
        _refuse(answer, url)
    try:
        return parse_health(answer.body)
    except CodecError as error:
        raise BackendError(f"{url} is no condensing backend: {error.message}") from error


def read_info(answer: Answer, url: str) -> Info:
    """Return what ``GET /info`` says.

    Raises
    ------
    BackendError
        It is no such answer.
    """
    if answer.status != 200:
        _refuse(answer, url)
    try:
        return parse_info(answer.body)
    except CodecError as error:
        raise BackendError(f"{url} is no condensing backend: {error.message}") from error


def read_progress(health: NotReady | Ready | None) -> Ready | None:
    """Return the health if it is ready and None while there is hope.

    Parameters
    ----------
    health : None = the port does not answer yet

    Raises
    ------
    BackendError
        The backend has given up.
    """
    if isinstance(health, NotReady) and health.state == "failed":
        reason = _clean(health.reason or "no reason given")
        raise BackendError(f"the backend failed to start: {reason}", {"reason": "failed"})
    return health if isinstance(health, Ready) else None


def not_ready_error(url: str, timeout_s: float, last: NotReady | Ready | None) -> DeadlineError:
    """Return the error for a backend that was not ready in time, with where it stood."""
    stood = "it did not answer at all; is it running?"
    if isinstance(last, NotReady):
        done = "" if last.done is None else f" ({last.done:.0%})"
        stood = f"it was {last.state}: {_clean(last.stage)}{done}"
    return DeadlineError(f"{url} was not ready within {timeout_s:g} s; {stood}")


class Body:
    """The body of an answer while it is read.

    Parameters
    ----------
    url : for messages
    headers : of the answer
    max_bytes : the cap
    """

    def __init__(self, url: str, headers: Mapping[str, str], max_bytes: int) -> None:
        if headers.get("content-encoding", "identity") != "identity":
            raise BackendError(
                f"{url} compressed its answer although none was asked for", {"reason": "encoding"}
            )
        self._url = url
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        BackendError
            They pass the cap.
        """
        self._size += len(part)
        if self._size > self._max_bytes:
            raise BackendError(
                f"{self._url} answered with more than {self._max_bytes} bytes",
                {"reason": "too_large", "limit": self._max_bytes},
            )
        self._parts.append(part)

    def bytes(self) -> bytes:
        """Return the whole."""
        return b"".join(self._parts)


def _refuse(answer: Answer, url: str) -> NoReturn:
    raise error_from(answer, url)


def _clean(message: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in message)
    return printable[:MAX_MESSAGE_CHARS]
