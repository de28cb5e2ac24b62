"""``CorpusSettings``: what decides a corpus's content, checked, frozen and kept beside it.

Design decisions

* Only what changes what is written stands here. How many workers write it, and where, may change
  from one run to the next of the same corpus.
* A folder keeps the settings that it was begun with; going on with others is refused, naming them.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from neural_condense_core.errors import ConfigError

STORE_DTYPES = ("float32", "float16")
DTYPES = ("auto", "float32", "bfloat16")
MAX_SHARD_CONTEXTS = 65_536


@dataclass(frozen=True)
class CorpusSettings:
    """What is made of each row.

    Parameters
    ----------
    condenser : checkpoint, method, folder or ``module:Class``, with its options
    checkpoint : trained weights in place of the condenser's own; None = its own
    target_model : name or path of the model to condense for; None = the checkpoint's
    ratio : compression ratio; None = 4, or the nearest offered
    dtype : in what the condenser computes, one of ``DTYPES``
    store_dtype : in what condensed tokens are written, one of ``STORE_DTYPES``
    max_context_tokens : longest context, tokens; a longer one is an error of its row
    text_column : column of the texts
    id_column : column of the ids, each once; None = the number of the row, from 0
    shard_contexts : most contexts in one shard
    """

    condenser: str
    checkpoint: str | None = None
    target_model: str | None = None
    ratio: float | None = None
    dtype: str = "auto"
    store_dtype: str = "float16"
    max_context_tokens: int = 16_384
    text_column: str = "text"
    id_column: str | None = None
    shard_contexts: int = 256

    def __post_init__(self) -> None:
        """Check what no other part checks.

        Raises
        ------
        ConfigError
            A field is out of its range; the message names the flag.
        """
        for name, known in (("dtype", DTYPES), ("store_dtype", STORE_DTYPES)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"--{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        if not 1 <= self.shard_contexts <= MAX_SHARD_CONTEXTS:
            raise ConfigError(
                f"--shard_contexts must be from 1 to {MAX_SHARD_CONTEXTS}, got "
                f"{self.shard_contexts}"
            )

    def as_json(self) -> dict[str, Any]:
        """Return what a manifest keeps."""
        return asdict(self)

    def changed_from(self, kept: dict[str, Any]) -> list[str]:
        """Return the names of the settings that differ from a manifest's."""
        return [
            field.name
            for field in fields(self)
            if kept.get(field.name, field.default) != getattr(self, field.name)
        ]


@dataclass(frozen=True)
class InputFile:
    """What identifies the file of texts.

    Parameters
    ----------
    name : its name without folders
    n_bytes : size
    n_rows : number of rows
    footer : SHA-256 of the parquet footer, which holds the sizes and ranges of all columns
    """

    name: str
    n_bytes: int
    n_rows: int
    footer: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read what identifies a file.

        Raises
        ------
        ConfigError
            It cannot be read, or is no parquet file.
        """
        try:
            n_rows = pq.read_metadata(path).num_rows
            n_bytes = path.stat().st_size
            with path.open("rb") as file:
                file.seek(-8, 2)
                length = int.from_bytes(file.read(4), "little")
                file.seek(-8 - length, 2)
                footer = hashlib.sha256(file.read(length)).hexdigest()
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"cannot read {str(path)!r} as parquet: {error}") from None
        return cls(path.name, n_bytes, n_rows, footer)

    def is_that_of(self, kept: dict[str, Any]) -> bool:
        """Return whether a manifest means this file; it may have been moved or renamed."""
        mine = asdict(self)
        return all(kept.get(name) == mine[name] for name in ("n_bytes", "n_rows", "footer"))


@dataclass(frozen=True)
class MadeBy:
    """What condensed: shards of different ones never share a corpus.

    Parameters
    ----------
    condenser : its name
    target_model : the model that reads the tokens
    hidden_size : width of a condensed token
    ratio : compression ratio
    revision : what identifies the weights; "" = unknown
    """

    condenser: str
    target_model: str
    hidden_size: int
    ratio: float
    revision: str
