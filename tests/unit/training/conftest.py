"""Small Parquet files in the columns that training reads."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SENTENCE = "the old harbour kept seven boats and a quiet keeper who counted waves at night"
WORDS = SENTENCE.split()


def prose_text(seed: int, n_words: int = 400) -> str:
    return " ".join(WORDS[(i * (seed + 3) + i // 7) % len(WORDS)] for i in range(n_words))


@pytest.fixture(scope="session")
def prose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "prose.parquet"
    rows = [{"source": f"s{i % 2}", "title": f"t{i}", "text": prose_text(i)} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="session")
def qa_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "qa.parquet"
    rows = [
        {
            "context": prose_text(i, 20 + 40 * i) + f" The code is {1000 + i}.",
            "question": "What is the code?",
            "answers": [str(1000 + i)],
        }
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
