"""What the demo's user asks about."""

from __future__ import annotations

import pytest

from neural_condense_core.demo.document import Document, Question, shipped
from neural_condense_core.demo.user import passage


def test_the_passage_holds_the_answer_and_fits():
    text, question = passage(shipped(), 1_536)
    assert question.gold in text
    assert len(text) <= 1_536
    assert text in shipped().text


@pytest.mark.parametrize("n_before", [0, 50, 400])
def test_wherever_the_answer_stands(n_before):
    text = "word " * n_before + "the answer" + " word" * 400
    document = Document("x", text, "", (Question("a?"), Question("b?", "the answer")))
    found, question = passage(document, 200)
    assert question.question == "b?"
    assert "the answer" in found
    assert len(found) <= 200
    assert set(found.split()) <= {"word", "the", "answer"}, "words are whole"


def test_without_a_gold_answer_it_is_the_beginning():
    document = Document("x", "one two three", "", (Question("a?", "four"), Question("b?")))
    assert passage(document, 8) == ("one two", document.questions[0])
