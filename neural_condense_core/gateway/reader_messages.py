"""What the gateway and its reader process say to each other.

Only frozen, picklable values cross, between a process and the child that it started itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.llm.base import Piece, Sampling
from neural_condense_core.tokens import CondensedTokens


@dataclass(frozen=True)
class ReaderSpec:
    """What the reader loads.

    Parameters
    ----------
    engine : ``hf``, ``llama-cpp``, ``vllm=URL``, ``sglang=URL`` or ``module:function``
    target : name or path of the model
    device, dtype : of the model
    threads : CPU threads
    max_parallel : prompts that are read at the same time
    timeout_s : for one whole answer of an engine's server
    prefix_rows : of beginnings of prompts that are kept; 0 = none, None = a window of them, bounded
    """

    engine: str
    target: str
    device: str = "cpu"
    dtype: str = "auto"
    threads: int = 1
    max_parallel: int = 1
    timeout_s: float = 300.0
    prefix_rows: int | None = 0


@dataclass(frozen=True)
class Opened:
    """The model is there.

    Parameters
    ----------
    name : of the model
    hidden_size : width of a condensed token
    max_positions : its window, rows
    """

    name: str
    hidden_size: int
    max_positions: int


@dataclass(frozen=True)
class Broken:
    """The model could not be loaded; the process ends."""

    error: NeuralCondenseError


@dataclass(frozen=True, eq=False)
class Lines:
    """A message of a prompt, ready to be read.

    Parameters
    ----------
    role : as the chat template knows it; empty = no template
    parts : texts, and condensed tokens in their place
    """

    role: str
    parts: tuple[str | CondensedTokens, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Measure:
    """Count tokens: answered by ``Measured``.

    Parameters
    ----------
    texts : to count one by one
    lines : the whole prompt, all of it text
    """

    texts: tuple[str, ...] = field(repr=False)
    lines: tuple[Lines, ...] = field(repr=False)


@dataclass(frozen=True)
class Measured:
    """Numbers of tokens.

    Parameters
    ----------
    texts : of each text
    total : of the whole prompt
    """

    texts: tuple[int, ...]
    total: int


@dataclass(frozen=True, eq=False)
class Estimate:
    """Say how much of a text its condensed tokens give back: answered by ``Estimated``."""

    text: str = field(repr=False)
    tokens: CondensedTokens = field(repr=False)


@dataclass(frozen=True)
class Estimated:
    """The raw share of what a reconstruction's sample loses without them; None = not known."""

    gain: float | None


@dataclass(frozen=True, eq=False)
class Trace:
    """Score a stretch of a text token by token: answered by ``Traced``.

    Parameters
    ----------
    text : the whole text
    tokens : its condensed tokens
    start : first token of the stretch
    n_tokens : most tokens of it
    """

    text: str = field(repr=False)
    tokens: CondensedTokens = field(repr=False)
    start: int
    n_tokens: int


@dataclass(frozen=True)
class TracedPiece:
    """Some whole characters of a text.

    Parameters
    ----------
    text : the characters
    n_tokens : how many tokens they are
    condensed, none : loss behind the condensed tokens, and behind no text, nats
    """

    text: str = field(repr=False)
    n_tokens: int
    condensed: float
    none: float


@dataclass(frozen=True)
class Traced:
    """A scored stretch.

    Parameters
    ----------
    n_tokens : of the whole text
    start : first token of the stretch
    pieces : in order
    """

    n_tokens: int
    start: int
    pieces: tuple[TracedPiece, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Read:
    """Answer a prompt: ``Begun``, then pieces, the last of them with a ``finish``.

    Parameters
    ----------
    lines : the prompt
    max_new_tokens : longest answer; None = ``default_new_tokens`` or what the window leaves
    default_new_tokens : where none is asked for
    sampling : how tokens are drawn
    owner : who asks; nobody else profits from what is kept of it
    """

    lines: tuple[Lines, ...] = field(repr=False)
    max_new_tokens: int | None
    default_new_tokens: int
    sampling: Sampling
    owner: str = ""


@dataclass(frozen=True)
class Begun:
    """A request's turn has come.

    Parameters
    ----------
    n_prompt_tokens : rows of the prompt; 0 of what has none
    n_cached_tokens : how many of them were read before
    """

    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0


@dataclass(frozen=True)
class Ended:
    """A request that was begun is no longer worked on."""


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for this any more."""


@dataclass(frozen=True)
class Failed:
    """What was asked for went wrong."""

    error: NeuralCondenseError


Asked = Measure | Estimate | Trace | Read | Cancel
Said = Opened | Broken | Measured | Estimated | Traced | Begun | Ended | Piece | Failed
Envelope = tuple[int, Asked]
Reply = tuple[int, Said]
"""Number of the request, and what is said; 0 = of the process itself."""
