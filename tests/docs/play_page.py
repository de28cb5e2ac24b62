"""Execute the blocks of one page in the current folder: ``python play_page.py ROOT PAGE NOTES``.

Shell blocks share one bash, Python blocks one namespace; both see the same folder and variables.
Exit 0 if every block did what it says; otherwise 1, with page, line and what was printed.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from code_blocks import Block, blocks_of
from page_shell import RUN_S, SLOW_S, BlockError, PageShell


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def expire(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def play_python(block: Block, namespace: dict[str, Any]) -> None:
    """Execute a Python block.

    Raises
    ------
    BlockError
        It raised.
    """
    if block.saves:
        Path(block.saves).write_text(block.code, encoding="utf-8")
    printed = io.StringIO()
    try:
        code = compile("\n" * (block.line - 1) + block.code, block.page, "exec")
        with (
            _limited(RUN_S if block.mode == "run" else SLOW_S),
            contextlib.redirect_stdout(printed),
        ):
            exec(code, namespace)  # noqa: S102 - that is what the page is for
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == block.page]
        line = (lines or [getattr(error, "lineno", None) or block.line])[0]
        told = f"{type(error).__name__}: {error}"
        raise BlockError(f"{block.page}:{line}: {told}\n{printed.getvalue()}") from error


def main(root: Path, page: Path, notes: Path) -> int:
    """Execute a page and say on stdout how long each block took."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    sys.path.insert(0, "")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    shell = PageShell(Path.cwd(), notes)
    try:
        for block in blocks_of(page, root):
            if not block.is_executed:
                continue
            begun_s = time.monotonic()
            if block.language == "python":
                play_python(block, namespace)
            else:
                shell.play(block)
            taken_s = time.monotonic() - begun_s
            sys.stdout.write(f"{block.place}: {block.language}, {taken_s:.1f} s\n")
            sys.stdout.flush()
    except BlockError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    finally:
        shell.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
