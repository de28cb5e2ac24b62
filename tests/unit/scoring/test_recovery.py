"""What losses mean: R, C, intervals, swapped documents and scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neural_condense_core.constants import TIERS
from neural_condense_core.scoring.recovery import (
    bootstrap,
    content_recovery,
    derangement,
    ratio_of_sums,
    recovery,
    score,
)

LOSSES = hnp.arrays(
    np.float64, st.integers(1, 12), elements=st.floats(0, 1e4, allow_nan=False, width=32)
)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("none", "full", "condensed", "expected"),
    [
        (array(5), array(3), array(5), 0.0),
        (array(5), array(3), array(3), 1.0),
        (array(5), array(3), array(4), 0.5),
        (array(5), array(3), array(6), -0.5),
        (array(10, 1), array(0, 0), array(0, 1), 10 / 11),
        (array(5), array(5), array(4), None),
        (array(5), array(6), array(4), None),
        (array(5), array(4), array(math.nan), None),
        (array(), array(), array(), None),
    ],
)
def test_recovery(none, full, condensed, expected) -> None:
    assert recovery(none, full, condensed, n_target=np.ones_like(full)) == expected


@pytest.mark.parametrize(
    ("own", "other", "full_own", "full_other", "expected"),
    [
        (array(3), array(5), array(3), array(5), 1.0),
        (array(1), array(1), array(3), array(5), 0.0),
        (array(4), array(3), array(3), array(5), -0.5),
        (array(3, 8), array(4, 8), array(1, 1), array(5, 5), 1 / 8),
        (array(3), array(4), array(5), array(5), None),
        (array(3), array(4), array(5), array(4), None),
    ],
)
def test_content_recovery(own, other, full_own, full_other, expected) -> None:
    n_target = np.ones_like(full_own)
    assert content_recovery(own, other, full_own, full_other, n_target=n_target) == expected


def test_ratios_are_of_sums_not_means_of_ratios() -> None:
    # item 1 keeps all of 10 nats, item 2 none of 0.1: the mean of ratios would say 0.5
    found = recovery(array(10, 0.1), array(0, 0), array(0, 0.1), n_target=array(1, 1))
    assert found == pytest.approx(10 / 10.1)


@settings(deadline=None)
@given(LOSSES, st.data())
def test_ends_of_the_scale(full_own, data) -> None:
    gaps = data.draw(
        hnp.arrays(np.float64, full_own.shape, elements=st.floats(0.125, 100, width=32))
    )
    full_other, ones = full_own + gaps, np.ones_like(full_own)
    assert content_recovery(full_own, full_other, full_own, full_other, n_target=ones) == 1.0
    same = data.draw(hnp.arrays(np.float64, full_own.shape, elements=st.floats(0, 1e4, width=32)))
    assert content_recovery(same, same, full_own, full_other, n_target=ones) == 0.0
    assert recovery(full_other, full_own, full_own, n_target=ones) == 1.0
    assert recovery(full_other, full_own, full_other, n_target=ones) == 0.0


@settings(deadline=None)
@given(LOSSES, st.data())
def test_never_infinite_nor_nan(top, data) -> None:
    bottom = data.draw(hnp.arrays(np.float64, top.shape, elements=st.floats(-1e300, 0.0)))
    assert ratio_of_sums(top, bottom) is None
    assert ratio_of_sums(array(1e308), array(1e-3)) is None


def test_style_alone_raises_r_and_not_c() -> None:
    none, full, full_other = array(5.0, 5.0), array(3.0, 3.0), array(5.2, 5.2)
    own = other = array(3.2, 3.2)  # any document's tokens make answers short
    ones = array(1, 1)
    assert recovery(none, full, own, n_target=ones) == pytest.approx(0.9)
    assert content_recovery(own, other, full, full_other, n_target=ones) == 0.0


def test_a_change_below_the_least_has_no_ratio() -> None:
    # 20 target tokens: full texts have to change one nat
    n_target, zero = array(15, 5), array(0, 0)
    for changed, expected in (
        (array(0.7, 0.2), None),
        (array(0.7, 0.4), 0.5),
        (array(-2, 1), None),
    ):
        half = changed / 2
        assert recovery(changed, zero, half, n_target=n_target) == expected
        assert content_recovery(half, changed, zero, changed, n_target=n_target) == expected
    # noise of a tenth of a nat was once worth a C of 100,000
    assert content_recovery(zero, array(0.1, 0), zero, array(2e-6, 0), n_target=n_target) is None


def test_an_interval_over_a_change_below_the_least_is_none() -> None:
    names, ones = list("abcdefgh"), np.ones(8)
    assert bootstrap(0.03 * ones, 0.06 * ones, names, 0, n_target=ones) == (0.5, 0.5)
    assert bootstrap(0.03 * ones, 0.04 * ones, names, 0, n_target=ones) is None
    # where leaving resamples out would move the interval there is none either
    assert bootstrap(ones, np.array([1, *[0.03] * 7]), names, 0, n_target=ones) is None


# bootstrap


def test_bootstrap_is_deterministic_by_seed() -> None:
    rng = np.random.default_rng(7)
    top, bottom = rng.normal(0.4, 0.3, 40), rng.normal(1, 0.1, 40)
    names = [str(i) for i in range(40)]
    first = bootstrap(top, bottom, names, 1, n_target=np.ones(40))
    assert first == bootstrap(top, bottom, names, 1, n_target=np.ones(40))
    assert first != bootstrap(top, bottom, names, 2, n_target=np.ones(40))
    assert first is not None
    low, high = first
    assert low < top.sum() / bottom.sum() < high


def test_bootstrap_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        found = bootstrap(
            rng.normal(0.5, 0.5, 40), np.ones(40), [str(i) for i in range(40)], trial,
            n_target=np.ones(40), n_resamples=400,
        )  # fmt: skip
        assert found is not None
        hits += found[0] <= 0.5 <= found[1]
    assert 175 <= hits <= 199


def test_bootstrap_draws_documents_not_items() -> None:
    rng = np.random.default_rng(0)
    by_document = np.repeat(rng.normal(0.5, 0.5, 8), 20)
    ones = np.ones(160)
    as_documents = bootstrap(
        by_document, ones, [str(i // 20) for i in range(160)], 0, n_target=ones
    )
    as_items = bootstrap(by_document, ones, [str(i) for i in range(160)], 0, n_target=ones)
    assert as_documents is not None
    assert as_items is not None
    assert as_documents[1] - as_documents[0] > 2 * (as_items[1] - as_items[0])


@pytest.mark.parametrize(
    ("top", "bottom", "names"),
    [
        (array(1, 1), array(2, 2), ["a", "a"]),
        (array(1, 1), array(1, -1), ["a", "b"]),
        (array(1, math.nan), array(1, 1), ["a", "b"]),
        (array(), array(), []),
    ],
)
def test_bootstrap_says_none_where_there_is_no_interval(top, bottom, names) -> None:
    assert bootstrap(top, bottom, names, 0, n_target=np.ones_like(top)) is None


# derangement

ITEMS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12345")), max_size=40)


@settings(deadline=None)
@given(ITEMS, st.integers(0, 99))
def test_derangement_swaps_documents_within_sources(items, seed) -> None:
    assume(len({document for _, document in items}) > 1)
    sources, documents = zip(*items, strict=True)
    chosen = derangement(documents, sources, seed)
    assert chosen == derangement(documents, sources, seed)
    for i, j in enumerate(chosen):
        assert documents[j] != documents[i]
        alone = len({d for s, d in items if s == sources[i]}) == 1
        assert alone or sources[j] == sources[i]


@settings(deadline=None)
@given(ITEMS, st.integers(0, 99))
def test_derangement_uses_no_item_twice_where_it_need_not(items, seed) -> None:
    items = [item for item in items if item[0] == "a"]
    counts = [items.count(item) for item in set(items)]
    assume(len(counts) > 1 and 2 * max(counts) <= len(items))
    chosen = derangement([d for _, d in items], [s for s, _ in items], seed)
    assert sorted(chosen) == list(range(len(items)))


def test_a_document_of_two_sources_is_never_its_own_other() -> None:
    documents, sources = ["1", "2", "1", "1"], ["a", "a", "b", "b"]
    assert [documents[j] for j in derangement(documents, sources, 0)] == ["2", "1", "2", "2"]
    with pytest.raises(ValueError, match="two documents"):
        derangement(["1", "1"], ["a", "b"], 0)


def test_derangement_depends_on_the_seed() -> None:
    documents, sources = [str(i) for i in range(20)], ["a"] * 20
    assert derangement(documents, sources, 0) != derangement(documents, sources, 1)


@pytest.mark.parametrize("documents", [[], ["a"], ["a", "a"]])
def test_derangement_needs_two_documents(documents) -> None:
    with pytest.raises(ValueError, match="two documents"):
        derangement(documents, ["s"] * len(documents), 0)


# score


@pytest.mark.parametrize(
    ("c", "elapsed_s", "tier", "expected"),
    [
        (0.5, 0.0, "inference_0", 0.5),
        (0.5, 12.0, "research", 0.5),
        (0.5, 2.0, "inference_0", 0.5 * 0.8),
        (0.5, 4.0, "inference_0", 0.5 * 0.6),
        (0.5, 4.0, "inference_1", 0.5 * 0.4),
        (0.5, 4.001, "inference_1", 0.0),
        (1.7, 0.0, "research", 1.0),
        (-0.2, 0.0, "research", 0.0),
        (None, 0.0, "research", 0.0),
        (math.nan, 0.0, "research", 0.0),
        (0.5, math.nan, "research", 0.0),
        (0.5, -1.0, "inference_0", 0.5),
    ],
)
def test_score(c, elapsed_s, tier, expected) -> None:
    assert score(c, elapsed_s, TIERS[tier]) == pytest.approx(expected)
