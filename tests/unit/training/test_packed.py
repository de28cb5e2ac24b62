"""Packed folders: what was packed is what is drawn; what is damaged or foreign is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from neural_condense_core.cli import app
from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.data import PROSE_COLUMNS, read_prose, read_questions
from neural_condense_core.training.packed import Ragged, read_pack
from neural_condense_core.training.packing import PackLimits, allot, pack, tokenizer_only

VOCAB = 259


@pytest.fixture(scope="module")
def target(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, dtype="float32")


@pytest.fixture(scope="module")
def recipe(tiny_llama: str) -> Recipe:
    return Recipe(name="r", method="pooled", target_model=tiny_llama)


@pytest.fixture(scope="module")
def folder(
    recipe: Recipe, prose_file: Path, qa_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("packed")
    pack(recipe, prose_file, qa_file, out, PackLimits(1 << 20, 30))
    return out


def test_texts_and_questions_arrive_whole(
    folder: Path, target: HFTarget, prose_file: Path, qa_file: Path
) -> None:
    found = read_pack(folder, target, VOCAB)
    texts = {target.decode(found.documents[i]) for i in range(len(found.documents))}
    assert texts == {row["text"] for row in read_prose(prose_file)}
    rows = read_questions(qa_file)
    assert len(found.given) == len(rows)
    for i, row in enumerate(rows):
        question = found.given[i]
        assert target.decode(question.context_ids) == row["context"]
        assert target.decode(question.answer_ids) == row["answers"][0]
        assert row["question"] in target.decode(question.tail_ids)
        assert (
            target.decode(question.context_ids[: question.answer_at]) + row["answers"][0]
            in (row["context"])
        )
    assert len(found.generated) == 30
    assert set(PROSE_COLUMNS) == {"source", "text"}


def test_ids_take_two_bytes_and_the_size_is_kept(
    recipe: Recipe, prose_file: Path, tmp_path: Path, target: HFTarget
) -> None:
    whole = sum(len(row["text"]) for row in read_prose(prose_file))
    pack(recipe, prose_file, None, tmp_path, PackLimits(whole, 0))  # half of them
    found = read_pack(tmp_path, target, VOCAB)
    assert found.documents.ids.dtype == np.uint16
    assert 0.8 * whole / 2 < found.index.n_prose_tokens <= whole / 2
    with pytest.raises(ConfigError, match="questions alone"):
        pack(recipe, prose_file, None, tmp_path, PackLimits(10, 5))


def test_packing_does_not_change_how_often_a_source_is_drawn(
    recipe: Recipe, prose_file: Path, tmp_path: Path, target: HFTarget
) -> None:
    weighted = replace(recipe, source_weights={"s1": 9.0})
    pack(weighted, prose_file, None, tmp_path, PackLimits(8000, 0))
    found = read_pack(tmp_path, target, VOCAB)
    kept = np.diff(found.documents.starts)
    rare = found.source_of == found.index.sources.index("s0")
    assert kept[rare].sum() < kept[~rare].sum() / 4
    prose = found.prose(weighted.source_weights)
    assert prose is not None
    begins = {int(s): bool(r) for s, r in zip(found.documents.starts, rare, strict=False)}
    assert len(begins) == len(rare)
    shares = prose._cumulative[-1]
    common = sum(
        n * 9 for n, is_rare in zip(found.whole.tolist(), rare.tolist(), strict=True) if not is_rare
    )
    assert common / shares == pytest.approx(0.9, abs=0.02)


def test_draws_are_stretches_of_one_document(folder: Path, target: HFTarget) -> None:
    found = read_pack(folder, target, VOCAB)
    prose = found.prose({})
    assert prose is not None
    texts = [target.decode(found.documents[i]) for i in range(len(found.documents))]
    for seed in range(20):
        drawn = target.decode(prose.draw(random.Random(seed), 60))
        assert any(drawn in text for text in texts)
    with pytest.raises(ConfigError, match="no stretch"):
        prose.draw(random.Random(0), 100_000)


def test_a_large_vocabulary_takes_four_bytes() -> None:
    assert Ragged.of([[70_000]], 100_000).ids.dtype == np.uint32
    assert Ragged.of([], 300).ids.dtype == np.uint16


def _spoil(name: str, change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return spoil


def _edit_index(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "pack.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def _foreign_id(tensors: dict[str, np.ndarray]) -> None:
    tensors["ids"][3] = VOCAB


def _disorder(tensors: dict[str, np.ndarray]) -> None:
    tensors["starts"][1] = 1 << 40


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil("prose.safetensors", _foreign_id), "holds the id 259"),
        (_spoil("prose.safetensors", _disorder), "do not follow"),
        (_spoil("prose.safetensors", lambda t: t.pop("whole")), "must hold"),
        (_spoil("prose.safetensors", lambda t: t.update(sources=t["sources"] + 9)), "out of range"),
        (_spoil("questions.safetensors", lambda t: t.update(context_of=t["context_of"] + 99)),
         "out of range"),
        (_spoil("questions.safetensors", lambda t: t.update(answer_at=t["answer_at"][1:])),
         "not as it says"),
        (_edit_index(n_questions=3), "not as it says"),
        (_edit_index(prompts="0" * 64), "Pack again"),
        (_edit_index(schema=9), "schema 9"),
        (_edit_index(sources=None), "not the index"),
        (lambda folder: (folder / "prose.safetensors").write_bytes(b"{}" * 9), "damaged"),
        (lambda folder: (folder / "questions.safetensors").unlink(), "no packed folder"),
        (lambda folder: (folder / "pack.json").unlink(), "no packed folder"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_foreign_is_refused(
    folder: Path,
    target: HFTarget,
    tmp_path: Path,
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=message):
        read_pack(tmp_path, target, VOCAB)


def test_another_tokenizer_is_refused(folder: Path, tiny_models: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        read_pack(folder, load_target(tiny_models["gemma"], dtype="float32"), VOCAB)


def test_only_the_tokenizer_is_loaded(tiny_llama: str, target: HFTarget) -> None:
    light = tokenizer_only(tiny_llama)
    assert all(parameter.is_meta for parameter in light.model.parameters())
    assert light.tokenize("a b") == target.tokenize("a b")
    with pytest.raises(ConfigError, match="cannot load the tokenizer"):
        tokenizer_only("no/such/model")


@pytest.mark.parametrize(
    ("lengths", "weights", "total", "expected"),
    [
        ([10, 10], [1, 1], 10, [5, 5]),
        ([10, 10], [4, 1], 10, [8, 2]),
        ([10, 30], [9, 1], 24, [10, 14]),
        ([10, 30], [1, 1], 99, [10, 30]),
        ([10, 30], [0, 1], 5, [0, 5]),
        ([], [], 5, []),
    ],
)
def test_shares_follow_weights_up_to_the_whole(
    lengths: list[int], weights: list[float], total: int, expected: list[float]
) -> None:
    assert allot(lengths, weights, total) == pytest.approx(expected)


def test_the_command(tiny_llama: str, prose_file: Path, qa_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'name = "r"\nmethod = "pooled"\ntarget_model = "{tiny_llama}"\n')
    out = tmp_path / "packed"
    line = ["pack", str(path), "--out", str(out), "--generated", "5", "--json", "-"]
    done = CliRunner().invoke(app, [*line, "--prose", str(prose_file), "--qa", str(qa_file)])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["n_questions"], summary["n_generated"]) == (4, 5)
    empty = CliRunner().invoke(app, line)
    assert empty.exit_code == 2
    assert "nothing to pack" in empty.stderr
