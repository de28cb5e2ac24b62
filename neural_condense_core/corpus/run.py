"""One run of ``condense corpus``: plan, condense what is missing, finish.

Where it sits: between the command line and the two ways to condense, ``local.py`` and
``ray_data.py``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow.compute as pc

from neural_condense_core.corpus.folder import CorpusFolder
from neural_condense_core.corpus.local import Sinks, StoppedError, condense_locally
from neural_condense_core.corpus.rows import Chunk, plan
from neural_condense_core.corpus.settings import CorpusSettings, InputFile
from neural_condense_core.corpus.shards import Shard
from neural_condense_core.errors import ConfigError
from neural_condense_core.serving.devices import (
    ACCELERATORS,
    MAX_BATCH_TOKENS,
    Placement,
    count_cores,
    count_gpus,
    place,
)
from neural_condense_core.serving.jobs import WorkerSpec
from neural_condense_core.serving.scale import ENGINES, RaySettings


@dataclass(frozen=True)
class Machines:
    """Where a run works; may differ from one run of a corpus to the next.

    Parameters
    ----------
    engine : one of ``ENGINES``
    ray : how Ray is used, where it is
    accelerator : ``"auto"``, ``"cpu"`` or ``"cuda"``
    devices : how many on this machine; None = all GPUs, or one CPU
    workers_per_device : processes on each
    max_batch_tokens : budget of a padded batch, tokens; None = by accelerator
    """

    engine: str = "local"
    ray: RaySettings = field(default_factory=RaySettings)
    accelerator: str = "auto"
    devices: int | None = None
    workers_per_device: int = 1
    max_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises
        ------
        ConfigError
            A field is out of its range; the message names the flag.
        """
        if self.engine not in ENGINES:
            raise ConfigError(f"--engine must be one of {', '.join(ENGINES)}; got {self.engine!r}")
        if self.accelerator not in ACCELERATORS:
            raise ConfigError(
                f"--accelerator must be one of {', '.join(ACCELERATORS)}; got {self.accelerator!r}"
            )
        for name in ("devices", "workers_per_device", "max_batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} must be at least 1, got {value}")

    def placement(self) -> Placement:
        """Return this machine's devices."""
        return place(
            self.accelerator,
            self.devices,
            self.workers_per_device,
            n_gpus=0 if self.accelerator == "cpu" else count_gpus(),
            n_cores=count_cores(),
        )


class Watcher(Protocol):
    """Who is told how a run goes."""

    def begin(self, n_rows: int, n_done: int) -> None:
        """Hear how much there is, and how much was done by earlier runs."""

    def advance(self, n_rows: int) -> None:
        """Hear that so many more rows have been dealt with."""


@dataclass(frozen=True)
class Summary:
    """How a run went.

    Parameters
    ----------
    complete : whether the corpus is
    stopped_by : signal that ended the run, or None
    n_rows : of the file
    n_before, n_now : rows that earlier runs had done, and those of this one
    n_condensed, n_failed : rows of the corpus as it is
    n_context_tokens, n_condensed_tokens : of this run
    seconds : that it took, with loading
    """

    complete: bool
    stopped_by: int | None
    n_rows: int
    n_before: int
    n_now: int
    n_condensed: int
    n_failed: int
    n_context_tokens: int
    n_condensed_tokens: int
    seconds: float


class _Counts:
    def __init__(self, folder: CorpusFolder) -> None:
        self.folder = folder
        self.n_rows = 0
        self.n_context_tokens = 0
        self.n_condensed_tokens = 0

    def commit(self, shard: Shard) -> None:
        if self.folder.commit(shard) is None:
            return
        self.n_rows += shard.table.num_rows
        self.n_context_tokens += _sum(shard, "n_context_tokens")
        self.n_condensed_tokens += _sum(shard, "n_condensed_tokens")


def condense_corpus(
    source: Path, out: Path, settings: CorpusSettings, machines: Machines, watcher: Watcher
) -> Summary:
    """Condense what is missing of a corpus.

    Parameters
    ----------
    source : parquet file of texts
    out : folder of the corpus; begun if it is empty or missing
    settings : what to make of each row
    machines : who does it
    watcher : is told how it goes
    """
    started_s = time.monotonic()
    input_file = InputFile.of(source)
    chunks = plan(source, settings)
    with CorpusFolder.opened(out, settings, input_file) as folder:
        counts = _Counts(folder)
        stopped_by = None
        n_before = input_file.n_rows if folder.complete else _n_rows(folder)
        watcher.begin(input_file.n_rows, n_before)
        if not folder.complete:
            missing = [chunk for chunk in chunks if chunk.index not in folder.done]
            sinks = Sinks(folder.admit, counts.commit, watcher.advance)
            try:
                if missing:
                    _condense(source, settings, machines, missing, sinks)
                folder.finish(input_file.n_rows)
            except StoppedError as stopped:
                stopped_by = stopped.signum
        done, failed = _totals(folder)
        return Summary(
            complete=folder.complete,
            stopped_by=stopped_by,
            n_rows=input_file.n_rows,
            n_before=n_before,
            n_now=counts.n_rows,
            n_condensed=done - failed,
            n_failed=failed,
            n_context_tokens=counts.n_context_tokens,
            n_condensed_tokens=counts.n_condensed_tokens,
            seconds=time.monotonic() - started_s,
        )


def _condense(
    source: Path, settings: CorpusSettings, machines: Machines, chunks: list[Chunk], sinks: Sinks
) -> None:
    if machines.engine == "ray":
        from neural_condense_core.corpus.ray_data import condense_on_ray

        accelerator = "cuda" if machines.accelerator == "cuda" else "cpu"
        spec = _spec(settings, "cuda:0" if accelerator == "cuda" else "cpu", machines.ray.cpus)
        budget = machines.max_batch_tokens or MAX_BATCH_TOKENS[accelerator]
        condense_on_ray(source, settings, chunks, spec, budget, machines.ray, sinks)
        return
    placement = machines.placement()
    specs = [_spec(settings, device, placement.threads) for device in placement.devices]
    budget = machines.max_batch_tokens or MAX_BATCH_TOKENS[placement.accelerator]
    condense_locally(source, settings, chunks, specs, budget, sinks)


def _spec(settings: CorpusSettings, device: str, threads: int) -> WorkerSpec:
    return WorkerSpec(
        condenser=settings.condenser,
        checkpoint=settings.checkpoint,
        target_model=settings.target_model,
        ratio=settings.ratio,
        dtype=settings.dtype,
        device=device,
        threads=threads,
        max_context_tokens=settings.max_context_tokens,
        # What the first contexts find out anyway; a server has to be fast from the first one on.
        warm_up_chars=(),
    )


def _n_rows(folder: CorpusFolder) -> int:
    return sum(part.n_rows for part in folder.done.values())


def _totals(folder: CorpusFolder) -> tuple[int, int]:
    if folder.complete:
        manifest: dict[str, Any] = folder.manifest
        return manifest["n_contexts"] + manifest["n_failed"], manifest["n_failed"]
    return _n_rows(folder), sum(part.n_failed for part in folder.done.values())


def _sum(shard: Shard, column: str) -> int:
    return int(pc.sum(shard.table.column(column)).as_py() or 0)
