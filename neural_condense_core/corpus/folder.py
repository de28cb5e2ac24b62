"""The folder of a corpus: shards, the rows of the index, and what it was begun with.

::

    OUT/corpus.json                  settings, input, what condensed; complete or not; the shards
    OUT/shard-000000.safetensors     one tensor a context
    OUT/index.parquet                id, row, shard, tensor, n_context_tokens, n_condensed_tokens
    OUT/errors.parquet               id, row, reason, message
    OUT/parts/000000.parquet         until all is done: a shard's rows, and its SHA-256

Design decisions

* A shard counts once its part is there, and a part is renamed into place after its shard: whenever
  the process is killed, a chunk is either done or will be done anew, and never half.
* One writer: a lock on the folder, which ends with the process however that ends.
* Both files are on the disk before they are renamed, so a power failure leaves no empty ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from neural_condense_core.corpus.settings import CorpusSettings, InputFile, MadeBy
from neural_condense_core.corpus.shards import SCHEMA, Shard
from neural_condense_core.errors import ConfigError, CorpusError

MANIFEST = "corpus.json"
INDEX = "index.parquet"
ERRORS = "errors.parquet"
PARTS = "parts"
LOCK = ".lock"
VERSION = 1

INDEX_SCHEMA = pa.schema([
    ("id", pa.string()),
    ("row", pa.int64()),
    ("shard", pa.string()),
    ("tensor", pa.string()),
    ("n_context_tokens", pa.int32()),
    ("n_condensed_tokens", pa.int32()),
])
ERROR_SCHEMA = pa.schema([
    ("id", pa.string()),
    ("row", pa.int64()),
    ("reason", pa.string()),
    ("message", pa.string()),
])

_FACTS = b"condense"
"""Key of a part's own metadata."""


@dataclass(frozen=True)
class Part:
    """What is known of a finished shard.

    Parameters
    ----------
    shard : file name, empty where no context could be condensed
    sha256 : of the file, hexadecimal
    n_bytes : size of the file
    n_rows, n_failed : rows of the chunk, and how many of them are errors
    """

    shard: str
    sha256: str
    n_bytes: int
    n_rows: int
    n_failed: int


class CorpusFolder:
    """A folder that is being written.

    Parameters
    ----------
    path : the folder, locked
    manifest : what it was begun with
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.done: dict[int, Part] = {}

    @classmethod
    @contextmanager
    def opened(cls, path: Path, settings: CorpusSettings, source: InputFile) -> Iterator[Self]:
        """Begin a corpus, or go on with it.

        Parameters
        ----------
        path : the folder; made if missing
        settings : must be those it was begun with
        source : the file of texts, as it was then

        Raises
        ------
        ConfigError
            The folder holds something else, or a corpus of other settings or another file.
        """
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{str(path)!r} is a file; give a folder")
        if path.is_dir() and not (path / MANIFEST).exists() and _foreign(path):
            raise ConfigError(f"{str(path)!r} holds something else; give an empty or new folder")
        path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            _lock(path, stack)
            folder = cls(path, _manifest(path, settings, source))
            if not folder.complete:
                (path / PARTS).mkdir(exist_ok=True)
                folder._take_stock()
            yield folder

    @property
    def complete(self) -> bool:
        """Whether every row has been dealt with."""
        return bool(self.manifest["complete"])

    def admit(self, made_by: MadeBy) -> None:
        """Accept what is about to condense, or has condensed, for this corpus.

        Raises
        ------
        CorpusError
            The shards that are there were made by something else.
        """
        kept = self.manifest["made_by"]
        mine = asdict(made_by)
        if kept is None:
            self.manifest["made_by"] = mine
            _write_json(self.path / MANIFEST, self.manifest)
        elif kept != mine:
            changed = ", ".join(
                f"{name} {kept[name]!r}" for name in mine if kept[name] != mine[name]
            )
            raise CorpusError(
                f"the shards in {str(self.path)!r} were made with {changed}, which is not what "
                "condenses now; use the same weights, or another folder"
            )

    def commit(self, shard: Shard) -> Part | None:
        """Write a shard and its rows; a chunk that is done already is left as it is."""
        index = shard.chunk.index
        if index in self.done:
            return None
        self.admit(shard.made_by)
        name = f"shard-{index:06d}.safetensors" if shard.body else ""
        if name:
            _write(self.path / name, shard.body)
        part = Part(
            shard=name,
            sha256=hashlib.sha256(shard.body).hexdigest(),
            n_bytes=len(shard.body),
            n_rows=len(shard.chunk),
            n_failed=shard.n_failed,
        )
        table = shard.table.replace_schema_metadata({_FACTS: json.dumps(asdict(part))})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        _write(self.path / PARTS / f"{index:06d}.parquet", sink.getvalue().to_pybytes())
        self.done[index] = part
        return part

    def finish(self, n_rows: int) -> None:
        """Put the index together and mark the corpus complete.

        Parameters
        ----------
        n_rows : of the file of texts

        Raises
        ------
        CorpusError
            The parts are not each row once.
        """
        parts = [self.done[index] for index in sorted(self.done)]
        found = self._write_index()
        if found != n_rows or sorted(self.done) != list(range(len(parts))):
            raise CorpusError(
                f"{str(self.path)!r} holds {found} rows of {n_rows}; the folder was changed by "
                "something else: start again in another one"
            )
        self.manifest["n_contexts"] = n_rows - sum(part.n_failed for part in parts)
        self.manifest["n_failed"] = sum(part.n_failed for part in parts)
        self.manifest["shards"] = [
            {"name": part.shard, "sha256": part.sha256, "bytes": part.n_bytes}
            for part in parts
            if part.shard
        ]
        self.manifest["complete"] = True
        _write_json(self.path / MANIFEST, self.manifest)
        shutil.rmtree(self.path / PARTS, ignore_errors=True)

    def _write_index(self) -> int:
        index_path, errors_path = self.path / INDEX, self.path / ERRORS
        n_rows = 0
        with (
            pq.ParquetWriter(_temporary(index_path), INDEX_SCHEMA) as index,
            pq.ParquetWriter(_temporary(errors_path), ERROR_SCHEMA) as errors,
        ):
            for number in sorted(self.done):
                table = pq.read_table(self.path / PARTS / f"{number:06d}.parquet")
                rows = table.column("row").to_pylist()
                if rows != list(range(n_rows, n_rows + len(rows))):
                    break
                n_rows += len(rows)
                failed = table.column("reason").is_valid()
                errors.write_table(
                    table.filter(failed).select(ERROR_SCHEMA.names).cast(ERROR_SCHEMA)
                )
                good = table.filter(table.column("reason").is_null())
                shards = pa.array([self.done[number].shard] * good.num_rows, pa.string())
                good = good.append_column("shard", shards).select(INDEX_SCHEMA.names)
                index.write_table(good.cast(INDEX_SCHEMA))
        for path in (index_path, errors_path):
            _settle(path)
        return n_rows

    def _take_stock(self) -> None:
        for stale in (*self.path.glob("*.tmp"), *(self.path / PARTS).glob("*.tmp")):
            stale.unlink()
        for path in sorted((self.path / PARTS).glob("*.parquet")):
            schema = pq.read_schema(path)
            part = Part(**json.loads(schema.metadata[_FACTS]))
            shard = self.path / part.shard
            if part.shard and not (shard.is_file() and shard.stat().st_size == part.n_bytes):
                path.unlink()  # its shard was taken away: the chunk is done anew
                continue
            self.done[int(path.stem)] = part


def _foreign(path: Path) -> bool:
    return any(entry.name not in {LOCK, f"{MANIFEST}.tmp"} for entry in path.iterdir())


def _lock(path: Path, stack: ExitStack) -> None:
    file = stack.enter_context((path / LOCK).open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"another process writes to {str(path)!r}; wait for it") from None


def _manifest(path: Path, settings: CorpusSettings, source: InputFile) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.exists():
        manifest = {
            "schema": VERSION,
            "settings": settings.as_json(),
            "input": asdict(source),
            "made_by": None,
            "complete": False,
        }
        _write_json(file, manifest)
        return manifest
    kept = read_manifest(path)
    changed = settings.changed_from(kept["settings"])
    if changed:
        before = ", ".join(f"--{name} {kept['settings'].get(name)}" for name in changed)
        raise ConfigError(
            f"{str(path)!r} was begun with {before}; go on with the same settings, or give another "
            "folder"
        )
    if not source.is_that_of(kept["input"]):
        raise ConfigError(
            f"{str(path)!r} was begun from another file of texts ({kept['input']['name']!r}, "
            f"{kept['input']['n_rows']} rows), or it has changed since; give another folder"
        )
    return kept


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what a corpus says of itself.

    Raises
    ------
    CorpusError
        It is none, or one of a later version.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise CorpusError(f"{str(path)!r} holds no corpus: {MANIFEST} cannot be read") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != VERSION:
        raise CorpusError(f"{str(path)!r} is a corpus of another version than {VERSION}")
    return manifest


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def _write_json(path: Path, payload: object) -> None:
    _write(path, json.dumps(payload, indent=2).encode())


def _write(path: Path, body: bytes) -> None:
    _temporary(path).write_bytes(body)
    _settle(path)


def _settle(path: Path) -> None:
    with _temporary(path).open("rb") as file:
        os.fsync(file.fileno())
    _temporary(path).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


__all__ = ["ERRORS", "INDEX", "SCHEMA", "CorpusFolder", "Part", "read_manifest"]
