"""A chunk's texts go through a worker in batches of like lengths, each row for itself."""

import pytest
from corpora import SETTINGS, worker
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.corpus.batches import condense_rows, in_batches
from neural_condense_core.corpus.rows import Row
from neural_condense_core.corpus.settings import CorpusSettings
from neural_condense_core.errors import ConfigError, NeuralCondenseError
from neural_condense_core.serving.batching import MAX_PADDING
from neural_condense_core.serving.jobs import BatchTooLargeError
from neural_condense_core.wire.codec import SAFETENSORS


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 512))
def test_each_context_is_in_one_batch_within_budget_and_padding(lengths, budget):
    batches = list(in_batches(dict(enumerate(lengths)), budget))
    assert sorted(index for batch in batches for index in batch) == [*range(len(lengths))]
    for batch in batches:
        sizes = [lengths[index] for index in batch]
        assert len(batch) == 1 or max(sizes) * len(batch) <= budget
        assert len(batch) * max(sizes) ** 2 <= MAX_PADDING * sum(size**2 for size in sizes)


def rows(*texts):
    return [Row(number, str(number), text) for number, text in enumerate(texts)]


def test_every_outcome_is_at_its_row():
    found = condense_rows(
        worker(), rows(b"long text", None, b"a", b"\xff", b"  ", b"x" * 51), SAFETENSORS, 64
    )
    codes = [each.code if isinstance(each, NeuralCondenseError) else "good" for each in found]
    bad = "invalid_request"
    assert codes == ["good", bad, "good", bad, bad, "context_too_long"]
    assert [found[0].n_context_tokens, found[2].n_context_tokens] == [9, 1]


def test_a_batch_that_does_not_fit_into_memory_is_done_one_by_one(monkeypatch):
    loaded = worker()
    sizes = []

    def answer(jobs, real=loaded.answer):
        sizes.append(len(jobs))
        if len(jobs) > 1:
            raise BatchTooLargeError
        return real(jobs)

    monkeypatch.setattr(loaded, "answer", answer)
    found = condense_rows(loaded, rows(b"one", b"two", b"six"), SAFETENSORS, 64)
    assert sizes == [3, 1, 1, 1]
    assert [each.n_context_tokens for each in found] == [3, 3, 3]


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"store_dtype": "int8"}, "--store_dtype must be one of float32, float16"),
        ({"dtype": "int8"}, "--dtype"),
        ({"shard_contexts": 0}, "--shard_contexts must be from 1"),
    ],
)
def test_settings_name_the_flag(flags, match):
    with pytest.raises(ConfigError, match=match):
        CorpusSettings("echo", **flags)


def test_settings_are_compared_by_name():
    kept = SETTINGS.as_json()
    assert SETTINGS.changed_from(kept) == []
    assert SETTINGS.changed_from({**kept, "ratio": 8.0, "dtype": "float32"}) == ["ratio", "dtype"]
