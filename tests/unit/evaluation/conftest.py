"""Tiny parquet files for evaluation tests, in the columns of real ones.

This folder is put on the path, for ``evaluation_fakes.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))

WORDS = ("river", "stone", "lamp", "winter", "harbour", "engine", "copper", "meadow", "ledger")


def text_of(seed: int, n_words: int) -> str:
    """Return words that differ from document to document; no two texts share a window."""
    return " ".join(
        f"{WORDS[(seed * 7 + i * (seed + 3)) % len(WORDS)]}{seed}-{i}" for i in range(n_words)
    )


@pytest.fixture(scope="session")
def prose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"source": source, "title": f"title {k}", "text": text_of(10 * s + k, 500)}
        for s, source in enumerate(["books", "manuals"])
        for k in range(4)
    ]
    path = tmp_path_factory.mktemp("data") / "prose.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="session")
def qa_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "source": source,
            "group": f"group {k}",
            "context": text_of(10 * s + k, 12),
            "question": f"Which word comes number {q}?",
            "answers": [f" {WORDS[q]} ", "unused"],
        }
        for s, source in enumerate(["tales", "wiki"])
        for k in range(3)
        for q in range(2)
    ]
    path = tmp_path_factory.mktemp("data") / "qa.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
