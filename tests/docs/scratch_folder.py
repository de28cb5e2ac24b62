"""The folder in which a page is executed, its variables, and the process that does so.

Design decisions

* The folder looks like a checkout, so that the commands of the documents work as they are written;
  it is a copy, so that nothing they write lands in the real one.
* The home is empty. Of the user's own files only the converted target model is there, as a link.
* Where the system allows it, a page has a network of its own with nothing but loopback in it: its
  ports are free whatever else runs, and no block can reach anything outside.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from example_files import write_example_files

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
COPIED = ("README.md", "Makefile", "LICENSE", "docs", "services", "deploy", "benchmarks")
OWN_NETWORK = ("unshare", "--map-root-user", "--net", "--")
UP = 'ip link set lo up && exec "$@"'


def make_checkout(folder: Path) -> None:
    """Fill a folder with what the documents' commands name."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "pictures")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy2(source, folder / name)
    (folder / "runs").mkdir()
    for recipe in (ROOT / "runs").glob("*.toml"):
        shutil.copy2(recipe, folder / "runs")
    write_example_files(folder)


def environment(scratch: Path, model: Path | None) -> dict[str, str]:
    """Return the variables of a user who has just installed the package.

    Parameters
    ----------
    scratch : gets the home
    model : the converted target model; None = a page that needs none
    """
    home = scratch / "home"
    cache = home / ".cache" / "neural-condense"
    cache.mkdir(parents=True)
    if model is not None:
        (cache / model.name).symlink_to(model)
    # An HTTP error is a failure of the block, also where the page's curl has no --fail.
    (scratch / ".curlrc").write_text("fail\n", encoding="utf-8")
    kept = {name: os.environ[name] for name in ("LANG", "TZ") if name in os.environ}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "CURL_HOME": str(scratch),
        "USER": "reader",
        "TMPDIR": str(home),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }


@functools.cache
def own_network() -> tuple[str, ...]:
    """Return what to put before a command for a network of its own; empty where there is none."""
    before = (*OWN_NETWORK, "sh", "-c", UP, "sh")
    with contextlib.suppress(OSError):
        if subprocess.run([*before, "true"], capture_output=True, check=False).returncode == 0:
            return before
    return ()


def play(page: Path, scratch: Path, *, root: Path = ROOT, model: Path | None = None) -> str | None:
    """Execute a page's blocks, return None, or what failed where.

    Parameters
    ----------
    page : the Markdown file
    scratch : an empty folder
    root : what the page's name in messages is relative to
    model : the converted target model, seen by the blocks
    """
    folder, notes = scratch / "checkout", scratch / "notes"
    folder.mkdir()
    notes.mkdir()
    make_checkout(folder)
    player = [sys.executable, str(HERE / "play_page.py"), str(root), str(page), str(notes)]
    process = subprocess.Popen(
        [*own_network(), *player],
        cwd=folder, env=environment(scratch, model), stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        told, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.wait(60)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    sys.stdout.write(told)
    return None if process.returncode == 0 else told
