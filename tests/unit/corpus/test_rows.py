"""A file of texts is planned the same every time and read a chunk at a time."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import SETTINGS, write_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_condense_core.corpus import rows as rows_module
from neural_condense_core.corpus.rows import Chunk, RowReader, plan
from neural_condense_core.corpus.settings import CorpusSettings, InputFile
from neural_condense_core.errors import ConfigError


def read_all(path, corpus_settings, chunks):
    reader = RowReader(path, corpus_settings)
    found = [row for chunk in chunks for row in reader.read(chunk)]
    reader.close()
    return found


@settings(max_examples=25, deadline=None)
@given(
    n_rows=st.integers(1, 40), group=st.integers(1, 11), shard=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_every_row_is_in_one_chunk_and_read_as_it_is(tmp_path_factory, n_rows, group, shard, order):
    texts = [f"text {row}" for row in range(n_rows)]
    path = write_texts(tmp_path_factory.mktemp("rows") / "in.parquet", texts, group=group)
    wanted = CorpusSettings("echo", shard_contexts=shard)
    chunks = plan(path, wanted)
    assert [chunk.start for chunk in chunks[1:]] == [chunk.end for chunk in chunks[:-1]]
    assert (chunks[0].start, chunks[-1].end) == (0, n_rows)
    assert max(map(len, chunks)) <= shard
    order.shuffle(chunks)
    found = sorted(read_all(path, wanted, chunks), key=lambda row: row.number)
    assert [(row.number, row.id, row.text.decode()) for row in found] == [
        (row, str(row), text) for row, text in enumerate(texts)
    ]


def test_a_chunk_ends_at_so_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "SHARD_TEXT_BYTES", 10)
    path = write_texts(tmp_path / "in.parquet", ["12345", "12345", "1", "x" * 99, "1"])
    wanted = CorpusSettings("echo")
    assert plan(path, wanted) == [Chunk(0, 0, 2), Chunk(1, 2, 3), Chunk(2, 3, 4), Chunk(3, 4, 5)]


def test_an_empty_file_has_no_chunk(tmp_path):
    assert plan(write_texts(tmp_path / "in.parquet", []), SETTINGS) == []


@pytest.mark.parametrize("ids", [["a", "b", "c"], [7, 8, 9]])
def test_ids_are_those_of_the_file(tmp_path, ids):
    path = write_texts(tmp_path / "in.parquet", ["1", "2", "3"], ids=ids)
    wanted = CorpusSettings("echo", id_column="key")
    assert [row.id for row in read_all(path, wanted, plan(path, wanted))] == [*map(str, ids)]


def test_dictionary_columns_are_read_too(tmp_path):
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"text": column}), tmp_path / "in.parquet")
    chunks = plan(tmp_path / "in.parquet", SETTINGS)
    found = read_all(tmp_path / "in.parquet", SETTINGS, chunks)
    assert [row.text for row in found] == [b"a", b"b", b"a"]


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (["a", "b", "a"], "1 ids more than once, 'a'"),
        (["a", None, "b"], "1 null ids"),
        ([1.5, 2.5, 3.5], "ids are text or integers"),
    ],
)
def test_ids_that_identify_nothing_are_refused(tmp_path, ids, match):
    path = write_texts(tmp_path / "in.parquet", ["1", "2", "3"], ids=ids)
    with pytest.raises(ConfigError, match=match):
        plan(path, CorpusSettings("echo", id_column="key"))


def test_ids_that_only_share_a_hash_are_not_doubled(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.setattr(rows_module, "_hashes", lambda ids: np.zeros(len(ids), np.uint64))
    path = write_texts(tmp_path / "in.parquet", ["1", "2"], ids=["a", "b"])
    assert len(plan(path, CorpusSettings("echo", id_column="key"))) == 1


@pytest.mark.parametrize("flags", [{"text_column": "body"}, {"id_column": "key"}])
def test_a_missing_column_is_named_with_those_there_are(tmp_path, flags):
    path = write_texts(tmp_path / "in.parquet", ["1"])
    with pytest.raises(ConfigError, match=r"no column '(body|key)'; it has text"):
        plan(path, CorpusSettings("echo", **flags))


def test_texts_must_be_text(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match="int64, and text is needed"):
        plan(tmp_path / "in.parquet", SETTINGS)


@pytest.mark.parametrize("body", [None, b"no parquet", b""])
def test_what_is_no_parquet_is_a_configuration_error(tmp_path, body):
    path = tmp_path / "in.parquet"
    if body is not None:
        path.write_bytes(body)
    with pytest.raises(ConfigError, match="cannot read"):
        InputFile.of(path)
