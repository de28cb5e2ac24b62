"""What the demo reads: the text that ships, or any other, with questions.

Design decisions

* The text and its neighbour ship as package data beside their source, and their SHA-256 is checked
  whenever they are read: what is shown is what was written.
* Content recovery C compares with the condensed tokens of *another* document of the same source.
  That is the neighbouring chapter; it serves for ``--file`` as well, where the source is unknown,
  and is cut to the document's length: what fits the target model once then fits it twice.
* The questions that ship are ones whose gold answers the full text makes likelier for the embedded
  model: where it does not, there is nothing to recover. No condenser was looked at for the choice.
* A question needs no gold answer. Without one, what the target model answers from the full text
  stands in for it, since R and C ask how near the condensed tokens come to the full text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from neural_condense_core.console import read_text
from neural_condense_core.errors import ConfigError

INDEX = "documents.json"
MIN_CHARS = 100
DEFAULT_QUESTION = "What is the text about?"


@dataclass(frozen=True)
class Question:
    """A question about a document.

    Parameters
    ----------
    question : text
    gold : a right answer in a few words, or None
    """

    question: str
    gold: str | None = None


@dataclass(frozen=True)
class Document:
    """A text with questions about it.

    Parameters
    ----------
    path : where it lies; a bare file name for what ships
    text : the whole of it
    sha256 : of its bytes, hexadecimal
    questions : at least one for a text that is asked about
    source : where it is from, or empty
    """

    path: str
    text: str
    sha256: str
    questions: tuple[Question, ...] = ()
    source: str = ""

    @property
    def n_words(self) -> int:
        """Number of words between white space."""
        return len(self.text.split())


def shipped() -> Document:
    """Return the document that ships, with its questions."""
    index = _index()
    questions = tuple(Question(each["question"], each["gold"]) for each in index["questions"])
    return _read(index, "document", questions)


def neighbour(of: Document) -> Document:
    """Return the other document, which content recovery compares with; no longer than the first."""
    found = _read(_index(), "other", ())
    return replace(found, text=found.text[: max(len(of.text), MIN_CHARS)])


def from_file(path: str, questions: Sequence[str], golds: Sequence[str]) -> Document:
    """Read a user's document.

    Parameters
    ----------
    path : UTF-8 text file
    questions : asked in this order; none = ``DEFAULT_QUESTION``
    golds : right answers to the first questions, at most one each; a ConfigError says so where
        there are more of them than questions, or one of either is empty
    """
    text = read_text(path)
    return Document(path, text, _sha256(text.encode()), _paired(questions, golds))


def with_questions(document: Document, questions: Sequence[str], golds: Sequence[str]) -> Document:
    """Return the document with other questions, given as to ``from_file``, unless none are."""
    if not questions and not golds:
        return document
    return replace(document, questions=_paired(questions, golds))


def _paired(questions: Sequence[str], golds: Sequence[str]) -> tuple[Question, ...]:
    if len(golds) > len(questions):
        raise ConfigError(
            f"{len(golds)} gold answers for {len(questions)} questions; give --question TEXT"
            " before each --gold TEXT"
        )
    if not all(each.strip() for each in (*questions, *golds)):
        raise ConfigError("a question and a gold answer must hold text")
    if not questions:
        return (Question(DEFAULT_QUESTION),)
    padded: list[str | None] = [*golds, *[None] * (len(questions) - len(golds))]
    return tuple(Question(*pair) for pair in zip(questions, padded, strict=True))


def _index() -> dict[str, Any]:
    raw = (resources.files(__package__) / INDEX).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(raw)
    return found


def _read(index: dict[str, Any], key: str, questions: tuple[Question, ...]) -> Document:
    entry = index[key]
    raw = (resources.files(__package__) / entry["file"]).read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != entry["sha256"]:
        raise ConfigError(
            f"the demo's text {entry['file']} is not the one that shipped (SHA-256 {found}); "
            "install the package again"
        )
    source = f"{index['source']}: {entry['part']} ({index['licence']})"
    return Document(entry["file"], raw.decode("utf-8"), found, questions, source)


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
