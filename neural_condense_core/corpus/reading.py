"""``read``: the condensed tokens of a finished corpus, one context after another; no torch.

Design decisions

* Shards are mapped, not loaded: memory is bounded by one context.
* Before a shard is used, its bytes are checked against the manifest once; ``verify=False`` spares
  that for a corpus on a slow disk that is read often.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from neural_condense_core.corpus.folder import INDEX, read_manifest
from neural_condense_core.corpus.shards import METADATA, POSITIONS
from neural_condense_core.errors import CorpusError
from neural_condense_core.tokens import CondensedTokens

_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 4096


def read(
    folder: str | Path, *, ids: Collection[str] | None = None, verify: bool = True
) -> Iterator[tuple[str, CondensedTokens]]:
    """Iterate over a corpus in the order of its rows.

    Parameters
    ----------
    folder : written by ``condense corpus``
    ids : which contexts; None = all
    verify : whether to check each shard's SHA-256 before it is used

    Yields
    ------
    id, condensed tokens

    Raises
    ------
    CorpusError
        The corpus is not finished, damaged, or does not hold one of the ids.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    if not manifest["complete"]:
        raise CorpusError(
            f"{str(path)!r} is not finished; run the 'condense corpus' that began it again"
        )
    digests = {shard["name"]: shard["sha256"] for shard in manifest["shards"]}
    wanted = None if ids is None else set(ids)
    shard, name = None, ""
    try:
        for row in _index(path, wanted):
            if row["shard"] != name:
                name = row["shard"]
                shard = _Shard(path / name, digests[name] if verify else None)
            if shard is not None:
                yield row["id"], shard.tokens(row)
            if wanted is not None:
                wanted.discard(row["id"])
    except (OSError, KeyError, ValueError, SafetensorError, pa.ArrowException) as error:
        raise CorpusError(f"{str(path)!r} is damaged at {name!r}: {error}") from error
    if wanted:
        raise CorpusError(f"{str(path)!r} does not hold {next(iter(wanted))!r}")


class _Shard:
    def __init__(self, path: Path, sha256: str | None) -> None:
        if sha256 is not None and _digest(path) != sha256:
            raise CorpusError(f"{str(path)!r} is not what was written: its SHA-256 differs")
        opened: Any = safe_open
        self._file: Any = opened(path, framework="np")
        self._names = set(self._file.keys())
        self._facts = json.loads(self._file.metadata()[METADATA])

    def tokens(self, row: dict[str, Any]) -> CondensedTokens:
        name = row["tensor"]
        positions = name + POSITIONS
        return CondensedTokens(
            self._file.get_tensor(name),
            self._facts["target_model"],
            row["n_context_tokens"],
            self._file.get_tensor(positions) if positions in self._names else None,
            self._facts["checkpoint"],
        )


def _index(path: Path, wanted: set[str] | None) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path / INDEX) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            for row in batch.to_pylist():
                if wanted is None or row["id"] in wanted:
                    yield row


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
