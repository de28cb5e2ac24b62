"""A chunk's texts through a worker in this process, in batches of like lengths.

Where it sits: what an actor on a Ray cluster does; on one machine the engine's queue does it.

Design decisions

* A whole chunk is at hand, so it is sorted once; a batch grows while the engine's own rule lets it.
* A batch that does not fit into memory is done again one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from neural_condense_core.corpus.rows import Row
from neural_condense_core.corpus.shards import text_of
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.serving.batching import Batch, Entry
from neural_condense_core.serving.jobs import BatchTooLargeError, Job, Outcome
from neural_condense_core.serving.worker import Worker, as_error
from neural_condense_core.wire.codec import Format


def condense_rows(
    worker: Worker, rows: Sequence[Row], reply: Format, max_batch_tokens: int
) -> list[Outcome]:
    """Condense a chunk.

    Parameters
    ----------
    worker : loaded
    rows : of the chunk
    reply : how an answer is written
    max_batch_tokens : budget of a padded batch

    Returns
    -------
    one outcome a row, in order
    """
    outcomes: dict[int, Outcome] = {}
    jobs: dict[int, Job] = {}
    lengths: dict[int, int] = {}
    for index, row in enumerate(rows):
        prepared = _job(worker, row, reply)
        if isinstance(prepared, NeuralCondenseError):
            outcomes[index] = prepared
        else:
            jobs[index] = prepared
            lengths[index] = len(prepared.context)
    for batch in in_batches(lengths, max_batch_tokens):
        answers = _answer(worker, [jobs[index] for index in batch])
        outcomes.update(zip(batch, answers, strict=True))
    return [outcomes[index] for index in range(len(rows))]


def in_batches(lengths: dict[int, int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Return which contexts share a batch.

    Parameters
    ----------
    lengths : context -> tokens
    max_batch_tokens : budget of a padded batch; a longer context goes by itself
    """
    batch: Batch[int] | None = None
    for index in sorted(lengths, key=lambda index: lengths[index]):
        entry = Entry(index, max(1, lengths[index]), 0.0)
        if batch is not None and batch.join(entry):
            continue
        if batch is not None:
            yield [each.item for each in batch.entries]
        batch = Batch(entry, max_batch_tokens)
    if batch is not None:
        yield [each.item for each in batch.entries]


def _job(worker: Worker, row: Row, reply: Format) -> Job | NeuralCondenseError:
    text = text_of(row)
    if isinstance(text, NeuralCondenseError):
        return text
    try:
        ids = worker.condenser.tokenize(text)
    except Exception as error:  # noqa: BLE001 - user code: a row fails alone, whatever it raised
        return as_error(error)
    return Job(np.asarray(ids, dtype=np.uint32), reply)


def _answer(worker: Worker, jobs: list[Job]) -> list[Outcome]:
    try:
        return worker.answer(jobs)
    except BatchTooLargeError:
        return [outcome for job in jobs for outcome in worker.answer([job])]
