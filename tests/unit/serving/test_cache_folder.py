import os
import time

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.serving import cache_folder
from neural_condense_core.serving.cache_folder import AnswerFolder, pack, unpack
from neural_condense_core.serving.jobs import Answer

BLOCK = 4096
KEYS = [bytes([number]) * 32 for number in range(8)]


def answer(body=b"body"):
    return Answer(body, {"Content-Type": "application/x-npy"}, 8, 2)


def file_of(folder, number):
    return folder.path / f"{KEYS[number].hex()}.answer"


@pytest.fixture
def folder(tmp_path):
    return AnswerFolder(tmp_path / "cache", 3 * BLOCK)


def test_an_answer_survives_and_nothing_else_lies_there(folder):
    folder.write(KEYS[1], answer())
    found = folder.read(KEYS[1])
    assert (found.body, found.headers, found.n_context_tokens, found.n_condensed_tokens) == (
        b"body", {"Content-Type": "application/x-npy"}, 8, 2
    )  # fmt: skip
    assert [path.name for path in folder.path.iterdir()] == [file_of(folder, 1).name]
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert file_of(folder, 1).stat().st_mode & 0o777 == 0o600
    assert folder.read(KEYS[2]) is None


WHOLE = b"".join(pack(KEYS[1], answer()))


@pytest.mark.parametrize("at", range(0, len(WHOLE), 7))
def test_a_file_that_changed_anywhere_is_removed(folder, at):
    raw = bytearray(WHOLE)
    raw[at] ^= 1
    file_of(folder, 1).write_bytes(raw)
    assert folder.read(KEYS[1]) is None
    assert not file_of(folder, 1).exists()


@pytest.mark.parametrize("length", [0, 5, 18, 40, 53, 54, len(WHOLE) - 1])
def test_a_file_that_is_cut_off_is_removed(folder, length):
    file_of(folder, 1).write_bytes(WHOLE[:length])
    assert folder.read(KEYS[1]) is None
    assert not file_of(folder, 1).exists()


def test_a_file_under_another_name_is_removed(folder):
    file_of(folder, 2).write_bytes(WHOLE)
    assert folder.read(KEYS[2]) is None
    assert not file_of(folder, 2).exists()


@pytest.mark.parametrize(
    "fault",
    [
        {"headers": {"A": "x\r\nSet-Cookie: y"}},
        {"headers": {"A\n": "x"}},
        {"headers": ["A"]},
        {"headers": {"A": 1}},
        {"n_context_tokens": "8"},
        {"n_context_tokens": 0},
        {"n_condensed_tokens": True},
        {"more": 1},
    ],
)
def test_fields_of_another_kind_are_refused(fault, monkeypatch):
    real = cache_folder.orjson.dumps
    monkeypatch.setattr(cache_folder.orjson, "dumps", lambda fields: real({**fields, **fault}))
    assert unpack(b"".join(pack(KEYS[1], answer())), KEYS[1]) is None


def test_the_oldest_used_go_first_and_the_bound_holds(tmp_path):
    folder = AnswerFolder(tmp_path / "cache", 4 * BLOCK)
    for number in range(4):
        folder.write(KEYS[number], answer())
        os.utime(file_of(folder, number), (1000 + number, 1000 + number))
    assert folder.read(KEYS[0]) is not None  # used now
    folder.write(KEYS[4], answer())
    left = [file_of(folder, number).exists() for number in range(5)]
    assert left[0]
    assert left[4]
    assert not left[1]
    assert sum(left) <= 4
    assert folder.n_bytes <= 4 * BLOCK


def test_an_answer_that_never_fits_is_not_written(folder):
    folder.write(KEYS[1], answer(bytes(3 * BLOCK)))
    assert list(folder.path.iterdir()) == []


def test_what_was_there_counts_and_is_cut_to_a_smaller_bound(folder):
    for number in range(3):
        folder.write(KEYS[number], answer())
    again = AnswerFolder(folder.path, BLOCK)
    assert again.n_bytes <= BLOCK
    assert len(list(folder.path.iterdir())) <= 1


def test_files_that_are_not_ours_stay(folder):
    others = [folder.path / "notes.txt", folder.path / "a.answer", folder.path / "b.part"]
    for path in others:
        path.write_bytes(bytes(10 * BLOCK))
    (folder.path / "deeper").mkdir()
    for number in range(8):
        folder.write(KEYS[number], answer())
    AnswerFolder(folder.path, BLOCK)
    assert all(path.exists() for path in others)


def test_files_that_were_never_finished_go_after_a_while(folder):
    stem = KEYS[1].hex()
    fresh, stale = (folder.path / f"{stem}.1.{number}.part" for number in (1, 2))
    for path in (fresh, stale):
        path.write_bytes(b"x")
    long_ago_s = time.time() - 2 * cache_folder.STALE_PART_S
    os.utime(stale, (long_ago_s, long_ago_s))
    AnswerFolder(folder.path, BLOCK)
    assert (fresh.exists(), stale.exists()) == (True, False)


def test_links_and_pipes_are_not_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(WHOLE)
    file_of(folder, 1).symlink_to(elsewhere)
    os.mkfifo(file_of(folder, 2))
    assert folder.read(KEYS[1]) is None
    assert folder.read(KEYS[2]) is None
    assert elsewhere.read_bytes() == WHOLE


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o707])
def test_a_folder_that_others_can_look_into_is_refused(tmp_path, mode):
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 700"):
        AnswerFolder(path, BLOCK)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        AnswerFolder(tmp_path / "file" / "cache", BLOCK)


def test_a_disk_that_fails_is_said_once_and_nothing_breaks(folder, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_folder.os, "open", full)
    for number in range(3):
        folder.write(KEYS[number], answer())
        assert folder.read(KEYS[number]) is None
    assert caplog.text.count("No space left") == 1


def test_a_write_that_breaks_off_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(cache_folder.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5)))
    folder.write(KEYS[1], answer())
    assert list(folder.path.iterdir()) == []


def test_several_folders_on_one_path_see_each_other(folder):
    other = AnswerFolder(folder.path, 3 * BLOCK)
    folder.write(KEYS[1], answer(b"first"))
    assert other.read(KEYS[1]).body == b"first"
