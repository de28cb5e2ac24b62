"""``revision_of``: one short word for everything that a worker's answers depend on.

Where it sits: a worker computes it once it has loaded; it goes out in ``X-Condense-Model-Revision``
and into the keys of the answer cache, so a cache on disk never answers with other weights' tokens.

Design decisions

* By content, not by date: the same weights have the same revision on every machine that computes
  with them alike.
* Weights, the target model's too, the condenser's own source file, this package's version, and the
  settings that change an answer: default ratio, options, dtype, kind of device, and where the dtype
  is left to the machine, what it has to choose from.
* Of a file above ``WHOLE_BYTES`` its size and evenly spaced pieces are read: training changes all
  of a weight matrix, and reading tens of gigabytes would take longer than loading them.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson

from neural_condense_core import __version__
from neural_condense_core.condensers.base import Condenser
from neural_condense_core.condensers.checkpoints import DEFAULT_TARGET_MODEL
from neural_condense_core.serving.jobs import WorkerSpec

log = logging.getLogger(__name__)

DIGITS = 16
WHOLE_BYTES = 256 << 20
PIECE_BYTES = 1 << 20
PIECES = 64
MAX_FILES = 4096


def revision_of(
    spec: WorkerSpec, condenser: Condenser, checkpoint: Path | None, ratio: float
) -> str:
    """Return 16 hexadecimal digits; "" where a file cannot be read, and nothing may be cached.

    Parameters
    ----------
    spec : what was loaded
    condenser : loaded
    checkpoint : its weights, a folder or a file; None = it has none
    ratio : compression ratio of requests that name none
    """
    facts = [
        __version__, spec.condenser, condenser.name, condenser.hidden_size, ratio, spec.dtype,
        spec.device.partition(":")[0], _arithmetic(spec),
    ]  # fmt: skip
    digest = hashlib.sha256(orjson.dumps(facts))
    try:
        digest.update(_source(type(condenser)))
        digest.update(b"" if checkpoint is None else contents(checkpoint))
        digest.update(target_revision(condenser.target_model))
    except OSError as error:
        log.warning("no revision, and so no cache: %s cannot be read", error.filename)
        return ""
    return digest.hexdigest()[:DIGITS]


def target_revision(name: str) -> bytes:
    """Return what identifies a target model: its files, its commit on the hub, else its name."""
    if name == DEFAULT_TARGET_MODEL:
        return name.encode()  # its file is fixed by this package's version
    if Path(name).is_dir():
        return contents(Path(name))
    return f"{name}@{_hub_commit(name)}".encode()


def contents(path: Path) -> bytes:
    """Return a digest of a file, or of a folder's files and their names; (32,) bytes."""
    digest = hashlib.sha256()
    for each in [path] if path.is_file() else _files(path):
        name = "" if each == path else each.relative_to(path).as_posix()
        digest.update(orjson.dumps([name, each.stat().st_size]))
        digest.update(_digest_of(each))
    return digest.digest()


def _arithmetic(spec: WorkerSpec) -> list[bool]:
    """Return what ``--dtype auto`` depends on: which products this CPU is fast at."""
    torch = sys.modules.get("torch")
    if torch is None or spec.dtype != "auto" or spec.device != "cpu":
        return []
    return [torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_vnni_supported()]


def _files(folder: Path) -> Iterator[Path]:
    found = (
        Path(root) / name for root, _, names in os.walk(folder) for name in names
        if not name.startswith(".") and not name.endswith((".md", ".pyc"))
    )  # fmt: skip
    for number, path in enumerate(sorted(found)):
        if number == MAX_FILES:
            raise OSError(None, "too many files to tell its revision", str(folder))
        if path.is_file():
            yield path


def _digest_of(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256()
        for piece in range(PIECES):
            file.seek(piece * (size - PIECE_BYTES) // (PIECES - 1))
            digest.update(file.read(PIECE_BYTES))
    return digest.digest()


def _source(cls: type[Condenser]) -> bytes:
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:  # made in an interpreter's own session
        file = None
    return contents(Path(file)) if file and Path(file).is_file() else cls.__qualname__.encode()


def _hub_commit(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a name that the hub could not have
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""
