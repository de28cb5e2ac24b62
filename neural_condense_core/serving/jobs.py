"""What the front process and its workers say to each other.

Design decisions

* Only frozen, picklable values cross: what to load, how loading goes, jobs and answers.
* An answer is the reply's bytes, made in the worker, so that the front's event loop never touches
  a float; an error crosses as a value of the one tree, so that one bad job leaves its neighbours
  in peace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.wire.codec import Format

PROBE_TEXT = (
    "  The year 2024:\n\tna\u00efve caf\u00e9s, \u6771\u4eac \U0001f680 and <|im_end|>.\u200b\r\n"
)
"""Spaces, digits, accents, other scripts and what looks like a special token."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker loads.

    Parameters
    ----------
    condenser, checkpoint, target_model, ratio, dtype : as in ``ServeSettings``
    device : torch device
    threads : CPU threads
    max_context_tokens : longest context, tokens
    warm_up_chars : lengths to warm up with and to measure, characters, ascending
    """

    condenser: str
    checkpoint: str | None
    target_model: str | None
    ratio: float | None
    dtype: str
    device: str
    threads: int
    max_context_tokens: int
    warm_up_chars: tuple[int, ...]


@dataclass(frozen=True)
class Progress:
    """How far a worker's start has come.

    Parameters
    ----------
    pid : the worker's process, 0 before it runs
    stage : ``"spawn"``, ``"import"``, ``"load"`` or ``"warm-up"``
    done : share of the start, in [0, 1]
    error : why it failed, or None
    """

    pid: int
    stage: str
    done: float
    error: NeuralCondenseError | None = None


@dataclass(frozen=True)
class Loaded:
    """A worker's condenser, once it has answered its warm-up.

    Parameters
    ----------
    condenser : its name
    target_model : the model it condenses for
    hidden_size : width of a condensed token
    ratios : what it offers; None = any from 1 on
    ratio : compression ratio of requests that name none
    tokenizer_json : for tokenizing without the model; None = the worker tokenizes
    probe_ids : token ids of ``PROBE_TEXT``
    warm_up_ms : characters -> milliseconds for one context
    revision : what identifies weights and settings, 16 hexadecimal digits; "" = unknown
    """

    condenser: str
    target_model: str
    hidden_size: int
    ratios: tuple[int, ...] | None
    ratio: float
    tokenizer_json: str | None
    probe_ids: tuple[int, ...]
    warm_up_ms: Mapping[int, float]
    revision: str = ""


@dataclass(frozen=True, eq=False)
class Job:
    """One context for a worker.

    Parameters
    ----------
    context : (n_context,) token ids, or the text where the worker tokenizes
    reply : how to write the answer
    ratio : compression ratio; None = the backend's own
    max_condensed_tokens : never exceeded, the ratio rises; None = no limit
    remaining_s : seconds that were left to answer when the worker was given it; a condenser that
        can be hurried keeps within it. None = no limit
    """

    context: npt.NDArray[np.uint32] | str = field(repr=False)
    reply: Format
    ratio: float | None = None
    max_condensed_tokens: int | None = None
    remaining_s: float | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """A reply, ready to send.

    Parameters
    ----------
    body : the bytes
    headers : what describes them over HTTP
    n_context_tokens, n_condensed_tokens : what they stand for
    cacheable : whether the same request would be answered alike; False where the answer's quality
        depended on the time that was left
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, str]
    n_context_tokens: int
    n_condensed_tokens: int
    cacheable: bool = True


Outcome = Answer | NeuralCondenseError


class BatchTooLargeError(Exception):
    """A batch of several contexts did not fit into a worker's memory; smaller ones may."""
