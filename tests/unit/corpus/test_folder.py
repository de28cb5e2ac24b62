"""A corpus's folder: killed at any moment, gone on with, and never half or twice."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpora import MADE_BY, SETTINGS, condense, write_texts

from neural_condense_core.condensers.echo import read_echo
from neural_condense_core.corpus import folder as folder_module
from neural_condense_core.corpus import read
from neural_condense_core.corpus.folder import CorpusFolder
from neural_condense_core.corpus.settings import CorpusSettings, InputFile, MadeBy
from neural_condense_core.errors import ConfigError, CorpusError

TEXTS = ["one", "two two", None, "  ", "x" * 51, "six", "seven", "eight", "nine", "ten"]
GOOD = {str(row): text for row, text in enumerate(TEXTS) if row not in {2, 3, 4}}


@pytest.fixture
def source(tmp_path):
    return write_texts(tmp_path / "in.parquet", TEXTS)


def echoed(out, **kwargs):
    return {id_: read_echo(tokens).decode() for id_, tokens in read(out, **kwargs)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_corpus_reads_back_and_errors_stand_apart(source, tmp_path):
    out = tmp_path / "out"
    assert condense(source, out) == 4
    assert echoed(out) == GOOD
    assert pq.read_table(out / "errors.parquet").to_pylist() == [
        {"id": "2", "row": 2, "reason": "invalid_request", "message": "the text is null"},
        {"id": "3", "row": 3, "reason": "invalid_request", "message": "the text is empty"},
        {
            "id": "4", "row": 4, "reason": "context_too_long",
            "message": "the context has 51 tokens and at most 50 are served; split it",
        },
    ]  # fmt: skip
    index = pq.read_table(out / "index.parquet").to_pylist()
    assert index[1] == {
        "id": "1", "row": 1, "shard": "shard-000000.safetensors", "tensor": "000000000001",
        "n_context_tokens": 7, "n_condensed_tokens": 2,
    }  # fmt: skip
    assert not (out / "parts").exists()
    assert json.loads((out / "corpus.json").read_text())["complete"]


def test_tokens_carry_everything(source, tmp_path):
    condense(source, tmp_path / "out")
    (_, tokens), *_ = read(tmp_path / "out", ids=["1"])
    assert tokens.target_model == "echo"
    assert tokens.checkpoint == "echo"
    assert tokens.n_context_tokens == 7
    assert tokens.positions.dtype == np.int64
    assert len(tokens.positions) == tokens.n_condensed_tokens == 2


def test_a_second_run_goes_on_and_makes_the_same_files(source, tmp_path):
    condense(source, tmp_path / "whole")
    out = tmp_path / "out"
    assert condense(source, out, at_most=2, finish=False) == 2
    with pytest.raises(CorpusError, match="not finished"):
        next(read(out))
    assert condense(source, out) == 2
    assert condense(source, out) == 0
    assert names(out) == names(tmp_path / "whole")
    for name in names(out):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("at", range(15))
def test_killed_at_any_rename_nothing_is_lost_or_doubled(source, tmp_path, monkeypatch, at):
    out = tmp_path / "out"
    left = [at]

    def settle(path, real=folder_module._settle):
        if left[0] == 0:
            raise KilledError
        left[0] -= 1
        real(path)

    monkeypatch.setattr(folder_module, "_settle", settle)
    try:
        condense(source, out)
    except KilledError:
        left[0] = -1
        condense(source, out)
    assert echoed(out) == GOOD
    assert not list(out.rglob("*.tmp"))


def test_a_shard_that_was_taken_away_is_made_again(source, tmp_path):
    out = tmp_path / "out"
    condense(source, out, at_most=3, finish=False)
    (out / "shard-000002.safetensors").unlink()
    with (out / "shard-000000.safetensors").open("ab") as file:
        file.write(b"more")
    assert condense(source, out) == 3
    assert echoed(out) == GOOD


@pytest.mark.parametrize(
    "changed",
    [{"ratio": 8.0}, {"store_dtype": "float32"}, {"max_context_tokens": 51}, {"shard_contexts": 4}],
)
def test_other_settings_are_refused_and_named(source, tmp_path, changed):
    out = tmp_path / "out"
    condense(source, out, at_most=1, finish=False)
    others = CorpusSettings(**{**SETTINGS.as_json(), **changed})
    with pytest.raises(ConfigError, match=f"begun with --{next(iter(changed))}"):
        condense(source, out, others)


def test_another_file_is_refused(source, tmp_path):
    condense(source, tmp_path / "out", at_most=1, finish=False)
    other = write_texts(tmp_path / "other.parquet", [*TEXTS[:-1], "tenth"])
    with pytest.raises(ConfigError, match="another file of texts"):
        condense(other, tmp_path / "out")


def test_a_moved_file_is_the_same_file(source, tmp_path):
    condense(source, tmp_path / "out", at_most=1, finish=False)
    moved = source.rename(tmp_path / "moved.parquet")
    assert condense(moved, tmp_path / "out") == 3


def test_other_weights_are_refused(source, tmp_path):
    out = tmp_path / "out"
    condense(source, out, at_most=1, finish=False)
    with CorpusFolder.opened(out, SETTINGS, InputFile.of(source)) as folder:
        folder.admit(MADE_BY)
        with pytest.raises(CorpusError, match="revision '0123'"):
            folder.admit(MadeBy("echo", "echo", 64, 4.0, "4567"))


def test_one_writer_at_a_time(source, tmp_path):
    out = tmp_path / "out"
    taken = CorpusFolder.opened(out, SETTINGS, InputFile.of(source))
    with taken, pytest.raises(ConfigError, match="another process writes"):
        condense(source, out)


def test_a_folder_with_something_else_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        condense(source, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]


def test_a_damaged_shard_is_noticed(source, tmp_path):
    out = tmp_path / "out"
    condense(source, out)
    shard = out / "shard-000002.safetensors"
    body = bytearray(shard.read_bytes())
    body[-1] ^= 1
    shard.write_bytes(body)
    with pytest.raises(CorpusError, match="SHA-256 differs"):
        echoed(out)
    assert len(echoed(out, verify=False)) == len(GOOD)
    shard.write_bytes(b"")
    with pytest.raises(CorpusError, match="damaged at 'shard-000002"):
        echoed(out, verify=False)


def test_some_ids_can_be_read_and_unknown_ones_are_named(source, tmp_path):
    condense(source, tmp_path / "out")
    assert echoed(tmp_path / "out", ids=["9", "0"]) == {"0": "one", "9": "ten"}
    with pytest.raises(CorpusError, match="does not hold 'nobody'"):
        echoed(tmp_path / "out", ids=["0", "nobody"])


def test_what_is_no_corpus_says_so(tmp_path):
    with pytest.raises(CorpusError, match="holds no corpus"):
        next(read(tmp_path))
