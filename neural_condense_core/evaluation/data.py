"""Text and questions from parquet files, and which of them are one document.

Where it sits: before the items (``tasks.py``), which are windows of these texts. ``read_rows`` is
the one reader of such files, training included.

Design decisions

* A document is what another one shares no text with: swapped contexts and intervals rest on it. So
  its name depends on the text and never on a title alone, which several texts may bear.
* A document's name is unique over all sources: data sets borrow contexts from each other.
* Questions of one group (the paragraphs of one article) are of one document, and groups that share
  a context are one, whatever their sources call them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from neural_condense_core.errors import ConfigError

T = TypeVar("T")

PROSE_COLUMNS = {"source": "string", "title": "string", "text": "string"}
QA_COLUMNS = {
    "source": "string",
    "group": "string",
    "context": "string",
    "question": "string",
    "answers": "list<string>",
}


@dataclass(frozen=True)
class Passage:
    """A text to take windows from, a part of a document or all of it."""

    source: str
    document: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question on a context, which is a part of a document, its gold answer and other good ones.

    Parameters
    ----------
    answer : the gold answer
    answers : every answer that counts as right, the gold one among them; empty = that one alone
    """

    source: str
    document: str
    context: str
    question: str
    answer: str
    answers: tuple[str, ...] = ()


def load_prose(path: Path) -> list[Passage]:
    """Read running text.

    Parameters
    ----------
    path : parquet file with the columns ``source``, ``title`` and ``text``

    Returns
    -------
    its rows, those without text left out; at least one. Each text is a document of its own,
    however many bear its title; a text that stands there twice is one document
    """
    names: dict[str, str] = {}
    passages = []
    for row in read_rows(path, PROSE_COLUMNS):
        source, title, text = row["source"], row["title"], row["text"]
        if _is_text(source) and _is_text(text):
            key = _digest(text)
            document = names.setdefault(key, f"{source}: {title or ''} [{key}]")
            passages.append(Passage(source, document, text))
    return _not_empty(passages, path)


def load_qa(path: Path) -> list[Question]:
    """Read questions.

    Parameters
    ----------
    path : parquet file with the columns ``source``, ``group``, ``context``, ``question`` and
        ``answers`` (a list, the first is gold)

    Returns
    -------
    its rows, those without an answer left out; at least one. The document is the group, joined
    with every group that has a context in common with it
    """
    questions = [
        Question(
            row["source"],
            f"{row['source']}: {row['group'] or _digest(row['context'])}",
            row["context"],
            row["question"].strip(),
            row["answers"][0].strip(),
            tuple(dict.fromkeys(text.strip() for text in row["answers"] if _is_text(text))),
        )
        for row in read_rows(path, QA_COLUMNS)
        if row["answers"]
        and all(_is_text(row[name]) for name in ("source", "context", "question"))
        and _is_text(row["answers"][0])
    ]
    return _not_empty(_joined(questions), path)


def passages_of(questions: Sequence[Question]) -> list[Passage]:
    """Return the distinct contexts of questions as running text."""
    found = {
        question.context: Passage(question.source, question.document, question.context)
        for question in questions
    }
    return list(found.values())


def read_rows(path: Path, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Read some columns of a parquet file.

    Parameters
    ----------
    path : the file
    columns : name -> ``"string"`` or ``"list<string>"``

    Returns
    -------
    at least one row, each with these columns alone; any value may be None

    Raises
    ------
    ConfigError
        The file is missing, no parquet, has no row or lacks a column of the right type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is no parquet file") from error
    for name, kind in columns.items():
        if name not in schema.names:
            raise ConfigError(f"{path} lacks the column {name!r}; it has {', '.join(schema.names)}")
        found = schema.field(name).type
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        text = found.value_type if is_list else found
        is_text = pa.types.is_string(text) or pa.types.is_large_string(text)
        if not is_text or is_list != kind.startswith("list"):
            raise ConfigError(f"{path}: column {name!r} must be {kind}, it is {found}")
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=list(columns)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
    return _not_empty(rows, path)


def _joined(questions: Sequence[Question]) -> list[Question]:
    """Give documents with a context in common one name, which was one of theirs."""
    parents = {question.document: question.document for question in questions}

    def first_of(document: str) -> str:
        while parents[document] != document:
            document = parents[document]
        return document

    holders: dict[str, str] = {}
    for question in questions:
        holder = holders.setdefault(_digest(question.context), question.document)
        parents[first_of(question.document)] = first_of(holder)
    return [replace(question, document=first_of(question.document)) for question in questions]


def _digest(text: str) -> str:
    """Name a text by its words: data sets differ in how they copy white space."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "replace")).hexdigest()[:16]


def _is_text(value: str | None) -> bool:
    return value is not None and bool(value.strip())


def _not_empty(values: list[T], path: Path) -> list[T]:
    if not values:
        raise ConfigError(f"{path} has no usable row")
    return values
