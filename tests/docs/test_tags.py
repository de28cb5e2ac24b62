"""Every block of the documents that could be executed says whether it is, and if not, why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from code_blocks import Block, TagError, blocks_of, commands_of, script_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_block_of_a_page_is_tagged(page):
    blocks_of(page, ROOT)


def test_most_blocks_are_executed():
    tagged = [block for page in PAGES for block in blocks_of(page, ROOT) if block.mode]
    written_by_a_script = {"docs/transcript.md"}
    mine = [block for block in tagged if block.page not in written_by_a_script]
    assert sum(block.is_executed for block in mine) > len(mine) / 2


def read(tmp_path: Path, text: str) -> list[Block]:
    (tmp_path / "page.md").write_text(text)
    return blocks_of(tmp_path / "page.md", tmp_path)


def test_a_tag_is_read(tmp_path):
    (block,) = read(tmp_path, "A.\n\n<!-- slow, exits 0 1, saves a.py -->\n```python\nx = 1\n```\n")
    assert block == Block(
        "page.md", 5, "python", "x = 1\n", mode="slow", statuses=(0, 1), saves="a.py"
    )
    (block,) = read(tmp_path, "<!-- run, serves 80 81 -->\n```sh\na\nb\n```\n")
    assert (block.mode, block.ports, block.alternatives) == ("run", (80, 81), False)
    (block,) = read(tmp_path, "<!-- run, serves each 80 -->\n```sh\na\nb\n```\n")
    assert (block.ports, block.alternatives) == ((80,), True)
    (block,) = read(tmp_path, "<!-- no-run: needs a GPU -->\n```bash\na\n```\n")
    assert (block.mode, block.reason, block.is_executed) == ("no-run", "needs a GPU", False)


def test_what_a_page_takes_for_granted_is_a_block_too(tmp_path):
    text = "<!-- before sh, serves 80: a b -->\n<!-- before python: x = 1 -->\n"
    assert read(tmp_path, text) == [
        Block("page.md", 1, "sh", "a b\n", "slow", ports=(80,)),
        Block("page.md", 2, "python", "x = 1\n", "slow"),
    ]


def test_other_languages_need_no_tag(tmp_path):
    blocks = read(tmp_path, "```text\na\n```\n\n```json\n{}\n```\n")
    assert [block.mode for block in blocks] == ["", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n```sh\nls\n```\n", "page.md:3: this sh block is not tagged"),
        ("<!-- run -->\n\n```sh\nls\n```\n", "page.md:1: this tag has no block"),
        ("<!-- run -->\n\ntext\n", "page.md:1: this tag has no block"),
        ("```console\n$ ls\n```\n", "page.md:2: this console block is not tagged"),
        ("```\nls\n```\n", "page.md:2: say the language"),
        ("```sh\nls\n", "page.md:1: this fence has no end"),
        ("<!-- no-run -->\n```sh\nls\n```\n", "page.md:3: no-run needs a reason"),
        ("<!-- no-run: -->\n```sh\nls\n```\n", "page.md:3: no-run needs a reason"),
        ("<!-- run, quickly -->\n```sh\nls\n```\n", "page.md:3: 'quickly' is no option"),
        ("<!-- run, saves ../x -->\n```sh\nls\n```\n", "is no option"),
        ("<!-- before ruby: x -->\n", "page.md:1: this is read by nobody"),
        ("<!-- runs -->\n", "page.md:1: this is read by nobody"),
        ("<!-- run -->\n```json\n{}\n```\n", "page.md:3: a json block is never executed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_page_and_line(tmp_path, text, message):
    with pytest.raises(TagError, match=r"^page") as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_commands_keep_their_lines():
    block = Block("page.md", 7, "sh", "# two\na \\\n  b\n\nc  # third\n")
    assert commands_of(block) == [(8, "a \\\n  b"), (11, "c  # third")]


def test_a_console_is_its_prompts():
    block = Block("page.md", 1, "console", "$ echo a\na\n$ echo b\nb\n")
    assert script_of(block) == "echo a\n\necho b\n\n"
