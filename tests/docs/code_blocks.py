"""Fenced blocks of a page with their tags: what is executed, how, and what is not and why.

A block of a language in ``TAGGED`` has an HTML comment on the line above its fence, which no
renderer shows:

    <!-- run -->                    executed; seconds, and no model is loaded
    <!-- slow -->                   executed; loads a model, or waits for something
    <!-- no-run: why not -->        not executed

Behind ``run`` and ``slow``, with commas between:

    serves 8080 8089     each command of the block is a service that stays, on these ports in order
    serves each 8080     they are alternatives: each is started and ended, the last one stays
    exits 1              that the block's last command ends with; of several any
    saves my_module.py   the code is also written to this file, as the text asks the reader to

What a page takes for granted (a file of the reader's, a backend that runs) is a line of its own, as
unseen, and executed where it stands:

    <!-- before sh: echo A text. > note.txt -->
    <!-- before python: document = "A text." -->
    <!-- before sh, serves 8080: condense serve -->
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

SHELLS = frozenset({"sh", "bash", "console"})
TAGGED = SHELLS | {"python"}

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>[^`]*)$")
_TAG = re.compile(r"^ *<!-- (?P<mode>run|slow|no-run)(?P<rest>[:, ].*)? -->$")
_LIKE_A_TAG = re.compile(r"^ *<!-- *(?:run|slow|no-?run|before)")
_BEFORE = re.compile(
    r"^<!-- before (?P<language>sh|python)(?:, (?P<option>serves [0-9]+))?: (?P<code>.+) -->$"
)


class TagError(ValueError):
    """A block's tag is missing or cannot be read; the message begins with page and line."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Parameters
    ----------
    page, line : where its first line of code is, counted from 1
    language : of the info string
    code : what is inside
    mode : ``"run"``, ``"slow"``, ``"no-run"``; empty for a language that is never executed
    reason : why it is not executed
    ports : of the services that it starts, one a command
    alternatives : whether these are started in turns on one port
    statuses : that the last command may end with
    saves : name of a file that gets the code; empty = none
    """

    page: str
    line: int
    language: str
    code: str
    mode: str = ""
    reason: str = ""
    ports: tuple[int, ...] = ()
    alternatives: bool = False
    statuses: tuple[int, ...] = (0,)
    saves: str = ""

    @property
    def place(self) -> str:
        """Where it is, as an editor takes it."""
        return f"{self.page}:{self.line}"

    @property
    def is_executed(self) -> bool:
        """Whether the tag asks for it."""
        return self.mode in {"run", "slow"}


def blocks_of(page: Path, root: Path) -> list[Block]:
    """Return a page's fenced blocks in their order.

    A fence without a language or an end, and a tag that is missing, wrong or above nothing, is a
    ``TagError``.

    Parameters
    ----------
    page : a Markdown file
    root : what its name in messages is relative to
    """
    name = page.relative_to(root).as_posix()
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    i = 0
    while i < len(lines):
        opening = _FENCE.match(lines[i])
        if opening is None:
            _refuse_stray_tag(lines, i, name)
            if before := _BEFORE.match(lines[i]):
                block = Block(name, i + 1, before["language"], f"{before['code']}\n", "slow")
                found.append(_with_option(block, before["option"]) if before["option"] else block)
            i += 1
            continue
        end = _end_of(lines, i, opening, name)
        indent = len(opening["indent"])
        code = "".join(f"{line[indent:]}\n" for line in lines[i + 1 : end])
        block = Block(name, i + 2, opening["info"].strip(), code)
        found.append(_tagged(block, lines[i - 1] if i else ""))
        i = end + 1
    return found


def _end_of(lines: list[str], start: int, opening: re.Match[str], name: str) -> int:
    closing = opening["indent"] + opening["ticks"]
    for i in range(start + 1, len(lines)):
        if lines[i].rstrip() == closing:
            return i
    raise TagError(f"{name}:{start + 1}: this fence has no end")


def _refuse_stray_tag(lines: list[str], i: int, name: str) -> None:
    if _TAG.match(lines[i]) and not (i + 1 < len(lines) and _FENCE.match(lines[i + 1])):
        raise TagError(f"{name}:{i + 1}: this tag has no block on the next line")
    if _LIKE_A_TAG.match(lines[i]) and not _TAG.match(lines[i]) and not _BEFORE.match(lines[i]):
        raise TagError(f"{name}:{i + 1}: this is read by nobody; how tags are spelt: {__name__}.py")


def _tagged(block: Block, above: str) -> Block:
    if not block.language:
        raise TagError(f"{block.place}: say the language of this block; 'text' will do")
    tag = _TAG.match(above)
    if tag is None:
        if block.language in TAGGED:
            raise TagError(
                f"{block.place}: this {block.language} block is not tagged; put <!-- run -->, "
                "<!-- slow --> or <!-- no-run: REASON --> on the line above it"
            )
        return block
    if block.language not in TAGGED:
        raise TagError(f"{block.place}: a {block.language} block is never executed; no tag, please")
    rest = tag["rest"] or ""
    if tag["mode"] == "no-run":
        reason = rest.removeprefix(":").strip()
        if not rest.startswith(":") or len(reason) < 5:
            raise TagError(f"{block.place}: no-run needs a reason: <!-- no-run: REASON -->")
        return replace(block, mode="no-run", reason=reason)
    block = replace(block, mode=tag["mode"])
    for option in filter(None, (part.strip() for part in rest.split(","))):
        block = _with_option(block, option)
    return block


def _with_option(block: Block, option: str) -> Block:
    word, *values = option.split()
    if word == "serves" and values[:1] == ["each"] and len(values) == 2:
        return replace(block, ports=(int(values[1]),), alternatives=True)
    if word == "serves" and values and all(value.isdecimal() for value in values):
        return replace(block, ports=tuple(map(int, values)))
    if word == "exits" and values and all(value.isdecimal() for value in values):
        return replace(block, statuses=tuple(map(int, values)))
    if word == "saves" and len(values) == 1 and "/" not in values[0]:
        return replace(block, saves=values[0])
    raise TagError(f"{block.place}: {option!r} is no option of a tag")


def commands_of(block: Block) -> list[tuple[int, str]]:
    """Return a shell block's commands and the lines of the page on which each begins.

    A line that ends with a backslash goes on in the next; comments and empty lines are no commands.
    """
    found: list[tuple[int, str]] = []
    begun: list[str] = []
    for number, line in enumerate(block.code.splitlines(), block.line):
        if not begun and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun.append(line)
        if not line.endswith("\\"):
            found.append((number - len(begun) + 1, "\n".join(begun)))
            begun = []
    return found


def script_of(block: Block) -> str:
    """Return what a shell executes; every line stands on the line where it stands in the block.

    Of a console the lines behind ``$`` are commands, and the others what they printed.
    """
    if block.language != "console":
        return block.code
    kept = [line[2:] if line.startswith("$ ") else "" for line in block.code.splitlines()]
    return "".join(f"{line}\n" for line in kept)
