"""Condensing a corpus on a Ray cluster: Ray Data over a pool of condensing actors.

Design decisions

* What travels to an actor is a range of rows; it reads the texts itself, so the file must be at the
  same path on every node. What travels back is a finished shard; only this process writes.
* Ray may run a chunk twice where a node is lost. That doubles work and nothing else: a chunk that
  is done already is not written again.
* How many shards are under way is bounded by Ray Data itself, through the actors' queues and the
  object store.
* An actor that dies is not started again by Ray: where its node is gone and there is no room, its
  chunks would wait for ever. The pass ends instead, what is done is kept, and another pass does the
  rest with what the cluster then has.
* A condenser that cannot be loaded is told as a value, so that a user reads its message and not
  Ray's traceback.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from neural_condense_core import errors
from neural_condense_core.corpus.batches import condense_rows
from neural_condense_core.corpus.local import Sinks, StoppedError
from neural_condense_core.corpus.rows import Chunk, RowReader
from neural_condense_core.corpus.settings import CorpusSettings, MadeBy
from neural_condense_core.corpus.shards import Shard, made_by, make_shard
from neural_condense_core.errors import BackendError, NeuralCondenseError
from neural_condense_core.serving import ray_cluster
from neural_condense_core.serving.jobs import WorkerSpec
from neural_condense_core.serving.scale import RaySettings
from neural_condense_core.serving.worker import build, describe
from neural_condense_core.signals import Interrupted, StopSignals
from neural_condense_core.wire.codec import SAFETENSORS

log = logging.getLogger(__name__)

MAX_BLOCKS = 1024
"""Ray Data hands work out in blocks; with more chunks than this, a block has several."""
TASKS_IN_FLIGHT = 2
MAX_FRUITLESS = 3
"""How many passes in a row may be lost without a single new shard."""


class ShardMaker:
    """An actor: a loaded condenser that makes shards.

    Parameters
    ----------
    path : the parquet file
    settings : what to make of it
    spec : what to load
    max_batch_tokens : budget of a padded batch
    """

    def __init__(
        self, path: str, settings: CorpusSettings, spec: WorkerSpec, max_batch_tokens: int
    ) -> None:
        self.format = replace(SAFETENSORS, dtype=settings.store_dtype)
        self.max_batch_tokens = max_batch_tokens
        self.failure: NeuralCondenseError | None = None
        try:
            self.reader = RowReader(Path(path), settings)
            self.worker = build(spec)
            self.maker = made_by(describe(spec, self.worker, lambda progress: None))
        except NeuralCondenseError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - user code: whatever it raises is told
            self.failure = NeuralCondenseError(f"{type(error).__name__}: {error}"[:1000])

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Turn ``index, start, end`` into a shard, or into why there are none."""
        if self.failure is not None:
            told = [type(self.failure).__name__, self.failure.message]
            return {"error": json.dumps(told), "index": row["index"]}
        chunk = Chunk(int(row["index"]), int(row["start"]), int(row["end"]))
        rows = self.reader.read(chunk)
        outcomes = condense_rows(self.worker, rows, self.format, self.max_batch_tokens)
        return packed(make_shard(chunk, rows, outcomes, self.maker))


def packed(shard: Shard) -> dict[str, Any]:
    """Return a shard as a row of Ray Data."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, shard.table.schema) as stream:
        stream.write_table(shard.table)
    return {
        "error": "",
        "index": shard.chunk.index,
        "start": shard.chunk.start,
        "end": shard.chunk.end,
        "body": shard.body,
        "table": sink.getvalue().to_pybytes(),
        "made_by": json.dumps(asdict(shard.made_by)),
    }


def unpacked(row: dict[str, Any]) -> Shard:
    """Return the shard of a row, or raise what the actor told instead."""
    if row["error"]:
        name, message = json.loads(row["error"])
        known = getattr(errors, name, NeuralCondenseError)
        raise (known if issubclass(known, NeuralCondenseError) else NeuralCondenseError)(message)
    return Shard(
        Chunk(int(row["index"]), int(row["start"]), int(row["end"])),
        bytes(row["body"]),
        pa.ipc.open_stream(row["table"]).read_all(),
        MadeBy(**json.loads(row["made_by"])),
    )


def condense_on_ray(
    path: Path,
    settings: CorpusSettings,
    chunks: Sequence[Chunk],
    spec: WorkerSpec,
    max_batch_tokens: int,
    cluster: RaySettings,
    sinks: Sinks,
) -> None:
    """Condense chunks with actors on a cluster.

    Parameters
    ----------
    path : the parquet file, at the same place on every node
    settings : what to make of it
    chunks : what is still to be done
    spec : what each actor loads
    max_batch_tokens : budget of a padded batch
    cluster : which cluster, how many actors
    sinks : who hears of it

    Raises
    ------
    StoppedError
        SIGINT or SIGTERM came; what is committed stays.
    """
    ray_cluster.connect(cluster)
    arguments = (str(path.resolve()), settings, spec, max_batch_tokens)
    try:
        # Ray's processes speak through this one's stdout, which belongs to the summary.
        with StopSignals(), contextlib.redirect_stdout(sys.stderr):
            _in_passes(chunks, arguments, spec, cluster, sinks)
    except Interrupted as stop:
        raise StoppedError(stop.signum) from None
    finally:
        ray_cluster.disconnect()


def _in_passes(
    chunks: Sequence[Chunk],
    arguments: tuple[Any, ...],
    spec: WorkerSpec,
    cluster: RaySettings,
    sinks: Sinks,
) -> None:
    from ray.exceptions import RayError

    missing = {chunk.index: chunk for chunk in chunks}
    fruitless = 0
    while missing:
        before = len(missing)
        reason = "it ended early"
        try:
            for row in _rows(list(missing.values()), arguments, spec, cluster):
                shard = unpacked(row)
                sinks.commit(shard)
                sinks.advance(len(shard.chunk))
                missing.pop(shard.chunk.index, None)
        except RayError as error:
            reason = type(error).__name__  # its message may hold a traceback, and that a text
        if not missing:
            return
        fruitless = 0 if len(missing) < before else fruitless + 1
        if fruitless == MAX_FRUITLESS:
            raise BackendError(
                f"the cluster could not do {len(missing)} shards ({reason}); what is done is kept: "
                "run the same line again, or with --engine local, which does each context alone "
                "where its worker dies"
            )
        log.warning("part of the cluster was lost (%s); %d shards to go", reason, len(missing))


def _actor_options() -> dict[str, Any]:
    return {"max_restarts": 0, "max_task_retries": 0}


def _rows(
    chunks: Sequence[Chunk], arguments: tuple[Any, ...], spec: WorkerSpec, cluster: RaySettings
) -> Iterator[dict[str, Any]]:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    pool = ray.data.ActorPoolStrategy(
        min_size=cluster.min_replicas,
        max_size=cluster.max_replicas,
        max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT,
    )
    ranges = [{"index": chunk.index, "start": chunk.start, "end": chunk.end} for chunk in chunks]
    data = ray.data.from_items(ranges, override_num_blocks=min(len(ranges), MAX_BLOCKS)).map(
        ShardMaker,
        fn_constructor_args=arguments,
        compute=pool,
        num_cpus=cluster.cpus,
        num_gpus=1 if spec.device.startswith("cuda") else 0,
        ray_remote_args_fn=_actor_options,
    )
    ray_cluster.hush()
    yield from data.iter_rows()
