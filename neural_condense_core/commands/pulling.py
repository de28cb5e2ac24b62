"""Pull a condenser: choose, bound, fetch, check, recognise, install.

Nothing happens unless the command is given, and it appears in the cache complete or not at all.

Design decisions

* Only names of known kinds are fetched: safetensors, JSON, tokenizer files, the model card. A
  source whose weights are pickles only is refused: a pickle is a program. Code is never fetched.
* Sizes are summed before the first byte and compared with a limit and with the free disk.
* What a folder holds is told by its files (``published.recognise``); the target model comes from
  the files, the table of known ones, or the user.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from neural_condense_core.commands.hub import Listed, Source, find_source, total_bytes
from neural_condense_core.condensers import checkpoints, installed
from neural_condense_core.condensers.checkpoints import CheckpointConfig, read_config, write_config
from neural_condense_core.condensers.installed import NAME, NESTED, Record
from neural_condense_core.condensers.published import (
    TOKENIZER_FILE,
    WEIGHTS_SUFFIX,
    Known,
    known,
    read_tokenizer,
    recognise,
)
from neural_condense_core.condensers.registry import METHODS
from neural_condense_core.condensers.weights import tensor_shapes
from neural_condense_core.errors import CheckpointError, ConfigError, FetchError

MAX_GIGABYTES = 40.0
MAX_FILES = 256
ALLOWED = frozenset({".safetensors", ".json", ".md", ".txt", ".model", ".jinja"})
"""Suffixes of what is fetched; ``.model`` and ``.txt`` are vocabularies."""
PICKLES = frozenset({
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack",
})  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    Parameters
    ----------
    source : hub name with an optional revision, or a path
    name : what it will be called here; None = the last part of the source
    target_model : the model it condenses for, where the files do not say
    tokenizer : hub name or path of the encoder's tokenizer, where the files hold none
    files : paths to fetch, empty for all that are allowed
    settings : changes to the method's settings, for condensers of others
    max_gigabytes : limit on what is fetched
    replace : whether an installed condenser of that name makes room
    """

    source: str
    name: str | None = None
    target_model: str | None = None
    tokenizer: str | None = None
    files: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    max_gigabytes: float = MAX_GIGABYTES
    replace: bool = False


@dataclass(frozen=True)
class Plan:
    """What would be fetched.

    Parameters
    ----------
    request : what was asked for, completed by what is known of the source
    name : what it will be called
    source : where it comes from
    files : what would be fetched
    skipped : what would not
    entry : what is known of the source
    """

    request: Request
    name: str
    source: Source
    files: list[Listed]
    skipped: list[Listed]
    entry: Known | None


def plan(request: Request, *, find: Callable[[str], Source] = find_source) -> Plan:
    """List what a request would fetch; fetches nothing.

    Parameters
    ----------
    request : what was asked for
    find : gives the source of a name

    Raises
    ------
    ConfigError
        The name cannot be taken, or the files pass a limit.
    """
    source = find(request.source)
    entry = known(source.name)
    if entry is not None:
        request = replace(
            request,
            target_model=request.target_model or entry.target_model or None,
            tokenizer=request.tokenizer or entry.tokenizer or None,
            files=request.files or entry.files,
        )
    name = request.name or _default_name(source.name)
    _check_name(name, replacing=request.replace)
    files, skipped = choose(source.files(), request.files)
    total = total_bytes(files)
    if total > request.max_gigabytes * 1e9:
        raise ConfigError(
            f"{source.name} is {total / 1e9:.1f} GB, the limit is {request.max_gigabytes:g}; "
            "raise it with --max_gb, or choose files with --file"
        )
    return Plan(request, name, source, files, skipped, entry)


def _default_name(source: str) -> str:
    last = Path(source).resolve().name if Path(source).exists() else source.rpartition("/")[2]
    return last.removesuffix(WEIGHTS_SUFFIX)


def _check_name(name: str, *, replacing: bool) -> None:
    """Refuse a name that cannot be found by later, or is taken.

    Raises
    ------
    ConfigError
        It is malformed, ours, or installed already.
    """
    if NAME.fullmatch(name) is None:
        raise ConfigError(f"{name!r} cannot be a name; give one with --name")
    if name in METHODS.targets() or name in checkpoints.shipped_names():
        raise ConfigError(f"{name!r} is a name of this installation; give another with --name")
    if name in installed.installed_names() and not replacing:
        raise ConfigError(
            f"{name!r} was pulled before; 'condense models rm {name}', --force or another --name"
        )


def choose(listed: Sequence[Listed], wanted: Sequence[str]) -> tuple[list[Listed], list[Listed]]:
    """Part files into what is fetched and what is not.

    Parameters
    ----------
    listed : all there are
    wanted : paths the user asked for, empty for all that are allowed

    Raises
    ------
    ConfigError
        A wanted file is not there or is not allowed; the weights are pickles only; there are no
        weights, or too many files.
    """
    paths = {file.path for file in listed}
    if missing := sorted(set(wanted) - paths):
        raise ConfigError(f"there is no {', '.join(missing)}; there are {_some(sorted(paths))}")
    if pickled := [path for path in wanted if PurePosixPath(path).suffix in PICKLES]:
        raise ConfigError(f"{', '.join(pickled)}: a pickle is a program, and is never fetched")
    taken = [file for file in listed if _is_allowed(file.path) and file.path in (wanted or paths)]
    skipped = [file for file in listed if file not in taken]
    if not any(file.path.endswith(WEIGHTS_SUFFIX) for file in taken):
        pickles = sorted(f.path for f in skipped if PurePosixPath(f.path).suffix in PICKLES)
        if pickles:
            raise ConfigError(
                f"its weights are pickles only ({_some(pickles)}); a pickle is a program, and is "
                "never fetched. Ask its authors for safetensors, or convert it where you trust it"
            )
        raise ConfigError(f"there is no {WEIGHTS_SUFFIX} file in it, only {_some(sorted(paths))}")
    if len(taken) > MAX_FILES:
        raise ConfigError(f"there are {len(taken)} files; at most {MAX_FILES} are fetched")
    return taken, skipped


def _is_allowed(path: str) -> bool:
    parts = PurePosixPath(path).parts
    inside = not path.startswith("/") and "\\" not in path and ".." not in parts
    hidden = any(part.startswith(".") for part in parts)
    return inside and not hidden and PurePosixPath(path).suffix in ALLOWED


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more


def install(
    found: Plan,
    *,
    find: Callable[[str], Source] = find_source,
    told: Callable[[str], None] = lambda line: None,
) -> Path:
    """Fetch, check and install; the folder appears complete or not at all.

    Parameters
    ----------
    found : what to fetch
    find : gives the source of the tokenizer
    told : hears what is being done

    Returns
    -------
    folder of the installed condenser

    Raises
    ------
    FetchError
        Too little disk is free, or a file is not what was listed.
    ConfigError
        The cache cannot be written.
    """
    root = installed.root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise ConfigError(f"cannot write to {root}: {error.strerror}") from error
    needed = total_bytes(found.files)
    if free < needed * 1.02:
        raise FetchError(
            f"{root} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; free some, "
            "or set CONDENSE_CACHE to another folder"
        )
    with tempfile.TemporaryDirectory(prefix=f".{found.name}-", dir=root) as scratch:
        fetched, staged = Path(scratch) / "fetched", Path(scratch) / "condenser"
        fetched.mkdir()
        for number, listed in enumerate(found.files, 1):
            told(f"{number} of {len(found.files)}: {listed.path}, {listed.size / 1e6:.1f} MB")
            _fetch(found.source, listed, fetched)
        _add_tokenizer(found, fetched, find, told)
        shutil.rmtree(fetched / ".cache", ignore_errors=True)  # the hub library's notes
        _configure(found, fetched, staged)
        _record(found, staged)
        folder = root / found.name
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        staged.rename(folder)
    return folder


def _fetch(source: Source, listed: Listed, folder: Path) -> None:
    path = source.fetch(listed, folder)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FetchError(f"{listed.path} leads out of its folder")
    listed.check(path)
    if path.suffix == WEIGHTS_SUFFIX:
        tensor_shapes(path)  # a file may be called anything


def _add_tokenizer(
    found: Plan, fetched: Path, find: Callable[[str], Source], told: Callable[[str], None]
) -> None:
    """Fetch the encoder's tokenizer where it lies elsewhere.

    Raises
    ------
    ConfigError
        There is none, or it is none.
    """
    spec = found.request.tokenizer
    if spec is None or (fetched / TOKENIZER_FILE).is_file():
        return
    told(f"the encoder's tokenizer, from {spec}")
    source = find(spec)
    files = [f for f in source.files() if PurePosixPath(f.path).name == TOKENIZER_FILE]
    at_top = [file for file in files if file.path == TOKENIZER_FILE]
    if not at_top or at_top[0].size > 64e6:
        raise ConfigError(f"{spec} has no {TOKENIZER_FILE} of a plausible size")
    _fetch(source, at_top[0], fetched)
    read_tokenizer(fetched / TOKENIZER_FILE)


def _configure(found: Plan, fetched: Path, staged: Path) -> None:
    """Lay out what was fetched, with our own config.json, as the loaders want it."""
    if _is_ours(fetched):
        fetched.rename(staged)
        write_config(staged, replace(read_config(staged), name=found.name))
        return
    what = recognise(fetched, dict(found.request.settings))
    staged.mkdir()
    if what.weights:
        (fetched / what.weights).rename(staged / checkpoints.WEIGHTS_FILE)
    fetched.rename(staged / NESTED)
    config = CheckpointConfig(
        name=found.name,
        method=what.method,
        target_model=what.target_model or found.request.target_model or "",
        hidden_size=what.hidden_size,
        ratios=what.ratios,
        config=what.config,
        licence=found.entry.licence if found.entry else "",
    )
    write_config(staged, config)


def _is_ours(folder: Path) -> bool:
    try:
        return read_config(folder).method in METHODS.targets()
    except CheckpointError:
        return False


def _record(found: Plan, staged: Path) -> None:
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    names = {path: path.relative_to(staged).as_posix() for path in files}
    Record(
        found.source.name,
        found.source.revision,
        {names[path]: installed.sha256(path) for path in files},
        {names[path]: path.stat().st_size for path in files},
    ).write(staged)


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``; whole numbers, decimals and true/false are what they look like.

    Raises
    ------
    ConfigError
        It is not of that form.
    """
    match = re.fullmatch(r"(\w+)=(.+)", text)
    if match is None:
        raise ConfigError(f"{text!r} is not KEY=VALUE")
    key, value = match.groups()
    if value in {"true", "false"}:
        return key, value == "true"
    for kind in (int, float):
        try:
            return key, kind(value)
        except ValueError:
            continue
    return key, value
