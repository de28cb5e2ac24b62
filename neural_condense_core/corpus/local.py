"""Condensing a corpus on this machine: the backend's engine and its workers, without HTTP.

Design decisions

* The engine is the backend's own: length-sorted batches, a worker that dies is replaced, and what
  it had in hand is done again, each context alone.
* Two chunks are in hand, so that workers are busy while a shard is written; of each, so many
  contexts that the largest batch can be filled.
* A context that two workers have died on is an error of its row; an engine without
  workers is an error of the run, and nothing of what was in hand is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neural_condense_core.corpus.rows import Chunk, Row, RowReader
from neural_condense_core.corpus.settings import CorpusSettings, MadeBy
from neural_condense_core.corpus.shards import Shard, made_by, make_shard, text_of
from neural_condense_core.errors import (
    BackendError,
    ConfigError,
    NeuralCondenseError,
    OverloadedError,
    UnavailableError,
)
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.jobs import Outcome, WorkerSpec
from neural_condense_core.serving.settings import DEFAULT_QUEUED_TOKENS
from neural_condense_core.wire.codec import SAFETENSORS

CHUNKS_AT_ONCE = 2
CONTEXTS_AT_ONCE = 64
CONTEXT_TIMEOUT_S = 600.0
HANG_TIMEOUT_S = 900.0
RETRY_S = 0.05
READY_POLL_S = 0.1


class StoppedError(Exception):
    """The run was told to stop.

    Parameters
    ----------
    signum : by which signal
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass(frozen=True)
class Sinks:
    """Who hears of progress.

    Parameters
    ----------
    admit : given what condenses, before anything is condensed; raises what forbids it
    commit : given each shard
    advance : given how many more contexts have been dealt with
    """

    admit: Callable[[MadeBy], None]
    commit: Callable[[Shard], object]
    advance: Callable[[int], None]


def condense_locally(
    path: Path,
    settings: CorpusSettings,
    chunks: Iterable[Chunk],
    specs: list[WorkerSpec],
    max_batch_tokens: int,
    sinks: Sinks,
) -> None:
    """Condense chunks with worker processes on this machine.

    Parameters
    ----------
    path : the parquet file
    settings : what to make of it
    chunks : what is still to be done, ascending
    specs : one a worker
    max_batch_tokens : budget of a padded batch
    sinks : who hears of it

    Raises
    ------
    StoppedError
        SIGINT or SIGTERM came; what is committed stays.
    """
    run = _Run(settings, specs, max_batch_tokens, sinks)
    with contextlib.closing(RowReader(path, settings)) as reader:
        asyncio.run(run.through(iter(chunks), reader))
    if run.stopped_by is not None:
        raise StoppedError(run.stopped_by)


class _Run:
    def __init__(
        self,
        settings: CorpusSettings,
        specs: list[WorkerSpec],
        max_batch_tokens: int,
        sinks: Sinks,
    ) -> None:
        self.specs = specs
        self.max_batch_tokens = max_batch_tokens
        self.sinks = sinks
        self.format = replace(SAFETENSORS, dtype=settings.store_dtype)
        self.stopped_by: int | None = None
        self.misconfigured: ConfigError | None = None
        self.at_once = asyncio.Semaphore(CONTEXTS_AT_ONCE)
        self.writing = asyncio.Lock()

    async def through(self, chunks: Iterator[Chunk], reader: RowReader) -> None:
        longest = max(spec.max_context_tokens for spec in self.specs)
        self.engine = Engine(
            self.specs,
            max_queued_tokens=max(DEFAULT_QUEUED_TOKENS, CONTEXTS_AT_ONCE * longest),
            max_batch_tokens=self.max_batch_tokens,
            timeout_s=CONTEXT_TIMEOUT_S,
            hang_timeout_s=HANG_TIMEOUT_S,
            on_misconfigured=self._note_misconfigured,
        )
        async with self._stoppable():
            self.engine.start()
            try:
                self.maker = await self._maker()
                self.sinks.admit(self.maker)
                async with asyncio.TaskGroup() as group:
                    for _ in range(CHUNKS_AT_ONCE):
                        group.create_task(self._lane(chunks, reader))
            except ExceptionGroup as errors:
                raise _first(errors) from None
            finally:
                await self.engine.close()

    @contextlib.asynccontextmanager
    async def _stoppable(self) -> AsyncIterator[None]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number, task)
        try:
            yield
        except asyncio.CancelledError:
            if self.stopped_by is None:
                raise
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self, number: int, task: asyncio.Task[Any] | None) -> None:
        if self.stopped_by is None and task is not None:
            self.stopped_by = number
            task.cancel()

    def _note_misconfigured(self, error: ConfigError) -> None:
        self.misconfigured = error

    async def _lane(self, chunks: Iterator[Chunk], reader: RowReader) -> None:
        # Lanes share one iterator and one reader; neither is awaited on, so they never interleave.
        for chunk in chunks:
            rows = reader.read(chunk)
            outcomes = await self._condense(rows)
            shard = await asyncio.to_thread(make_shard, chunk, rows, outcomes, self.maker)
            async with self.writing:
                await asyncio.to_thread(self.sinks.commit, shard)

    async def _condense(self, rows: list[Row]) -> list[Outcome]:
        # Begun in order of length, so that neighbours in the queue pad each other little.
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].text or b""))
        found: dict[int, Outcome] = {}

        async def one(index: int) -> None:
            async with self.at_once:
                found[index] = await self._outcome(rows[index])
            self.sinks.advance(1)

        async with asyncio.TaskGroup() as group:
            for index in order:
                group.create_task(one(index))
        return [found[index] for index in range(len(rows))]

    async def _outcome(self, row: Row) -> Outcome:
        text = text_of(row)
        if isinstance(text, NeuralCondenseError):
            return text
        while True:
            try:
                return await self.engine.condense(
                    text,
                    self.format,
                    deadline_s=asyncio.get_running_loop().time() + CONTEXT_TIMEOUT_S,
                )
            except OverloadedError:
                await asyncio.sleep(RETRY_S)
            except UnavailableError as error:
                await self._ready()
                if "state" not in error.detail:  # not that there is no worker now: two died on it
                    return error
            except NeuralCondenseError as error:
                return error

    async def _maker(self) -> MadeBy:
        await self._ready()
        return made_by(self.engine.served())

    async def _ready(self) -> None:
        while (found := self.engine.readiness()).state != "ready":
            if self.misconfigured is not None:
                raise self.misconfigured
            if found.state == "failed":
                raise BackendError(f"no worker is left: {found.reason}")
            await asyncio.sleep(READY_POLL_S)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
