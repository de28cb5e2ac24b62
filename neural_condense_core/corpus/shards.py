"""A chunk's outcomes as one safetensors file and its rows of the index.

Where it sits: between condensing, here or on another machine, and ``folder.py``, which writes.

Design decisions

* A context is one tensor, named by its row, beside one with its positions where there are some, so
  that a reader maps only what it asks for.
* What cannot be condensed is a row with its reason; a message never quotes a text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import save

from neural_condense_core.corpus.rows import Chunk, Row
from neural_condense_core.corpus.settings import MadeBy
from neural_condense_core.errors import NeuralCondenseError, PayloadTooLargeError, RequestError
from neural_condense_core.serving.jobs import Loaded, Outcome
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors

MAX_TEXT_BYTES = 4_000_000
POSITIONS = ".positions"
METADATA = "neural_condense"

SCHEMA = pa.schema([
    ("id", pa.string()),
    ("row", pa.int64()),
    ("tensor", pa.string()),
    ("n_context_tokens", pa.int32()),
    ("n_condensed_tokens", pa.int32()),
    ("reason", pa.string()),
    ("message", pa.string()),
])
"""A row of the index: either the three after ``row`` are set, or the last two."""

_TRUSTED = Limits(max_bytes=1 << 40, max_tokens=1 << 32)


@dataclass(frozen=True, eq=False)
class Shard:
    """What became of a chunk.

    Parameters
    ----------
    chunk : which
    body : a safetensors file; empty where no context could be condensed
    table : one row a context, in order, with ``SCHEMA``
    made_by : what condensed
    """

    chunk: Chunk
    body: bytes = field(repr=False)
    table: Any
    made_by: MadeBy

    @property
    def n_failed(self) -> int:
        """How many rows are errors."""
        return int(self.table.num_rows - self.table.column("reason").null_count)


def text_of(row: Row) -> str | NeuralCondenseError:
    """Return a row's text, or why it cannot be condensed."""
    if row.text is None:
        return RequestError("the text is null")
    if len(row.text) > MAX_TEXT_BYTES:
        return PayloadTooLargeError(f"the text has more than {MAX_TEXT_BYTES} bytes; split it")
    try:
        text = row.text.decode("utf-8")
    except UnicodeDecodeError as error:
        return RequestError(f"the text is no UTF-8: byte {error.start} is not valid")
    return text if text.strip() else RequestError("the text is empty")


def made_by(loaded: Loaded) -> MadeBy:
    """Return what identifies a loaded condenser."""
    return MadeBy(
        loaded.condenser, loaded.target_model, loaded.hidden_size, loaded.ratio, loaded.revision
    )


def make_shard(
    chunk: Chunk, rows: Sequence[Row], outcomes: Sequence[Outcome], maker: MadeBy
) -> Shard:
    """Put a chunk's outcomes together.

    Parameters
    ----------
    chunk, rows : what was condensed
    outcomes : one a row; an answer is safetensors
    maker : what condensed
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    entries: list[tuple[object, ...]] = []
    checkpoint: str | None = None
    for row, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, NeuralCondenseError):
            entries.append((row.id, row.number, None, None, None, outcome.code, outcome.message))
            continue
        tokens = from_safetensors(bytes(outcome.body), _TRUSTED)
        checkpoint = tokens.checkpoint
        entries.append((row.id, row.number, *_add(tensors, row, tokens), None, None))
    table = pa.Table.from_pylist(
        [dict(zip(SCHEMA.names, entry, strict=True)) for entry in entries], schema=SCHEMA
    )
    facts = {"target_model": maker.target_model, "checkpoint": checkpoint}
    body = save(tensors, {METADATA: json.dumps(facts)}) if tensors else b""
    return Shard(chunk, body, table, maker)


def _add(
    tensors: dict[str, npt.NDArray[Any]], row: Row, tokens: CondensedTokens
) -> tuple[str, int, int]:
    name = f"{row.number:012d}"
    tensors[name] = tokens.embeds
    if tokens.positions is not None:
        tensors[name + POSITIONS] = np.ascontiguousarray(tokens.positions)
    return name, tokens.n_context_tokens, tokens.n_condensed_tokens
