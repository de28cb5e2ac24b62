"""``ServeSettings``: the backend's flags, checked and frozen.

Design decisions

* Flags keep the words that miners know from LitServe: devices, workers_per_device, timeout,
  api_path, accelerator.
* Every limit that guards another is checked here, so that no request can be admitted that could
  never be served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from neural_condense_core.condensers.options import split_options, with_refinement
from neural_condense_core.errors import ConfigError
from neural_condense_core.serving.devices import ACCELERATORS

REPLIES = ("object", "list")
DTYPES = ("auto", "float32", "bfloat16")
LOG_FORMATS = ("text", "json")
LOGGING_LEVELS = ("debug", "info", "warning", "error")

LIVE_PATH = "/health/live"
READY_PATH = "/health/ready"
INFO_PATH = "/info"
METRICS_PATH = "/metrics"
OPENAPI_PATH = "/openapi.json"
OWN_PATHS = (LIVE_PATH, READY_PATH, INFO_PATH, METRICS_PATH, OPENAPI_PATH)
"""Every route but the condensing one."""

DEFAULT_RATIO = 4.0
DEFAULT_QUEUED_TOKENS = 65_536
DEFAULT_CACHE_MB = 64

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True)
class ServeSettings:
    """What one backend serves, and within which limits.

    Parameters
    ----------
    condenser : checkpoint, method, folder or ``module:Class``
    checkpoint : trained weights in place of the condenser's own; None = its own
    target_model : name or path of the model to condense for; None = the checkpoint's
    ratio : compression ratio of requests that name none; None = ``DEFAULT_RATIO``, or the nearest
        offered
    refine_steps, refine_ms : work that improves each text's condensed tokens, one of the two or
        neither; what is left of a request's time bounds it too
    host, port : where to listen; port 0 = any free one
    devices : how many devices; None = all GPUs, or one CPU
    workers_per_device : processes on each device
    accelerator : one of ``ACCELERATORS``
    dtype : one of ``DTYPES``
    max_batch_tokens : budget of a padded batch, tokens; None = by accelerator
    max_context_tokens : longest context, tokens
    max_queued_tokens : most tokens that wait at once; None = the larger of
        ``DEFAULT_QUEUED_TOKENS`` and the longest context
    timeout_s : seconds from a request's arrival to its answer
    hang_timeout_s : seconds after which a worker that is silent is killed; None = twice the time
        limit, at least a minute
    cache_mb : megabytes of answers that are kept in memory; 0 = none
    cache_dir : folder where answers are kept on disk too; None = nowhere
    api_path : path of the condensing endpoint
    reply : one of ``REPLIES``; shape of a JSON reply when the request names none
    logging_level : one of ``LOGGING_LEVELS``
    log_format : one of ``LOG_FORMATS``
    """

    condenser: str
    checkpoint: str | None = None
    target_model: str | None = None
    ratio: float | None = None
    refine_steps: int | None = None
    refine_ms: float | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    devices: int | None = None
    workers_per_device: int = 1
    accelerator: str = "auto"
    dtype: str = "auto"
    max_batch_tokens: int | None = None
    max_context_tokens: int = 16_384
    max_queued_tokens: int | None = None
    timeout_s: float = 60.0
    hang_timeout_s: float | None = None
    cache_mb: int = DEFAULT_CACHE_MB
    cache_dir: str | None = None
    api_path: str = "/condense"
    reply: str = "object"
    logging_level: str = "info"
    log_format: str = "text"

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ConfigError
            A field is out of its range; the message names the flag.
        """
        self._check_choices()
        self._check_numbers()
        split_options(self.refined)
        if not _PATH.fullmatch(self.api_path) or self.api_path in OWN_PATHS:
            raise ConfigError(
                f"--api_path must look like /condense and be none of {', '.join(OWN_PATHS)}; "
                f"got {self.api_path!r}"
            )
        if self.queued_tokens < self.max_context_tokens:
            raise ConfigError(
                "--max_queued_tokens must be at least --max_context_tokens, or the longest "
                f"contexts could never wait: {self.queued_tokens} < {self.max_context_tokens}"
            )

    @property
    def refined(self) -> str:
        """The condenser's name with the refinement behind it."""
        return with_refinement(self.condenser, self.refine_steps, self.refine_ms)

    @property
    def queued_tokens(self) -> int:
        """Most tokens that wait at once."""
        if self.max_queued_tokens is None:
            return max(DEFAULT_QUEUED_TOKENS, self.max_context_tokens)
        return self.max_queued_tokens

    def _check_choices(self) -> None:
        choices = {
            "accelerator": ACCELERATORS,
            "dtype": DTYPES,
            "reply": REPLIES,
            "logging_level": LOGGING_LEVELS,
            "log_format": LOG_FORMATS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"--{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )

    def _check_numbers(self) -> None:
        least = {
            "devices": 1,
            "workers_per_device": 1,
            "ratio": 1,
            "max_batch_tokens": 1,
            "max_context_tokens": 1,
            "max_queued_tokens": 1,
            "cache_mb": 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):
                raise ConfigError(f"--{name} must be at least {low}, got {value}")
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError(f"--timeout must be above 0 seconds, got {self.timeout_s}")
        hang_s = self.hang_timeout_s
        if hang_s is not None and not self.timeout_s <= hang_s < float("inf"):
            raise ConfigError(
                "--hang_timeout must be at least --timeout, or a worker would be killed while its "
                f"answer is waited for: {hang_s} < {self.timeout_s:g}"
            )
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"--port must be from 0 to 65535, got {self.port}")
