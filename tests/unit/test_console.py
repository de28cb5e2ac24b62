"""Reading texts and writing JSON."""

from __future__ import annotations

import io
import json
import sys

import pytest

from neural_condense_core import console
from neural_condense_core.console import check_writable, read_text, write_bytes, write_json
from neural_condense_core.errors import ConfigError


def test_reads_a_file_as_it_is(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo é".encode())
    assert read_text(str(path)) == "one\r\ntwo é"


def test_reads_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello")))
    assert read_text("-") == "hello"


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "no text"), (b" \n\t", "no text"), (b"ab\xff", "byte 2")],
)
def test_what_is_no_text_is_an_error(tmp_path, content, said):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_text(str(path))


def test_a_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="directory"):
        read_text(str(tmp_path))


def test_json_goes_where_it_should(tmp_path, capsys):
    payload = {"a": [1, "é"]}
    write_json(None, payload)
    assert capsys.readouterr().out == ""
    write_json("-", payload)
    assert json.loads(capsys.readouterr().out) == payload
    write_json(str(tmp_path / "out.json"), payload)
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == payload


def test_json_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot write"):
        write_json(str(tmp_path / "no" / "out.json"), {})


def test_json_holds_no_nan():
    with pytest.raises(ValueError, match="JSON"):
        write_json("-", {"a": float("nan")})


def test_bytes_go_where_they_should(tmp_path, capfdbinary):
    write_bytes("-", b"\x00\xff\r\n")
    assert capfdbinary.readouterr().out == b"\x00\xff\r\n"
    write_bytes(str(tmp_path / "out"), b"\xff")
    assert (tmp_path / "out").read_bytes() == b"\xff"


def test_what_can_be_written_is_neither_made_nor_changed(tmp_path):
    (tmp_path / "old").write_text("as it was")
    for path in (None, "-", "/dev/null", str(tmp_path / "new"), tmp_path / "old"):
        check_writable(path)
    assert (tmp_path / "old").read_text() == "as it was"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "it is a folder"),
        ("no/out.json", "no is not a folder"),
        ("file/out.json", "file is not a folder"),
        ("locked", "permission denied"),
        ("shut/out.json", "permission denied"),
    ],
)
def test_what_cannot_be_written_is_an_error(tmp_path, monkeypatch, path, said):
    (tmp_path / "file").touch()
    (tmp_path / "locked").touch()
    (tmp_path / "shut").mkdir()
    denied = {tmp_path / "locked", tmp_path / "shut"}  # a superuser may write anywhere
    monkeypatch.setattr(console.os, "access", lambda where, mode: where not in denied)
    with pytest.raises(ConfigError, match=said):
        check_writable(str(tmp_path / path))
