"""A worker process: loads one condenser on one device and answers batches.

Where it sits: behind ``replica.py``, which runs these functions in a process of its own. Nothing
here runs in the front process.

Design decisions

* Loading happens in the pool's initializer and reports over a pipe, because a pool says of a
  failed initializer only that it broke. The pipe's end also tells the front at once when the
  process is gone.
* A terminal's Ctrl-C and a supervisor's SIGTERM reach the whole process group; both are ignored
  here, so that the front can drain. A thread that waits for the parent ends the worker with it.
* torch is not imported here: a condenser that needs it brings it, one that does not stays light.
* A batch that raises is done again item by item. What a condenser's own exception says may quote
  the context, so only its type and place are logged.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from neural_condense_core import errors
from neural_condense_core.condensers.base import Condenser, LoadOptions
from neural_condense_core.condensers.checkpoints import (
    DEFAULT_TARGET_MODEL,
    load_condenser,
    resolve,
)
from neural_condense_core.condensers.options import HurriedCondenser, split_options, wrap
from neural_condense_core.condensers.registry import METHODS
from neural_condense_core.errors import (
    CheckpointError,
    ConfigError,
    ContextTooLongError,
    NeuralCondenseError,
    RequestError,
    type_and_frames,
)
from neural_condense_core.serving import memory
from neural_condense_core.serving.calls import answer_calls
from neural_condense_core.serving.jobs import (
    PROBE_TEXT,
    Answer,
    BatchTooLargeError,
    Job,
    Loaded,
    Outcome,
    Progress,
    WorkerSpec,
)
from neural_condense_core.serving.revision import revision_of
from neural_condense_core.serving.settings import DEFAULT_RATIO
from neural_condense_core.serving.shared_bodies import Handover, SharedBlock
from neural_condense_core.threads import use_threads
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.codec import JSON, encode, reply_headers

log = logging.getLogger(__name__)

WARM_UP_TEXT = (
    "The harbour was quiet when the two brothers carried the last of the nets ashore. A light "
    "wind came from the north, and beyond the breakwater 14 small boats waited for the tide. "
)
WARM_UP_RUNS = 2
"""The first run of a shape builds its kernels; the last is the one that is timed."""
WARM_UP_LIMIT_S = 10.0
"""Refinement by many steps is cut short here, or a start would take as long as the last request."""


class Worker:
    """A loaded condenser that turns jobs into replies.

    Parameters
    ----------
    condenser : the loaded condenser
    ratio : compression ratio of jobs that name none
    max_context_tokens : longest context, tokens
    revision : what identifies weights and settings; "" = unknown
    """

    def __init__(
        self, condenser: Condenser, ratio: float, max_context_tokens: int, revision: str = ""
    ) -> None:
        self.condenser = condenser
        self.ratio = ratio
        self.max_context_tokens = max_context_tokens
        self.revision = revision
        # What is hurried is as good as there was time for; another time it may be better.
        self._is_repeatable = bool(revision) and not isinstance(condenser, HurriedCondenser)

    def answer(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Answer a batch: one outcome a job, in order."""
        outcomes: dict[int, Outcome] = {}
        groups: dict[float, list[tuple[int, list[int]]]] = {}
        begun_s = time.monotonic()
        for index, job in enumerate(jobs):
            try:
                ids = self._ids(job)
                asked = self.ratio if job.ratio is None else job.ratio
                ratio = self.condenser.fit_ratio(len(ids), asked, job.max_condensed_tokens)
            except Exception as error:  # noqa: BLE001 - a job fails alone, whatever it raised
                outcomes[index] = as_error(error)
            else:
                groups.setdefault(ratio, []).append((index, ids))
        for ratio, members in groups.items():
            allowed = [jobs[index].remaining_s for index, _ in members]
            due_s = begun_s + min((each for each in allowed if each is not None), default=math.inf)
            results = self._condense([ids for _, ids in members], ratio, due_s)
            for (index, _), result in zip(members, results, strict=True):
                outcomes[index] = self.write(jobs[index], result)
        return [outcomes[index] for index in range(len(jobs))]

    def write(self, job: Job, result: CondensedTokens | NeuralCondenseError) -> Outcome:
        """Return a job's reply in the format that it asks for."""
        if isinstance(result, NeuralCondenseError):
            return result
        try:
            body = encode(result, job.reply)
            headers = reply_headers(result, job.reply, body, revision=self.revision)
        except Exception as error:  # noqa: BLE001 - a job fails alone, whatever it raised
            return as_error(error)
        return Answer(
            body=body,
            headers=headers,
            n_context_tokens=result.n_context_tokens,
            n_condensed_tokens=result.n_condensed_tokens,
            cacheable=self._is_repeatable,
        )

    def _ids(self, job: Job) -> list[int]:
        context = job.context
        ids = self.condenser.tokenize(context) if isinstance(context, str) else context.tolist()
        if not ids:
            raise RequestError("the context holds no token; give some text")
        check_length(len(ids), self.max_context_tokens)
        return ids

    def _condense(
        self, contexts: list[list[int]], ratio: float, due_s: float
    ) -> list[CondensedTokens | NeuralCondenseError]:
        try:
            return list(self._checked(contexts, ratio, due_s))
        except Exception as error:  # noqa: BLE001 - user code: whatever it raises is an outcome
            is_too_large = memory.ran_out(error)
            if len(contexts) == 1:
                return [as_error(error)]
        if is_too_large:
            # The front makes smaller batches from now on, and does this one again.
            memory.release()
            raise BatchTooLargeError
        return [result for ids in contexts for result in self._condense([ids], ratio, due_s)]

    def _checked(
        self, contexts: list[list[int]], ratio: float, due_s: float
    ) -> list[CondensedTokens]:
        if isinstance(self.condenser, HurriedCondenser):
            remaining_s = None if due_s == math.inf else max(0.0, due_s - time.monotonic())
            results = self.condenser.condense_within(contexts, ratio, remaining_s)
        else:
            results = self.condenser.condense(contexts, ratio)
        promised = [self.condenser.n_condensed_tokens(len(ids), ratio) for ids in contexts]
        if [result.n_condensed_tokens for result in results] != promised:
            raise NeuralCondenseError("the condenser did not keep its promised number of tokens")
        return results


def warm_up_text(n_chars: int) -> str:
    """Return a text of that many characters."""
    return (WARM_UP_TEXT * (n_chars // len(WARM_UP_TEXT) + 1))[:n_chars]


def check_length(n_context_tokens: int, max_context_tokens: int) -> None:
    """Refuse a context above the limit.

    Raises
    ------
    ContextTooLongError
        It is longer; nothing is truncated.
    """
    if n_context_tokens > max_context_tokens:
        raise ContextTooLongError(
            f"the context has {n_context_tokens} tokens and at most {max_context_tokens} are "
            "served; split it",
            {"n_context_tokens": n_context_tokens, "max_context_tokens": max_context_tokens},
        )


def as_error(error: Exception) -> NeuralCondenseError:
    """Return an error that may be told to a client; log where any other came from."""
    if type(error).__module__ == errors.__name__ and isinstance(error, NeuralCondenseError):
        return error
    log.error("the condenser raised %s", type_and_frames(error))
    return NeuralCondenseError(
        "the condenser failed on this context; the server's log says where",
        {"exception": type(error).__name__},
    )


def find(spec: WorkerSpec) -> tuple[type[Condenser], Path | None]:
    """Return the class and the weights (or None) that a specification names.

    Raises
    ------
    CheckpointError
        The weights are of another method than the one that is served.
    """
    name, _ = split_options(spec.condenser)
    if spec.checkpoint is None:
        return resolve(name)
    if ":" in name:
        return METHODS.get(name), Path(spec.checkpoint)
    found, folder = resolve(spec.checkpoint)
    if name in METHODS.targets() and METHODS.get(name) is not found:
        raise CheckpointError(
            f"checkpoint {spec.checkpoint!r} is one of {found.__name__}, and {name!r} "
            "is what this backend serves; start the other backend for it"
        )
    return found, folder


def load(spec: WorkerSpec) -> Condenser:
    """Load the condenser that a specification names.

    Raises
    ------
    ConfigError
        It uses a query, which requests to a backend do not carry.
    """
    cls, folder = find(spec)
    if cls.query_aware:
        raise ConfigError(
            f"{spec.condenser} needs a query with each context, which a backend's requests do not "
            "carry; choose another condenser"
        )
    name, options = split_options(spec.condenser)
    if ":" in name and spec.checkpoint is not None:
        # A class of the user's own reads the weights itself, in whatever form they are.
        target_model = spec.target_model or DEFAULT_TARGET_MODEL
        condenser = cls.load(LoadOptions(target_model, folder, spec.device, spec.dtype))
        condenser.name = name
    else:
        condenser = load_condenser(
            spec.checkpoint or name, spec.target_model, device=spec.device, dtype=spec.dtype
        )
    return wrap(condenser, options, device=spec.device, dtype=spec.dtype)


def default_ratio(condenser: Condenser, asked: float | None) -> float:
    """Return the compression ratio of requests that name none.

    Parameters
    ----------
    condenser : what offers them
    asked : by flag; None = 4, or the nearest offered

    Raises
    ------
    ConfigError
        The condenser does not offer it.
    """
    if condenser.ratios is None:
        return asked or DEFAULT_RATIO
    if asked is None:
        return float(min(condenser.ratios, key=lambda offer: abs(offer - DEFAULT_RATIO)))
    if asked not in condenser.ratios:
        offered = ", ".join(map(str, condenser.ratios))
        raise ConfigError(f"--ratio {asked:g} is not offered by {condenser.name}; use {offered}")
    return asked


# What the functions below work on: a pool's functions share nothing but their module.
_loaded: list[tuple[WorkerSpec, Worker, Connection]] = []
_blocks: list[SharedBlock] = []
_calls: list[socket.socket] = []


def initialize(
    spec: WorkerSpec, reports: Connection, block: SharedBlock, calls: socket.socket
) -> None:
    """Load the condenser: the pool's initializer.

    Parameters
    ----------
    spec : what to load
    reports : takes a ``Progress`` at every step; open as long as the process lives
    block : takes large bodies
    calls : on which ``serve`` answers
    """
    _blocks.append(block)
    _calls.append(calls)
    _ignore_signals()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    use_threads(spec.threads)
    pid = os.getpid()
    reports.send(Progress(pid, "import", 0.05))
    try:
        find(spec)
        reports.send(Progress(pid, "load", 0.3))
        worker = build(spec)
    except Exception as error:  # noqa: BLE001 - user code: whatever it raises is reported
        reports.send(Progress(pid, "load", 0.3, _load_error(error)))
        # Left here and not raised: the pool would print the traceback of a mere typing error.
        os._exit(1)
    _loaded.append((spec, worker, reports))


def warm_up() -> Loaded:
    """Answer contexts of the lengths to expect, and say what is served; raise what went wrong."""
    spec, worker, reports = _loaded[0]
    return describe(spec, worker, reports.send)


def build(spec: WorkerSpec) -> Worker:
    """Load the condenser that a specification names, ready for jobs."""
    condenser = load(spec)
    ratio = default_ratio(condenser, spec.ratio)
    revision = revision_of(spec, condenser, find(spec)[1], ratio)
    return Worker(condenser, ratio, spec.max_context_tokens, revision)


def describe(spec: WorkerSpec, worker: Worker, report: Callable[[Progress], None]) -> Loaded:
    """Answer contexts of the lengths to expect, and say what is served; raise what went wrong.

    Parameters
    ----------
    spec : what was loaded
    worker : what it was loaded into
    report : takes a ``Progress`` before every length
    """
    taken_ms: dict[int, float] = {}
    for step, n_chars in enumerate(spec.warm_up_chars):
        done = 0.8 + 0.2 * step / len(spec.warm_up_chars)
        report(Progress(os.getpid(), "warm-up", done))
        job = Job(warm_up_text(n_chars), JSON, remaining_s=WARM_UP_LIMIT_S)
        for _ in range(WARM_UP_RUNS):
            start_s = time.perf_counter()
            (outcome,) = worker.answer([job])
            taken_ms[n_chars] = (time.perf_counter() - start_s) * 1000
        if isinstance(outcome, ContextTooLongError):
            del taken_ms[n_chars]
        elif isinstance(outcome, NeuralCondenseError):
            report(Progress(os.getpid(), "warm-up", done, outcome))
            raise outcome
    condenser = worker.condenser
    return Loaded(
        condenser=condenser.name,
        target_model=condenser.target_model,
        hidden_size=condenser.hidden_size,
        ratios=condenser.ratios,
        ratio=worker.ratio,
        tokenizer_json=condenser.tokenizer_json(),
        probe_ids=tuple(condenser.tokenize(PROBE_TEXT)),
        warm_up_ms=taken_ms,
        revision=worker.revision,
    )


def serve() -> None:
    """Answer batches until the front hangs up."""
    answer_calls(_calls[0], run_batch, (BatchTooLargeError,))


def run_batch(jobs: Sequence[Job]) -> Handover:
    """Answer a batch: one outcome a job, in order, with large bodies in the shared block."""
    return _blocks[0].fill(_loaded[0][1].answer(jobs))


def _load_error(error: Exception) -> NeuralCondenseError:
    if type(error).__module__ == errors.__name__ and isinstance(error, NeuralCondenseError):
        return error
    traceback.print_exception(error)
    sys.stderr.flush()
    return NeuralCondenseError(f"{type(error).__name__}: {error}"[:1000])


def _ignore_signals() -> None:
    handled = {signal.SIGINT, signal.SIGTERM}
    for number in handled:
        signal.signal(number, signal.SIG_IGN)
    # The front blocks them while it spawns, so that none arrives before this line.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
