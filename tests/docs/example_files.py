"""The files that the pages' commands name, made from generated text: nobody's, and always the same.

Prose is about invented people, places and numbers, so that a condenser has something to keep and an
evaluation something to ask; it is long enough for every task that reads prose.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

N_DOCUMENTS = 6
N_SENTENCES = 60

_FIRST = ("Mara", "Tobin", "Ilse", "Corwin", "Dalia", "Edmund", "Petra", "Soren")
_LAST = ("Vance", "Okafor", "Lindqvist", "Harrow", "Castellan", "Mbeki", "Thorne", "Quill")
_TOWNS = ("Brackwater", "Elmsford", "Saltmarsh", "Highcombe", "Fenwick", "Oldquay")
_GOODS = ("barrels of cider", "sacks of barley", "crates of glass", "rolls of linen", "copper pans")
_FORMS = (
    "{name} left {town} in {year} with {n} {goods}.",
    "The council of {town} paid {name} {n} crowns for {goods}.",
    "In {year} a flood reached {town}, and {name} counted {n} houses under water.",
    "{name} wrote to a cousin in {town} that {n} {goods} had been sold.",
    "Nobody in {town} remembered a winter like that of {year}, when {name} lost {n} {goods}.",
    "At the age of {age}, {name} bought the old mill of {town}.",
)


def _facts(rng: random.Random) -> dict[str, object]:
    return {
        "name": f"{rng.choice(_FIRST)} {rng.choice(_LAST)}",
        "town": rng.choice(_TOWNS),
        "year": rng.randrange(1700, 1900),
        "n": rng.randrange(12, 900),
        "age": rng.randrange(19, 80),
        "goods": rng.choice(_GOODS),
    }


def prose(seed: int, n_sentences: int = N_SENTENCES) -> str:
    """Return a document of invented facts."""
    rng = random.Random(seed)
    return " ".join(rng.choice(_FORMS).format(**_facts(rng)) for _ in range(n_sentences))


def _prose_rows(seed: int) -> list[dict[str, Any]]:
    return [
        {
            "key": f"text-{i}",
            "source": "chronicles",
            "title": f"Chronicle {i}",
            "text": prose(seed + i),
        }
        for i in range(N_DOCUMENTS)
    ]


def _question_rows(seed: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(N_DOCUMENTS):
        rng = random.Random(seed + i)
        facts = _facts(rng)
        told = _FORMS[0].format(**facts)
        context = f"{prose(seed + 500 + i, 4)} {told} {prose(seed + 900 + i, 4)}"
        rows.append({
            "source": "chronicles",
            "group": f"Chronicle {i}",
            "context": context,
            "question": f"In which year did {facts['name']} leave {facts['town']}?",
            "answers": [str(facts["year"])],
        })
    return rows


def write_example_files(folder: Path) -> None:
    """Write every file that a page's blocks read and no block writes."""
    for i, stem in enumerate(("prose", "prose_eval", "held_out", "texts")):
        rows = _prose_rows(10_000 * i)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{stem}.parquet")
    for i, stem in enumerate(("qa", "qa_eval", "held_out_qa", "questions")):
        rows = _question_rows(10_000 * i + 5_000)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{stem}.parquet")
    (folder / "report.txt").write_text(prose(7, 24), encoding="utf-8")
