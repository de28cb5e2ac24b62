"""Sizes, names and words of the source tree."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("neural_condense_core", "services", "tests", "benchmarks", "docs")
PYTHON_FILES = sorted(
    path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
)
MODULES = [path for path in PYTHON_FILES if path.parts[0] in ("neural_condense_core", "services")]
MAX_LINES = 400
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}
LEFT_OVER = re.compile(r"\b(?:TODO|FIXME|XXX|HACK|lorem ipsum)\b")
MACHINE_PATH = re.compile(r"(?<![\w.}$/])/(?:root|home|work|Users|tmp/w)/\w")


def test_the_lists_are_not_empty():
    assert len(MODULES) > 20


def test_no_file_is_longer_than_a_reader_can_hold():
    lengths = {str(path): len((ROOT / path).read_bytes().splitlines()) for path in PYTHON_FILES}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_no_package_has_a_vague_name():
    parts = {part for path in MODULES for part in path.parent.parts}
    assert parts & (VAGUE | {"core", "base"}) == set()


def test_no_module_has_a_vague_name():
    assert [str(path) for path in MODULES if path.stem in VAGUE | {"core"}] == []


def test_no_module_is_named_after_one_of_the_standard_library():
    names = set(sys.stdlib_module_names) - {"__init__", "__main__"}
    assert [str(path) for path in MODULES if path.stem in names] == []


def test_every_package_says_what_it_is():
    packages = [path for path in MODULES if path.name == "__init__.py"]
    assert [str(path) for path in packages if not (ROOT / path).read_text().startswith('"')] == []


@pytest.mark.parametrize("pattern", [LEFT_OVER, MACHINE_PATH], ids=["left over", "machine path"])
def test_nothing_unfinished_or_local_is_left(pattern):
    this = Path(__file__).resolve()
    texts = [path for path in (ROOT / p for p in PYTHON_FILES) if path != this]
    texts += [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "Makefile"]
    found = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in texts
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_the_patterns_find_what_they_are_for():
    assert LEFT_OVER.search("# TODO" + ": later")
    assert MACHINE_PATH.search("cd /home/someone")
    assert not MACHINE_PATH.search("https://example.com/home/page")
