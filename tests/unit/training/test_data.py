"""Drawing texts and questions."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.training.data import Prose, Questions


@pytest.fixture(scope="module")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, dtype="float32")


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_a_draw_is_exact_and_repeats(prose_file: Path, target: HFTarget) -> None:
    prose = Prose(prose_file, target, {})
    drawn = [prose.draw(random.Random(seed), 50) for seed in (1, 1, 2)]
    assert [len(ids) for ids in drawn] == [50, 50, 50]
    assert drawn[0] == drawn[1] != drawn[2]


def test_source_weights_decide_where_texts_come_from(tmp_path: Path, target: HFTarget) -> None:
    rows = [{"source": name, "text": f"{name} " * 200} for name in ("aa", "bb")]
    prose = Prose(write(tmp_path / "p.parquet", rows), target, {"bb": 1e9})
    for seed in range(5):
        assert "aa" not in target.decode(prose.draw(random.Random(seed), 30))


def test_texts_too_short_are_an_error(tmp_path: Path, target: HFTarget) -> None:
    path = write(tmp_path / "p.parquet", [{"source": "s", "text": "short"}])
    with pytest.raises(ConfigError, match="no stretch of 50 tokens"):
        Prose(path, target, {}).draw(random.Random(0), 50)


@pytest.mark.parametrize("n_tokens", [40, 256])
def test_a_question_keeps_its_answer_in_a_context_of_exact_length(
    qa_file: Path, target: HFTarget, n_tokens: int
) -> None:
    questions = Questions(qa_file, target, max_answer_tokens=16)
    for seed in range(30):
        drawn = questions.draw(random.Random(seed), n_tokens)
        assert len(drawn.context_ids) == n_tokens
        assert target.decode(drawn.answer_ids) in target.decode(drawn.context_ids)


def test_columns_are_checked(tmp_path: Path, target: HFTarget) -> None:
    path = write(tmp_path / "p.parquet", [{"text": "x"}])
    with pytest.raises(ConfigError, match="source"):
        Prose(path, target, {})
    with pytest.raises(ConfigError, match="cannot read"):
        Prose(tmp_path / "none.parquet", target, {})
    rows = [{"context": "c", "question": "q", "answers": [""]}]
    with pytest.raises(ConfigError, match="no answered question"):
        Questions(write(tmp_path / "q.parquet", rows), target, 4)


def test_yes_and_no_are_not_asked(tmp_path: Path, target: HFTarget) -> None:
    rows = [
        {"context": "The door is red.", "question": "q", "answers": [answer]}
        for answer in ("Yes", "no.", "red")
    ]
    questions = Questions(write(tmp_path / "q.parquet", rows), target, 8)
    drawn = {questions.draw(random.Random(seed), 40).answer_ids for seed in range(20)}
    assert [target.decode(ids) for ids in drawn] == ["red"]


def test_a_context_is_never_cut_where_its_answer_may_be_lost(
    tmp_path: Path, target: HFTarget
) -> None:
    rows = [{"context": "word " * 100, "question": "q", "answers": ["elsewhere"]}]
    questions = Questions(write(tmp_path / "q.parquet", rows), target, 8)
    with pytest.raises(ConfigError, match="no context holds its answer"):
        questions.draw(random.Random(0), 64)


def test_a_text_without_spaces_is_drawn_from_everywhere(tmp_path: Path, target: HFTarget) -> None:
    path = write(tmp_path / "p.parquet", [{"source": "s", "text": "".join(map(str, range(900)))}])
    prose = Prose(path, target, {})
    assert len({prose.draw(random.Random(seed), 20) for seed in range(10)}) > 5
