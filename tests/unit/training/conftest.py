"""Small Parquet files in the columns that training reads, and batches made of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.training.batches import BatchMaker
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.sources import DataFiles, open_sources

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


@pytest.fixture(scope="session")
def files(prose_file: Path, qa_file: Path) -> DataFiles:
    return DataFiles(prose_file, qa_file)


@pytest.fixture(scope="session")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, dtype="float32")


@pytest.fixture(scope="session")
def tiny_recipe(tiny_llama: str) -> Recipe:
    """All objectives, every further flag off."""
    return Recipe(
        name="tiny",
        method="pooled",
        target_model=tiny_llama,
        condenser={"n_layers": 1, "lora_r": 4, "lora_alpha": 8},
        steps=6,
        batch=2,
        warmup=2,
        statistics_stretches=5,
        ratios={4: 0.5, 8: 0.5},
        objectives={"continuation": 0.4, "reconstruction": 0.4, "answer": 0.2},
        context_lengths={64: 1.0},
    )


@pytest.fixture(scope="session")
def maker(tiny_recipe: Recipe, target: HFTarget, files: DataFiles) -> BatchMaker:
    return BatchMaker(target, *open_sources(tiny_recipe, files, target))
