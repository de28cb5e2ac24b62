"""``GatewaySettings``: the gateway's flags, checked and frozen."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from neural_condense_core.constants import EMBEDDED_TARGET_MODEL
from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.engine_choice import parse_engine

MODES = ("auto", "always", "never")
LOCAL = "local"
LOGGING_LEVELS = ("debug", "info", "warning", "error")
_MB = 1_000_000

_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType({
    "port": (0, 65_535),
    "ratio": (1, 1024),
    "max_ratio": (1, 1024),
    "threshold": (1, 1_000_000),
    "keep_tokens": (0, 1_000_000),
    "budget": (64, 10_000_000),
    "floor": (0, 1),
    "timeout_s": (1, 3_600),
    "max_new_tokens": (1, 1_000_000),
    "max_context_tokens": (16, 1_000_000),
    "max_waiting": (0, 10_000),
    "prefix_rows": (0, 10_000_000),
    "requests_per_minute": (1, 1_000_000),
    "store_mb": (1, 1_000_000),
    "store_dir_mb": (1, 1_000_000),
    "quota_mb": (1, 1_000_000),
    "ttl_s": (1, 31_536_000),
})


@dataclass(frozen=True)
class GatewaySettings:
    """What a gateway serves, and within which limits.

    Parameters
    ----------
    target : model that answers, by name or path
    engine : what runs it: ``hf``, ``llama-cpp``, ``vllm=URL``, ``sglang=URL``, ``module:function``
    condense_with : ``local``, ``backend=URL`` or ``validator=URL``
    condenser : that condenses where ``condense_with`` is ``local``
    also : further local condensers, for ``/v1/condense`` and the playground
    tier : of a validator's; None = its first
    device, dtype : of engine and condenser
    model_name : how clients call the model; None = the target's name
    host, port : where to listen; port 0 = any free one
    mode : one of ``MODES``, of requests that name none
    ratio : compression ratio to begin with where a request names none; None = the condenser's own,
        under ``auto`` its lowest from 2 on
    max_ratio : never above it, however long a conversation is
    threshold : parts below it stay text, tokens
    keep_tokens : so many of the newest tokens stay text under ``auto``
    budget : most rows of a prompt under ``auto``; None = what the window leaves, and a prompt above
        it comes down further
    floor : contexts whose estimated content recovery is below it are sent as text; 0 = none is
    timeout_s : from a request's arrival to the end of its answer
    max_new_tokens : longest answer, and its length where a request names none
    max_context_tokens : longest text that is condensed in one piece, tokens
    max_waiting : requests that may wait for the model
    prefix_rows : of beginnings of prompts, up to their last condensed part, whose keys and values
        ``hf`` and ``llama-cpp`` keep; None = as many as a window has, 8,192 at most; 0 = none
    keys : file of API keys; None = asked for off loopback alone, in the user's own file
    requests_per_minute : of one user
    store_mb : memory for condensed contexts
    store_dir, store_dir_mb : a folder that keeps them through a restart, and how much of them
    quota_mb : of one user
    ttl_s : how long an unused context is kept
    calibration : JSON file of the estimate of content recovery; None = the shipped one
    logging_level : one of ``LOGGING_LEVELS``
    """

    target: str = EMBEDDED_TARGET_MODEL
    engine: str = "hf"
    condense_with: str = LOCAL
    condenser: str = "pooled"
    also: tuple[str, ...] = ()
    tier: str | None = None
    device: str = "cpu"
    dtype: str = "auto"
    model_name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8100
    mode: str = "auto"
    ratio: float | None = None
    max_ratio: float = 16.0
    threshold: int = 256
    keep_tokens: int = 1_024
    budget: int | None = None
    floor: float = 0.2
    timeout_s: float = 300.0
    max_new_tokens: int = 1_024
    max_context_tokens: int = 4_096
    max_waiting: int = 32
    prefix_rows: int | None = None
    keys: Path | None = None
    requests_per_minute: int = 120
    store_mb: int = 512
    store_dir: Path | None = None
    store_dir_mb: int = 4_096
    quota_mb: int = 256
    ttl_s: float = 86_400.0
    calibration: Path | None = None
    logging_level: str = "info"

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ConfigError
            A field is out of its range; the message names the flag.
        """
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                flag = name.removesuffix("_s")
                raise ConfigError(f"--{flag} must be from {low:g} to {high:g}, got {value}")
        if self.mode not in MODES:
            raise ConfigError(f"--mode must be one of {', '.join(MODES)}; got {self.mode!r}")
        if self.logging_level not in LOGGING_LEVELS:
            known = ", ".join(LOGGING_LEVELS)
            raise ConfigError(f"--logging_level must be one of {known}")
        check_engine(self.engine)
        split_source(self.condense_with)
        if self.also and self.condense_with != LOCAL:
            raise ConfigError("--also is for local condensers; leave --condense_with out")

    @property
    def name(self) -> str:
        """How clients call the model."""
        return self.model_name or self.target

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def store_bytes(self) -> int:
        """Memory for condensed contexts, bytes."""
        return self.store_mb * _MB

    @property
    def disk_bytes(self) -> int:
        """Of the folder, bytes."""
        return self.store_dir_mb * _MB

    @property
    def quota_bytes(self) -> int:
        """Of one user, bytes."""
        return self.quota_mb * _MB


def split_source(text: str) -> tuple[str, str]:
    """Return kind and URL of ``--condense_with``; the URL of ``local`` is empty.

    Raises
    ------
    ConfigError
        It is none of the three forms.
    """
    kind, equals, url = text.partition("=")
    if text == LOCAL or (kind in {"backend", "validator"} and url.startswith("http")):
        return kind, url
    raise ConfigError(
        f"--condense_with must be local, backend=URL or validator=URL; got {kind}{equals}..."
    )


def check_engine(text: str) -> None:
    """Refuse what is neither ``module:function`` nor an engine that ``llm/engines.py`` opens."""
    if "=" in text or ":" not in text:
        parse_engine(text)
