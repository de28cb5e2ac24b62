"""The reader process: holds the target model, counts, estimates and answers.

Where it sits: ``reading.py`` starts it and speaks to it over a pipe; torch is loaded here and not
in the gateway.

Design decisions

* The main thread only listens, so that whoever is cancelled is told at once, and the end of the
  pipe, which is the gateway's end, ends the process whatever it does.
* Counting has a thread of its own: it must not wait behind an answer that takes a minute.
* What is cancelled before its turn gives its prompt back at once: it must not pile up here.
* An engine that once could not estimate is not asked again; it may read a whole matrix to find out.
* Whatever an engine raises is an answer to that request and leaves the others in peace; what is no
  error of ours is told by its type only, as its message may quote a prompt.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from neural_condense_core import errors
from neural_condense_core.errors import ContextWindowError, NeuralCondenseError, type_and_frames
from neural_condense_core.gateway.estimating import sample_gain
from neural_condense_core.gateway.playground_trace import trace
from neural_condense_core.gateway.prefixes import Prefixes
from neural_condense_core.gateway.reader_messages import (
    Asked,
    Begun,
    Broken,
    Cancel,
    Ended,
    Estimate,
    Estimated,
    Failed,
    Lines,
    Measure,
    Measured,
    Opened,
    Read,
    ReaderSpec,
    Said,
    Trace,
)
from neural_condense_core.llm.base import Prompt, Segment, TargetLLM, TokenIds, as_segment
from neural_condense_core.llm.prompt import Turn, conversation, prompt_length
from neural_condense_core.threads import use_threads

log = logging.getLogger(__name__)

Work = Measure | Estimate | Trace | Read

DEFAULT_PREFIX_ROWS = 8_192
"""A gigabyte for an 8B model, and the whole window of a small one."""

OWN = 0
"""Number of what the process says of itself."""


class Reader:
    """Answers what it is asked, in threads.

    Parameters
    ----------
    target : the model
    max_parallel : prompts that are read at the same time
    say : sends a reply; called in any thread
    prefix_rows : of beginnings of prompts that are kept, where prompts are read one by one
    """

    def __init__(
        self,
        target: TargetLLM,
        max_parallel: int,
        say: Callable[[int, Said], None],
        prefix_rows: int = 0,
    ) -> None:
        self._target = target
        self._say = say
        self._prefixes = Prefixes(target, prefix_rows if max_parallel == 1 else 0)
        self._reads = ThreadPoolExecutor(max_parallel, thread_name_prefix="read")
        self._counts = ThreadPoolExecutor(1, thread_name_prefix="count")
        self._cancelled: dict[int, threading.Event] = {}
        self._waiting: dict[int, Work] = {}
        self._estimates = True

    def take(self, number: int, asked: Asked) -> None:
        """Begin a request, or end one."""
        if isinstance(asked, Cancel):
            found = self._cancelled.get(number)
            if found is not None:
                found.set()
            self._waiting.pop(number, None)
            return
        self._cancelled[number] = threading.Event()
        self._waiting[number] = asked
        pool = self._counts if isinstance(asked, Measure) else self._reads
        pool.submit(self._answer, number)

    def _answer(self, number: int) -> None:
        cancelled = self._cancelled[number]
        asked = self._waiting.pop(number, None)
        try:
            if asked is not None and not cancelled.is_set():
                self._work(number, asked, cancelled)
        except Exception as error:  # noqa: BLE001 - an engine's: whatever it raises is an answer
            self._say(number, Failed(as_error(error)))
        finally:
            del self._cancelled[number]
            self._say(number, Ended())

    def _work(self, number: int, asked: Work, cancelled: threading.Event) -> None:
        if isinstance(asked, Measure):
            self._say(number, self._measure(asked))
        elif isinstance(asked, Estimate):
            self._say(number, Begun())
            self._say(number, self._estimate(asked))
        elif isinstance(asked, Trace):
            self._say(number, Begun())
            self._say(number, trace(self._target, asked))
        else:
            self._read(number, asked, cancelled)

    def _measure(self, asked: Measure) -> Measured:
        counts = tuple(len(self._target.tokenize(text)) for text in asked.texts)
        return Measured(counts, prompt_length(self._prompt(asked.lines)))

    def _estimate(self, asked: Estimate) -> Estimated:
        if not self._estimates:
            return Estimated(None)
        try:
            return Estimated(sample_gain(self._target, asked.tokens, asked.text))
        except errors.UnsupportedError:
            self._estimates = False
            return Estimated(None)

    def _read(self, number: int, asked: Read, cancelled: threading.Event) -> None:
        prompt = self._prompt(asked.lines)
        n_rows = prompt_length(prompt)
        room = self._target.max_positions - n_rows
        wanted = asked.max_new_tokens or min(asked.default_new_tokens, room)
        if not 0 < wanted <= room:
            raise ContextWindowError(
                f"the prompt takes {n_rows} tokens and the answer up to {max(wanted, 1)}; the "
                f"model's window is {self._target.max_positions}",
                {"n_tokens": n_rows, "window": self._target.max_positions, "param": "messages"},
            )
        prefix, rest, n_cached = self._prefixes.split(prompt, asked.owner)
        self._say(number, Begun(n_rows, n_cached))
        pieces = self._target.stream(rest, wanted, sampling=asked.sampling, prefix=prefix)
        for piece in pieces:
            self._say(number, piece)
            if cancelled.is_set():
                break
        close = getattr(pieces, "close", None)
        if close is not None:
            close()

    def _prompt(self, lines: Sequence[Lines]) -> Prompt:
        if len(lines) == 1 and not lines[0].role:
            return plain_prompt(self._target, lines[0])
        return conversation(self._target, [_turn(each) for each in lines])


def plain_prompt(target: TargetLLM, line: Lines) -> Prompt:
    """Return a prompt without a chat template; neighbouring texts are tokenised as one."""
    found: list[Segment] = []
    text = ""
    for part in line.parts:
        if isinstance(part, str):
            text += part
            continue
        found += [TokenIds(tuple(target.tokenize(text))), as_segment(part)]
        text = ""
    found.append(TokenIds(tuple(target.tokenize(text))))
    return tuple(part for part in found if len(part))


def _turn(line: Lines) -> Turn:
    parts = (part if isinstance(part, str) else as_segment(part) for part in line.parts)
    return Turn(line.role, tuple(parts))


def as_error(error: Exception) -> NeuralCondenseError:
    """Return an error that may be told to a client; log where any other came from."""
    if isinstance(error, NeuralCondenseError) and type(error).__module__ == errors.__name__:
        return error
    log.error("the engine raised %s", type_and_frames(error))
    return NeuralCondenseError(
        "the engine failed on this prompt; the gateway's log says where",
        {"exception": type(error).__name__},
    )


def main(spec: ReaderSpec, connection: Connection) -> None:
    """Serve until the pipe ends: the process's entry.

    Parameters
    ----------
    spec : what to load
    connection : takes ``Envelope`` and gives ``Reply``
    """
    # A terminal's Ctrl-C and a supervisor's SIGTERM reach the whole group; the gateway drains.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    use_threads(spec.threads)
    lock = threading.Lock()

    def say(number: int, said: Said) -> None:
        with lock:
            try:
                connection.send((number, said))
            except OSError:  # the gateway is gone
                os._exit(1)

    readers: list[Reader] = []
    threading.Thread(target=_open, args=(spec, say, readers), daemon=True).start()
    try:
        while True:
            number, asked = connection.recv()
            readers[0].take(number, asked)
    except (EOFError, OSError):
        # At once: what the threads do is for nobody.
        os._exit(0)


def _open(spec: ReaderSpec, say: Callable[[int, Said], None], readers: list[Reader]) -> None:
    try:
        from neural_condense_core.gateway.engines import open_engine

        target = open_engine(spec)
        opened = Opened(target.name, target.hidden_size, target.max_positions)
    except Exception as error:  # noqa: BLE001 - whatever an engine raises is reported
        say(OWN, Broken(_load_error(error)))
        return
    rows = spec.prefix_rows
    if rows is None:
        rows = min(target.max_positions, DEFAULT_PREFIX_ROWS)
    readers.append(Reader(target, spec.max_parallel, say, rows))
    say(OWN, opened)


def _load_error(error: Exception) -> NeuralCondenseError:
    if isinstance(error, NeuralCondenseError) and type(error).__module__ == errors.__name__:
        return error
    return NeuralCondenseError(f"the engine did not load: {type(error).__name__}: {error}"[:1000])
