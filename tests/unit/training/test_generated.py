"""Generated questions: answers stand in their contexts, and the text alone holds them."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from neural_condense_core.training.config import GENERATED_KINDS
from neural_condense_core.training.generated import QuestionGenerator, generate_rows, invented_name

PROSE = (
    "Marta walked to Lisbon in 1812. The road was long and she was tired. "
    "In Lisbon she met the old captain. The captain had sailed with Marta before. "
    "He gave her 300 crowns for the voyage. Nobody in Lisbon had seen such a sum. "
    "Then Marta bought a house near the river. It stood there until 1812 was forgotten. "
) * 6
QUESTIONS = [
    {"context": "Rome fell. Romans left Rome in 476 for the coast.", "question": "Which city fell?",
     "answers": ["Rome"]},
    {"context": "The tower has 1,204 steps.", "question": "How many steps?", "answers": ["1,204"]},
    {"context": "The king was Alaric.", "question": "Who was king?", "answers": ["Alaric"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def generator() -> QuestionGenerator:
    return QuestionGenerator([PROSE], QUESTIONS)


@pytest.mark.parametrize("kind", GENERATED_KINDS)
def test_every_answer_stands_in_its_context(generator: QuestionGenerator, kind: str) -> None:
    for seed in range(40):
        made = generator.make(random.Random(seed), kind)
        assert made is not None
        assert made.kind == kind
        assert made.answer in made.context
        assert made.question
    one, same = (generator.make(random.Random(7), kind) for _ in range(2))
    assert one == same


def test_a_cloze_blanks_a_name_or_number_of_the_sentence_behind(
    generator: QuestionGenerator,
) -> None:
    answers = set()
    for seed in range(60):
        made = generator.make(random.Random(seed), "cloze")
        assert made is not None
        assert "____" in made.question
        answers.add(made.answer)
    assert answers <= {"Lisbon", "Marta", "1812", "300"}
    assert len(answers) > 1


def test_a_counterfactual_replaces_the_answer_everywhere(generator: QuestionGenerator) -> None:
    for seed in range(60):
        made = generator.make(random.Random(seed), "counterfactual")
        assert made is not None
        origin = next(row for row in QUESTIONS if row["question"] == made.question)
        old = str(origin["answers"][0])
        assert made.answer != old
        assert old not in made.context.replace("Romans", "")
        if old == "Rome":
            assert "Romans" in made.context  # another word that begins alike
        if old == "1,204":
            assert made.answer[1] == ","


def test_names_hardly_ever_repeat() -> None:
    rng = random.Random(0)
    assert len({invented_name(rng) for _ in range(1000)}) > 990


def test_facts_are_asked_of_one_of_several_people(generator: QuestionGenerator) -> None:
    lengths = {len(made.context) for s in range(20)
               if (made := generator.make(random.Random(s), "facts"))}  # fmt: skip
    assert max(lengths) > 500 > min(lengths)


def test_kinds_without_material_leave_their_share_to_the_others() -> None:
    kinds = dict.fromkeys(GENERATED_KINDS, 1.0)
    rows = generate_rows(QuestionGenerator([], []), kinds, 50, seed=0)
    assert len(rows) == 50
    assert {row["kind"] for row in rows} == {"facts", "key_value"}
    assert rows == generate_rows(QuestionGenerator([], []), kinds, 50, seed=0)
    assert rows != generate_rows(QuestionGenerator([], []), kinds, 50, seed=1)
    assert generate_rows(QuestionGenerator([], []), {"cloze": 1.0}, 50, seed=0) == []


def test_no_torch_is_needed() -> None:
    line = "import neural_condense_core.training.generated, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", line], check=True, timeout=60)
