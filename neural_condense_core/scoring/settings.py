"""The scoring service's settings: what its flags say, checked once and frozen.

Design decisions

* Loopback by default, and any other address needs a token: whoever reaches the service uses the
  machine behind it, and could read what validators ask.
* The token is in a file or in ``CONDENSE_SCORING_TOKEN``, never on the command line, where every
  user of the machine could read it. Several validators may share a service and its token.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from neural_condense_core.condensers.registry import BASELINES
from neural_condense_core.constants import EMBEDDED_TARGET_MODEL
from neural_condense_core.errors import ConfigError
from neural_condense_core.registry import suggest
from neural_condense_core.scoring.perturbation import PERTURBATIONS
from neural_condense_core.wire.scoring import ScoreLimits

TOKEN_VARIABLE = "CONDENSE_SCORING_TOKEN"  # noqa: S105 - its name, not its value
MIN_TOKEN_CHARS = 16
MAX_TOKEN_CHARS = 1024

AUTO, ALL, NONE = "auto", "all", "none"
CPU_BASELINES = ("head-tail", "spans")
"""The strongest ones as measured; all eight cost a CPU several times what the judging does."""
DTYPES = ("auto", "float32", "bfloat16")
LOGGING_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class ScoringSettings:
    """A checked command line; fields as the flags of the same name.

    Parameters
    ----------
    target_model : name, folder or Hugging Face name of the model that reads
    host, port : where to listen; port 0 = any free one
    device : torch device
    dtype : ``"auto"``, ``"float32"`` or ``"bfloat16"``
    threads : CPU threads of the model; None = all that this process may use
    max_condensed_tokens : most rows of a reply
    max_body_bytes : largest round, bytes
    max_replies, max_challenges : most of each in a round
    max_waiting : rounds that may wait for the one that is scored; above it 429
    timeout_s : seconds from a round's arrival to its answer
    baselines : shown beside; ``"auto"``, ``"all"``, ``"none"`` or names with commas
    perturbations : names with commas, a miner's contexts get them in turn
    token : what requests must bear; None = none is asked for
    logging_level : of ``LOGGING_LEVELS``
    """

    target_model: str = EMBEDDED_TARGET_MODEL
    host: str = "127.0.0.1"
    port: int = 8089
    device: str = "cpu"
    dtype: str = "auto"
    threads: int | None = None
    max_condensed_tokens: int = 1024
    max_body_bytes: int = ScoreLimits.max_bytes
    max_replies: int = ScoreLimits.max_replies
    max_challenges: int = ScoreLimits.max_challenges
    max_waiting: int = 8
    timeout_s: float = 600.0
    baselines: str = AUTO
    perturbations: str = "noise,int8"
    token: str | None = field(default=None, repr=False)
    logging_level: str = "info"

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ConfigError
            A number is out of its range, a name is unknown, or a token is needed.
        """
        for name, known in (("dtype", DTYPES), ("logging_level", LOGGING_LEVELS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"--{name} must be one of {', '.join(known)}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"--{name} must be from {low:g} to {high:g}, got {value:g}")
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from outside: give --token_file FILE or "
                f"{TOKEN_VARIABLE}, or listen on 127.0.0.1"
            )
        _names("baselines", self.baselines, (*BASELINES, AUTO, ALL, NONE))
        _names("perturbations", self.perturbations, PERTURBATIONS)

    @property
    def limits(self) -> ScoreLimits:
        """What a round may hold."""
        return ScoreLimits(
            max_bytes=self.max_body_bytes,
            max_header_bytes=min(self.max_body_bytes, ScoreLimits.max_header_bytes),
            max_replies=self.max_replies,
            max_challenges=self.max_challenges,
        )

    @property
    def baseline_names(self) -> tuple[str, ...]:
        """Which baselines are shown beside a reply."""
        if self.baselines == AUTO:
            return BASELINES if self.device.startswith("cuda") else CPU_BASELINES
        if self.baselines == ALL:
            return BASELINES
        names = _names("baselines", self.baselines, (*BASELINES, NONE))
        return tuple(name for name in names if name != NONE)

    @property
    def perturbation_names(self) -> tuple[str, ...]:
        """The disturbances that contexts get in turn."""
        return _names("perturbations", self.perturbations, PERTURBATIONS)


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("port", 0, 65_535),
    ("threads", 1, 1024),
    ("max_condensed_tokens", 1, 65_536),
    ("max_body_bytes", 1024, 1 << 30),
    ("max_replies", 1, 65_536),
    ("max_challenges", 1, 65_536),
    ("max_waiting", 0, 1024),
    ("timeout_s", 1, 86_400),
)


def read_token(path: Path | None, environment: Mapping[str, str]) -> str | None:
    """Return the token of a file, else of the environment, else None.

    Parameters
    ----------
    path : of ``--token_file``
    environment : the process's

    Raises
    ------
    ConfigError
        The file cannot be read, or the token is too short to be one.
    """
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the token file {path}") from error
    elif TOKEN_VARIABLE in environment:
        text = environment[TOKEN_VARIABLE].strip()
    else:
        return None
    if not MIN_TOKEN_CHARS <= len(text) <= MAX_TOKEN_CHARS or not text.isascii():
        raise ConfigError(
            f"the scoring token must be {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} ASCII characters"
        )
    return text


def is_loopback(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(flag: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise ConfigError(f"--{flag} is empty; known: {', '.join(known)}")
    for word in found:
        if word not in known:
            hint = suggest(word, known)
            raise ConfigError(f"--{flag}: unknown {word!r}.{hint} Known: {', '.join(known)}")
    return found
