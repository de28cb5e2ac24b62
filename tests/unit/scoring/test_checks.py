"""What is wrong with a matrix, and who copied whom; on a real embedding table of a tiny model."""

import numpy as np
import pytest

from neural_condense_core.scoring.checks import (
    MAX_NORM,
    MIN_NORM,
    EmbeddingTable,
    check_matrix,
    find_copies,
)
from neural_condense_core.wire.scoring import ReplyRef

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def target(tiny_llama):
    from neural_condense_core.llm.hf import load_target

    return load_target(tiny_llama, "cpu", "float32")


@pytest.fixture(scope="module")
def vocabulary(target):
    return EmbeddingTable(target)


def rows(n=5, hidden=64, norm=1.0, mean=1.0, seed=0):
    found = np.random.default_rng(seed).standard_normal((n, hidden))
    found *= norm * mean / np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)


def test_the_table_is_the_model_s(target, vocabulary):
    table = target.embed(range(259))
    assert vocabulary.mean_norm == pytest.approx(float(np.linalg.norm(table, axis=1).mean()))
    assert vocabulary.contains(table).all()
    assert vocabulary.contains(table.astype(np.float16).astype(np.float32)).all()
    assert not vocabulary.contains(rows(mean=vocabulary.mean_norm)).any()
    assert not vocabulary.contains(table[3:6] * 1.1).any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_codes(vocabulary, dtype):
    mean = vocabulary.mean_norm
    good = rows(mean=mean).astype(dtype)
    nan, inf = good.copy(), good.copy()
    nan[4, 63], inf[0, 0] = np.nan, -np.inf
    cases = {
        "ok": [good, good[:1], rows(norm=0.31, mean=mean), rows(norm=2.9, mean=mean)],
        "shape": [good[0], good[None], good[:0], good[:, :0], np.float32(1).reshape(())],
        "too_many_tokens": [rows(9)],
        "wrong_width": [good[:, :63], rows(hidden=65)],
        "not_finite": [nan, inf],
        "norm": [rows(norm=0.29, mean=mean), rows(norm=3.1, mean=mean), np.full((2, 64), 1e-6)],
    }
    found = {
        code: [check_matrix(matrix, vocabulary, 64, 8) for matrix in matrices]
        for code, matrices in cases.items()
    }
    assert found == {code: [code] * len(matrices) for code, matrices in cases.items()}


def test_the_largest_numbers_there_are_do_not_overflow(vocabulary):
    huge = np.full((2, 64), np.finfo(np.float32).max, np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert check_matrix(huge[:, :64] / 1e30, vocabulary, 64, 8) == "norm"
    assert check_matrix(huge, vocabulary, 64, 8) == "norm"


def test_an_embedding_of_the_model_is_fine_at_any_length(target):
    class Rescaled(EmbeddingTable):
        mean_norm = 1000.0

    table = target.embed(range(10, 14))
    vocabulary = Rescaled(target)
    assert check_matrix(table, vocabulary, 64, 8) == "ok"
    assert check_matrix(np.concatenate([table, rows(1)]), vocabulary, 64, 8) == "norm"


def test_limits_are_inclusive(vocabulary):
    mean = vocabulary.mean_norm
    assert check_matrix(rows(8, mean=mean), vocabulary, 64, 8) == "ok"
    for limit in (MIN_NORM * 1.001, MAX_NORM * 0.999):
        assert check_matrix(rows(norm=limit, mean=mean), vocabulary, 64, 8) == "ok"


def copies(vocabulary, *replies):
    refs = [ReplyRef(id=f"r{i}", miner=m, challenge=c) for i, (m, c, _) in enumerate(replies)]
    matrices = {f"r{i}": matrix for i, (_, _, matrix) in enumerate(replies)}
    return find_copies(refs, matrices, vocabulary)


def test_who_copied_whom(vocabulary):
    one, two = rows(20, seed=1), rows(20, seed=2)
    noisy = one + 0.01 * one.std() * RNG.standard_normal(one.shape).astype(np.float32)
    assert copies(vocabulary, ("a", "c", one), ("b", "c", one)) == {"r1"}
    assert copies(vocabulary, ("a", "c", one), ("b", "c", noisy)) == {"r1"}
    assert copies(vocabulary, ("a", "c", one), ("b", "c", 2 * one[::-1])) == {"r1"}
    assert copies(vocabulary, ("a", "c", one), ("b", "c", one[:15])) == {"r1"}
    assert copies(vocabulary, ("a", "c", one), ("b", "c", two)) == set()
    assert copies(vocabulary, ("a", "c", one), ("b", "d", one)) == set()
    assert copies(vocabulary, ("a", "c", one), ("a", "c", one)) == set()
    half = np.concatenate([one[:10], two[:10]])
    assert copies(vocabulary, ("a", "c", one), ("b", "c", half)) == set()


def test_selected_tokens_are_nobody_s(target, vocabulary):
    selected = target.embed(range(3, 23))
    assert copies(vocabulary, ("a", "c", selected), ("b", "c", selected)) == set()
    mixed = np.concatenate([selected, rows(4, seed=3)])
    assert copies(vocabulary, ("a", "c", mixed), ("b", "c", mixed)) == {"r1"}


def test_replies_without_a_matrix_are_passed_over(vocabulary):
    refs = [ReplyRef(id=f"r{i}", miner=f"m{i}", challenge="c") for i in range(3)]
    matrices = {"r0": rows(), "r2": rows()}
    assert find_copies(refs, matrices, vocabulary) == {"r2"}
