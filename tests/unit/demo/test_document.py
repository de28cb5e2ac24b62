"""The demo's texts and questions."""

from __future__ import annotations

import hashlib

import pytest

from neural_condense_core.demo import document as module
from neural_condense_core.demo.document import (
    DEFAULT_QUESTION,
    Question,
    from_file,
    neighbour,
    shipped,
    with_questions,
)
from neural_condense_core.errors import ConfigError


def test_the_shipped_document_is_what_it_says():
    found = shipped()
    assert hashlib.sha256(found.text.encode()).hexdigest() == found.sha256
    assert 600 <= found.n_words <= 1000
    assert "public domain" in found.source
    assert "1900" in found.source
    assert found.text.startswith("Dorothy lived in the midst of the great Kansas prairies")


def test_every_gold_answer_stands_in_the_document():
    found = shipped()
    assert 5 <= len(found.questions) <= 6
    for each in found.questions:
        assert each.gold in found.text
        assert each.question.endswith("?")


def test_the_neighbour_is_another_text_and_no_longer():
    found = shipped()
    other = neighbour(found)
    assert 400 < other.n_words <= found.n_words
    assert not any(each.gold in other.text for each in found.questions)
    short = neighbour(module.Document("x", "a" * 200, ""))
    assert len(short.text) == 200


def test_a_damaged_document_is_refused(monkeypatch):
    index = module._index()
    index["document"]["sha256"] = "0" * 64
    monkeypatch.setattr(module, "_index", lambda: index)
    with pytest.raises(ConfigError, match="install the package again"):
        shipped()


@pytest.mark.parametrize(
    ("questions", "golds", "expected"),
    [
        ([], [], (Question(DEFAULT_QUESTION),)),
        (["a?"], [], (Question("a?"),)),
        (["a?", "b?"], ["x"], (Question("a?", "x"), Question("b?"))),
    ],
)
def test_questions_and_golds_are_paired(tmp_path, questions, golds, expected):
    path = tmp_path / "a.txt"
    path.write_text("Some text.", encoding="utf-8")
    found = from_file(str(path), questions, golds)
    assert found.questions == expected
    assert found.sha256 == hashlib.sha256(b"Some text.").hexdigest()


@pytest.mark.parametrize(
    ("questions", "golds"), [([], ["x"]), (["a?"], ["x", "y"]), ([" "], []), (["a?"], [""])]
)
def test_what_does_not_pair_is_refused(questions, golds):
    with pytest.raises(ConfigError, match="question"):
        with_questions(shipped(), questions, golds)


def test_own_questions_replace_those_that_ship():
    assert with_questions(shipped(), [], []) == shipped()
    found = with_questions(shipped(), ["Who?"], [])
    assert found.questions == (Question("Who?"),)
    assert found.text == shipped().text
