"""Texts and questions from parquet files: which are one document, which files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.evaluation.data import (
    PROSE_COLUMNS,
    Passage,
    Question,
    load_prose,
    load_qa,
    passages_of,
    read_rows,
)


def test_load_qa_takes_the_first_answer_and_skips_rows_without(tmp_path: Path) -> None:
    row = {"source": "s", "group": "g", "context": "c", "question": " q? ", "answers": [" a ", "b"]}
    rows = [
        row,
        row | {"answers": []},
        row | {"answers": None},
        row | {"answers": [" "]},
        row | {"context": " "},
        row | {"group": None, "context": "d"},
    ]
    first, second = load_qa(write(tmp_path, rows))
    assert first == Question("s", "s: g", "c", "q?", "a", ("a", "b"))
    assert second == Question("s", second.document, "d", "q?", "a", ("a", "b"))


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "file.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


PROSE_ROW = {"source": "s", "title": "t", "text": "x"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"source": "s", "title": "t"}], "lacks the column 'text'; it has source, title"),
        ([PROSE_ROW | {"text": 3}], "column 'text' must be string, it is int64"),
        ([PROSE_ROW | {"text": ["x"]}], "column 'text' must be string"),
        ([PROSE_ROW | {"text": " \n"}], "has no usable row"),
    ],
)
def test_wrong_prose_files(tmp_path: Path, rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_prose(write(tmp_path, rows))
    assert says in caught.value.message


def test_answers_must_be_a_list(tmp_path: Path) -> None:
    row = {"source": "s", "group": "g", "context": "c", "question": "q", "answers": "a"}
    with pytest.raises(ConfigError, match="'answers' must be list<string>"):
        load_qa(write(tmp_path, [row]))


def test_not_parquet_and_missing_and_empty(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with pytest.raises(ConfigError, match="no such file"):
        load_prose(path)
    path.write_text("source,title,text\n")
    with pytest.raises(ConfigError, match="no parquet file"):
        load_prose(path)
    empty = pa.schema([(name, pa.string()) for name in PROSE_COLUMNS]).empty_table()
    pq.write_table(empty, path)
    with pytest.raises(ConfigError, match="no usable row"):
        load_prose(path)


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [PROSE_ROW | {"text": f"text {i}" * 50} for i in range(50)])
    body = bytearray(path.read_bytes())
    body[4:400] = bytes(396)
    path.write_bytes(body)
    with pytest.raises(ConfigError, match="is damaged"):
        load_prose(path)


def test_rows_hold_the_columns_that_were_asked_for(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, [PROSE_ROW, PROSE_ROW | {"text": None}]), {"text": "string"})
    assert rows == [{"text": "x"}, {"text": None}]


def test_a_prose_document_is_a_text_not_a_title(tmp_path: Path) -> None:
    rows = [
        {"source": "a", "title": "Introduction", "text": "one"},
        {"source": "a", "title": "Introduction", "text": "two"},
        {"source": "b", "title": "Introduction", "text": "three"},
        {"source": "b", "title": "Foreword", "text": " one\n"},
        {"source": "b", "title": None, "text": "four"},
    ]
    found = load_prose(write(tmp_path, rows))
    assert [passage.text for passage in found] == ["one", "two", "three", " one\n", "four"]
    assert [passage.source for passage in found] == ["a", "a", "b", "b", "b"]
    one, two, three, again, four = (passage.document for passage in found)
    assert one == again
    assert len({one, two, three, four}) == 4


def test_groups_with_a_context_in_common_are_one_document(tmp_path: Path) -> None:
    row = {"source": "s", "group": "g", "context": "c", "question": "q?", "answers": ["a"]}
    rows = [
        row,
        row | {"context": "d"},
        row | {"group": "h", "context": "e"},
        row | {"source": "t", "group": "x", "context": "d\n"},
        row | {"source": "t", "group": "x", "context": "f"},
        row | {"source": "t", "group": "g", "context": "i"},
        row | {"source": "t", "group": None, "context": "f"},
    ]
    found = load_qa(write(tmp_path, rows))
    g, g2, h, x, x2, other_g, alone = (question.document for question in found)
    assert g == g2 == x == x2 == alone
    assert len({g, h, other_g}) == 3
    assert passages_of(found)[:2] == [Passage("s", g, "c"), Passage("s", g, "d")]
