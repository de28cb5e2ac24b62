"""The one exception tree.

Each class carries a ``code`` (machine-readable, stable), an HTTP ``status`` and a process
``exit_code``; the backend and the command line translate by these and nothing else.

::

    NeuralCondenseError
    ├── ConfigError                 a flag, file or environment value is wrong        exit 2
    │   ├── CheckpointError         a checkpoint is missing, damaged or does not fit  exit 2
    │   ├── CorpusError             a condensed corpus is unfinished or damaged       exit 2
    │   └── UnknownNameError        no such condenser, tier, ... (did you mean?)      exit 2
    ├── DivergedError               a training run's loss is no longer finite        exit 1
    ├── TargetModelError            the target model cannot be loaded or fetched      exit 3
    ├── FetchError                  what was to be pulled cannot be had as stated     exit 3
    ├── RequestError                the request is at fault                           422
    │   ├── MalformedJsonError      the body is not JSON                              400
    │   ├── SignatureError          unsigned, badly signed, stale or replayed         401
    │   ├── ForbiddenError          signed, but not by a key that may ask             403
    │   ├── UnauthorizedError       no API key or token, or one not known here        401
    │   ├── UnknownTierError        a tier that is not configured here                404
    │   ├── UnknownMinerError       no miner has that uid, or not in that tier        404
    │   ├── UnknownRoundError       the records hold no such round                    404
    │   ├── UnknownModelError       another target model than the one served          404
    │   ├── NotAcceptableError      no offered format fits Accept                     406
    │   ├── PayloadTooLargeError    the body exceeds the byte cap                     413
    │   ├── ContextTooLongError     the context exceeds the token limit               413
    │   ├── ContextWindowError      a prompt is longer than the model's window        400
    │   ├── UnknownContextError     no stored context has that id                     404
    │   ├── UnsupportedMediaError   the body is not application/json                  415
    │   └── UnsupportedError        the engine that answers cannot do that            422
    ├── OverloadedError             the queue is full; retry later                    429
    ├── UnavailableError            loading, draining or no worker left               503
    ├── DeadlineError               the deadline passed                               504
    ├── BackendError                a backend answered wrongly or not at all          502, exit 3
    ├── ChainError                  the chain is at fault or refused                  exit 3
    │   └── ChainUnavailable        it cannot be reached or read in time; retry later exit 3
    └── CodecError                  bytes from outside that are not what they claim   422
"""

from __future__ import annotations

import traceback


class NeuralCondenseError(Exception):
    """Base of all errors that are raised on purpose.

    Parameters
    ----------
    message : what happened and what to do, fit for a user; never holds context text
    detail : optional JSON-ready facts (limits, names)
    """

    code = "internal"
    status = 500
    exit_code = 1

    def __init__(self, message: str, detail: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail or {}

    def body(self) -> dict[str, object]:
        """Return the HTTP error body, ``{"error": {"code", "message", "detail"}}``."""
        return {"error": {"code": self.code, "message": self.message, "detail": self.detail}}


class ConfigError(NeuralCondenseError):
    """A flag, file or environment value is wrong."""

    code = "config"
    exit_code = 2


class CheckpointError(ConfigError):
    """A checkpoint is missing, damaged or does not fit the target model."""

    code = "checkpoint"


class CorpusError(ConfigError):
    """A condensed corpus is unfinished, damaged or was made by something else."""

    code = "corpus"


class UnknownNameError(ConfigError):
    """A name that no registry knows; the message suggests the nearest."""

    code = "unknown_name"


class DivergedError(NeuralCondenseError):
    """A training run's loss or gradient is no longer finite."""

    code = "diverged"


class TargetModelError(NeuralCondenseError):
    """The target model cannot be loaded or fetched."""

    code = "target_model"
    exit_code = 3


class FetchError(NeuralCondenseError):
    """What was to be pulled cannot be reached, or is not what its source stated."""

    code = "fetch"
    exit_code = 3


class RequestError(NeuralCondenseError):
    """The request is at fault: a field is missing, of the wrong type or out of range."""

    code = "invalid_request"
    status = 422
    exit_code = 2


class MalformedJsonError(RequestError):
    """The body is not JSON."""

    code = "not_json"
    status = 400


class SignatureError(RequestError):
    """The request carries no valid signature: missing, wrong, stale, replayed or for another."""

    code = "signature"
    status = 401


class ForbiddenError(RequestError):
    """The signature is valid, its key may not ask: unregistered, no permit or too little stake."""

    code = "forbidden"
    status = 403


class UnauthorizedError(RequestError):
    """No API key or token was given, or one that is not known here."""

    code = "unauthorized"
    status = 401


class UnknownTierError(RequestError):
    """A tier was asked for that is not configured here."""

    code = "unknown_tier"
    status = 404


class UnknownMinerError(RequestError):
    """No miner has the uid that was asked for, or it serves another tier."""

    code = "unknown_miner"
    status = 404


class UnknownRoundError(RequestError):
    """The records hold no round of that number."""

    code = "unknown_round"
    status = 404


class UnknownModelError(RequestError):
    """Another target model than the one served was asked for."""

    code = "unknown_model"
    status = 404


class NotAcceptableError(RequestError):
    """No offered format fits the ``Accept`` header."""

    code = "not_acceptable"
    status = 406


class PayloadTooLargeError(RequestError):
    """The body exceeds the byte cap."""

    code = "body_too_large"
    status = 413


class ContextTooLongError(RequestError):
    """The context exceeds the token limit; nothing is truncated silently."""

    code = "context_too_long"
    status = 413


class ContextWindowError(RequestError):
    """The prompt does not fit the model's window, whatever of it is condensed."""

    code = "context_length_exceeded"
    status = 400


class UnknownContextError(RequestError):
    """No stored context of this user has the id, or no more."""

    code = "unknown_context"
    status = 404


class UnsupportedMediaError(RequestError):
    """The body is not ``application/json``."""

    code = "unsupported_media_type"
    status = 415


class UnsupportedError(RequestError):
    """The engine that answers cannot do what was asked; docs/engines.md says which one can."""

    code = "unsupported"


class RetryableError(NeuralCondenseError):
    """The same request may succeed later; answered with ``Retry-After``."""

    exit_code = 3

    def __init__(
        self,
        message: str,
        detail: dict[str, object] | None = None,
        *,
        retry_after_s: float = 1.0,
    ) -> None:
        super().__init__(message, detail)
        self.retry_after_s = retry_after_s


class OverloadedError(RetryableError):
    """The queue is full or the predicted wait passes the deadline."""

    code = "overloaded"
    status = 429


class UnavailableError(RetryableError):
    """The service is loading, draining or has no worker left."""

    code = "unavailable"
    status = 503


class DeadlineError(NeuralCondenseError):
    """The deadline passed before the answer was ready."""

    code = "deadline"
    status = 504
    exit_code = 3


class BackendError(NeuralCondenseError):
    """A backend answered wrongly or could not be reached."""

    code = "backend"
    status = 502
    exit_code = 3


class ChainError(NeuralCondenseError):
    """The chain refused, or what it says cannot be used."""

    code = "chain"
    exit_code = 3


class ChainUnavailable(ChainError):
    """The chain cannot be reached, or did not answer in time; the same call may succeed later."""

    code = "chain_unavailable"


class CodecError(NeuralCondenseError):
    """Bytes from outside are not what they claim to be."""

    code = "malformed"
    status = 422
    exit_code = 2


def type_and_frames(error: BaseException) -> str:
    """Return what may be logged of an exception whose message may quote a context."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__} (its message is withheld)\n{frames}"
