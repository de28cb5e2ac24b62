"""Drawing texts and questions."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.training.data import (
    Prose,
    Questions,
    TextRows,
    read_prose,
    read_questions,
)


@pytest.fixture(scope="module")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, dtype="float32")


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def asking(rows: list[dict[str, object]], target: HFTarget, **more: object) -> Questions:
    return Questions(TextRows(rows, target), TextRows([], target), **more)


def test_a_draw_is_exact_and_repeats(prose_file: Path, target: HFTarget) -> None:
    prose = Prose(read_prose(prose_file), target, {})
    drawn = [prose.draw(random.Random(seed), 50) for seed in (1, 1, 2)]
    assert [len(ids) for ids in drawn] == [50, 50, 50]
    assert drawn[0] == drawn[1] != drawn[2]


def test_source_weights_decide_where_texts_come_from(target: HFTarget) -> None:
    rows = [{"source": name, "text": f"{name} " * 200} for name in ("aa", "bb")]
    prose = Prose(rows, target, {"bb": 1e9})
    for seed in range(5):
        assert "aa" not in target.decode(prose.draw(random.Random(seed), 30))


def test_texts_too_short_are_an_error(target: HFTarget) -> None:
    prose = Prose([{"source": "s", "text": "short"}], target, {})
    with pytest.raises(ConfigError, match="no stretch of 50 tokens"):
        prose.draw(random.Random(0), 50)


@pytest.mark.parametrize("n_tokens", [40, 256])
def test_a_question_keeps_its_answer_in_a_context_of_exact_length(
    qa_file: Path, target: HFTarget, n_tokens: int
) -> None:
    questions = asking(read_questions(qa_file), target)
    for seed in range(30):
        drawn = questions.draw(random.Random(seed), n_tokens)
        assert len(drawn.context_ids) == n_tokens
        assert target.decode(drawn.answer_ids) in target.decode(drawn.context_ids)


def test_contexts_side_by_side_are_parted(target: HFTarget) -> None:
    rows: list[dict[str, object]] = [{"context": "abc", "question": "q", "answers": ["abc"]}]
    questions = asking(rows, target, separator=target.tokenize("|"))
    texts = {target.decode(questions.draw(random.Random(s), 12).context_ids) for s in range(20)}
    assert all("abc|" in text for text in texts)


def test_columns_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [{"text": "x"}])
    with pytest.raises(ConfigError, match="source"):
        read_prose(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_prose(tmp_path / "none.parquet")
    rows: list[dict[str, object]] = [{"context": "c", "question": "q", "answers": [""]}]
    with pytest.raises(ConfigError, match="no answered question"):
        read_questions(write(tmp_path / "q.parquet", rows))
    with pytest.raises(ConfigError, match="no text"):
        read_prose(write(tmp_path / "e.parquet", [{"source": "s", "text": ""}]))


def test_yes_and_no_are_not_asked(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"context": "The door is red.", "question": "q", "answers": [answer]}
        for answer in ("Yes", "no.", "red")
    ]
    kept = read_questions(write(tmp_path / "q.parquet", rows))
    assert [row["answers"] for row in kept] == [["red"]]


def test_a_context_is_never_cut_where_its_answer_may_be_lost(target: HFTarget) -> None:
    rows: list[dict[str, object]] = [
        {"context": "word " * 100, "question": "q", "answers": ["elsewhere"]}
    ]
    with pytest.raises(ConfigError, match="no context holds its answer"):
        asking(rows, target).draw(random.Random(0), 64)


@pytest.mark.parametrize(("share", "expected"), [(0.0, {"given"}), (1.0, {"made"})])
def test_the_share_says_how_many_questions_are_generated(
    target: HFTarget, share: float, expected: set[str]
) -> None:
    def rows(word: str) -> TextRows:
        return TextRows([{"context": word, "question": "q", "answers": [word]}], target)

    questions = Questions(rows("given"), rows("made"), share)
    drawn = {target.decode(questions.draw(random.Random(s), 20).answer_ids) for s in range(20)}
    assert drawn == expected
    half = Questions(rows("given"), rows("made"), 0.5)
    assert len({half.draw(random.Random(s), 20).answer_ids for s in range(20)}) == 2


def test_a_text_without_spaces_is_drawn_from_everywhere(target: HFTarget) -> None:
    prose = Prose([{"source": "s", "text": "".join(map(str, range(900)))}], target, {})
    assert len({prose.draw(random.Random(seed), 20) for seed in range(10)}) > 5


def test_a_context_is_not_filled_up_with_itself(target: HFTarget) -> None:
    rows: list[dict[str, object]] = [
        {"context": word, "question": "q", "answers": [word]} for word in ("alpha", "gamma")
    ]
    questions = asking(rows, target, separator=target.tokenize("|"))
    for seed in range(20):
        drawn = questions.draw(random.Random(seed), 24)
        text = target.decode(drawn.context_ids)
        assert text.count(target.decode(drawn.answer_ids)) == 1


def test_generated_questions_stand_in_prose(target: HFTarget) -> None:
    made = TextRows([{"context": "made", "question": "q", "answers": ["made"]}], target)
    given = TextRows([{"context": "given", "question": "q", "answers": ["given"]}], target)
    prose = Prose([{"source": "s", "text": "waves " * 400}], target, {})
    questions = Questions(given, made, 1.0, prose=prose)
    for seed in range(10):
        drawn = questions.draw(random.Random(seed), 40)
        assert len(drawn.context_ids) == 40
        assert "given" not in target.decode(drawn.context_ids)
        assert "waves" in target.decode(drawn.context_ids)
