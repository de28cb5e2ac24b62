"""The texts of a parquet file: planned in chunks, then read a chunk at a time.

Where it sits: before condensing. A chunk becomes one shard.

Design decisions

* The file is read twice: once for lengths and ids, so that chunks are the same in every run and a
  doubled id is found before hours of work, and once for the texts.
* Memory is bounded by a page of the file and one chunk, whatever the file's size; ids cost eight
  bytes each while they are checked.
* Texts are read as bytes: one that is no UTF-8 is an error of its row and not of the file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neural_condense_core.corpus.settings import CorpusSettings
from neural_condense_core.errors import ConfigError

SHARD_TEXT_BYTES = 512 * 1024
"""Most text in one chunk, unless a single text has more: bounds memory and the size of a shard."""
_SCAN_ROWS = 1024


@dataclass(frozen=True)
class Chunk:
    """Rows that become one shard.

    Parameters
    ----------
    index : its number
    start, end : rows, the end excluded
    """

    index: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Row:
    """One text.

    Parameters
    ----------
    number : of the row, from 0
    id : as it is in the file, or the number
    text : UTF-8, unchecked; None = there is none
    """

    number: int
    id: str
    text: bytes | None = field(repr=False)


def plan(path: Path, settings: CorpusSettings) -> list[Chunk]:
    """Return all chunks, after a look at every row.

    Raises
    ------
    ConfigError
        A column is missing or of the wrong type, or an id is missing.
    """
    _check_columns(path, settings)
    chunks: list[Chunk] = []
    hashes: list[npt.NDArray[np.uint64]] = []
    start = row = n_bytes = 0
    for texts, ids in _scan(path, settings):
        if ids is not None:
            if ids.null_count:
                raise ConfigError(f"column {settings.id_column!r} holds {ids.null_count} null ids")
            hashes.append(_hashes(ids))
        for size in pc.fill_null(pc.binary_length(texts), 0).to_numpy():
            full = row - start == settings.shard_contexts or n_bytes + size > SHARD_TEXT_BYTES
            if full and row > start:
                chunks.append(Chunk(len(chunks), start, row))
                start, n_bytes = row, 0
            n_bytes += int(size)
            row += 1
    if row > start:
        chunks.append(Chunk(len(chunks), start, row))
    if hashes:
        _check_unique(path, settings, np.concatenate(hashes))
    return chunks


class RowReader:
    """Reads chunks; in ascending order each row of the file is read once.

    Parameters
    ----------
    path : the parquet file
    settings : which columns
    """

    def __init__(self, path: Path, settings: CorpusSettings) -> None:
        self.settings = settings
        self._file = pq.ParquetFile(path, pre_buffer=False)
        sizes = [
            self._file.metadata.row_group(group).num_rows
            for group in range(self._file.metadata.num_row_groups)
        ]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._batch_start = 0

    def read(self, chunk: Chunk) -> list[Row]:
        """Return a chunk's rows."""
        self._seek(chunk.start)
        rows: list[Row] = []
        while chunk.start + len(rows) < chunk.end:
            offset = chunk.start + len(rows) - self._batch_start
            if self._batch is None or offset >= self._batch.num_rows:
                self._next()
                continue
            rows += self._rows(offset, min(self._batch.num_rows - offset, len(chunk) - len(rows)))
        return rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _seek(self, row: int) -> None:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._batch is not None and self._batch_start <= row:
            at = self._batch_start + self._batch.num_rows
            if row < at or self._starts[group] <= at:
                return
        columns = _columns(self.settings)
        groups = range(group, self._file.metadata.num_row_groups)
        self._batches = self._file.iter_batches(
            batch_size=self.settings.shard_contexts,
            row_groups=list(groups),
            columns=columns,
            use_threads=False,
        )
        self._batch, self._batch_start = None, int(self._starts[group])

    def _next(self) -> None:
        if self._batch is not None:
            self._batch_start += self._batch.num_rows
        self._batch = next(self._batches)

    def _rows(self, offset: int, n: int) -> list[Row]:
        part = self._batch.slice(offset, n)
        first = self._batch_start + offset
        texts = _binary(part.column(self.settings.text_column)).to_pylist()
        if self.settings.id_column is None:
            ids = [str(first + index) for index in range(n)]
        else:
            ids = _text(part.column(self.settings.id_column)).to_pylist()
        return [
            Row(first + index, id_, text)
            for index, (id_, text) in enumerate(zip(ids, texts, strict=True))
        ]


def _columns(settings: CorpusSettings) -> list[str]:
    wanted = [settings.text_column, settings.id_column]
    return list(dict.fromkeys(name for name in wanted if name is not None))


def _check_columns(path: Path, settings: CorpusSettings) -> None:
    schema = pq.read_schema(path)
    for name in _columns(settings):
        if name not in schema.names:
            raise ConfigError(
                f"{str(path)!r} has no column {name!r}; it has {', '.join(schema.names)}"
            )
    kind = schema.field(settings.text_column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ConfigError(f"column {settings.text_column!r} holds {kind}, and text is needed")
    if settings.id_column is None:
        return
    kind = schema.field(settings.id_column).type
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)
    ):
        raise ConfigError(f"column {settings.id_column!r} holds {kind}; ids are text or integers")


def _scan(path: Path, settings: CorpusSettings) -> Iterator[tuple[Any, Any]]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        batches = file.iter_batches(
            batch_size=_SCAN_ROWS, columns=_columns(settings), use_threads=False
        )
        for batch in batches:
            ids = None if settings.id_column is None else _text(batch.column(settings.id_column))
            yield _binary(batch.column(settings.text_column)), ids


def _binary(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary())


def _text(column: Any) -> Any:
    return column.cast(pa.large_string())


def _hashes(ids: Any) -> npt.NDArray[np.uint64]:
    raw = b"".join(
        hashlib.blake2b(value, digest_size=8).digest()
        for value in ids.cast(pa.large_binary()).to_pylist()
    )
    return np.frombuffer(raw, np.uint64)


def _check_unique(path: Path, settings: CorpusSettings, hashes: npt.NDArray[np.uint64]) -> None:
    ordered = np.sort(hashes)
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    # Equal hashes may be of different ids; only the few that share one are compared.
    found: Counter[str] = Counter()
    at = 0
    for _, ids in _scan(path, settings):
        here = hashes[at : at + len(ids)]
        at += len(ids)
        found.update(ids[index].as_py() for index in np.flatnonzero(np.isin(here, list(suspects))))
    doubled = [id_ for id_, n in found.items() if n > 1]
    if doubled:
        raise ConfigError(
            f"column {settings.id_column!r} holds {len(doubled)} ids more than once, "
            f"{doubled[0]!r} for example; ids must be unique"
        )
