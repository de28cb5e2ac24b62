"""The pages do what they say: every block that is tagged run or slow, in a folder of its own.

``make test-docs`` runs this; one page alone: ``make test-docs ARGS="-k quickstart"``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from code_blocks import TagError, blocks_of
from scratch_folder import ROOT, play

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def _is_played(page: Path) -> bool:
    try:
        return any(block.is_executed for block in blocks_of(page, ROOT))
    except TagError:
        return False  # test_tags.py says what is wrong


PLAYED = [page for page in PAGES if _is_played(page)]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("page", PLAYED, ids=lambda path: path.stem)
def test_page(page, tmp_path, embedded_cache):
    failed = play(page, tmp_path, model=embedded_cache)
    if failed is not None:
        pytest.fail(failed, pytrace=False)
