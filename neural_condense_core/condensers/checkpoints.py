"""Trained condensers on disk: find, read, write.

A checkpoint is a folder with ``condenser.safetensors`` (weights), ``config.json`` (method, target
model, shapes, figures) and ``README.md`` (the model card). Those that ship lie in
``neural_condense_core/checkpoints/NAME``. A ``.safetensors`` file alone is an ICAE as its authors
published it. Options may stand behind any name (``options.py``).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neural_condense_core.condensers.base import Condenser, LoadOptions
from neural_condense_core.condensers.installed import (
    OWN_TARGET,
    installed_folder,
    installed_names,
)
from neural_condense_core.condensers.options import split_options, wrap
from neural_condense_core.condensers.registry import METHODS
from neural_condense_core.errors import CheckpointError, UnknownNameError
from neural_condense_core.registry import suggest

SHIPPED = Path(__file__).resolve().parent.parent / "checkpoints"
WEIGHTS_FILE = "condenser.safetensors"
CONFIG_FILE = "config.json"
PUBLISHED_SUFFIX = ".safetensors"
PUBLISHED_METHOD = "icae"
"""The one method whose authors published weights in a file by itself."""

DEFAULT_CHECKPOINTS = {"pooled": "pooled-fast", "pooled-best": "pooled-fast", "icae": "icae"}
"""Which shipped checkpoint another name means: a method its default, ``pooled-best`` the pooled one
that measures best. Until one is trained on a GPU that is the fast one."""

MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class CheckpointConfig:
    """``config.json`` of a checkpoint.

    Parameters
    ----------
    name : what users type
    method : registry name of the condenser class
    target_model : model whose ``inputs_embeds`` it makes
    hidden_size : width of a condensed token
    ratios : compression ratios it was trained for
    config : the method's own settings, as its class reads them
    licence : of the weights
    measured : figures from the evaluation, with the command that repeats them
    """

    name: str
    method: str
    target_model: str
    hidden_size: int
    ratios: tuple[int, ...]
    config: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    measured: dict[str, Any] = field(default_factory=dict)


def read_config(folder: Path) -> CheckpointConfig:
    """Read ``config.json`` of a checkpoint folder.

    Raises
    ------
    CheckpointError
        The file is missing, too large, no JSON or lacks a field.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no {CONFIG_FILE}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw.pop("schema", None)
        return CheckpointConfig(**{**raw, "ratios": tuple(raw["ratios"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint's config: {error}") from error


def write_config(folder: Path, config: CheckpointConfig) -> None:
    """Write ``config.json`` into an existing folder."""
    payload = {"schema": 1, **config.__dict__, "ratios": list(config.ratios)}
    (folder / CONFIG_FILE).write_text(json.dumps(payload, indent=2) + "\n", encoding="utf-8")


def shipped_names() -> list[str]:
    """Return the names of the checkpoints that ship, sorted."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG_FILE}"))


def resolve(spec: str) -> tuple[type[Condenser], Path | None]:
    """Return the class and the checkpoint (a folder, a published file or None) of a name.

    Options behind the name are checked and left out.

    Raises
    ------
    UnknownNameError
        Neither a checkpoint, a method, a folder, a ``.safetensors`` file nor ``module:Class``.
    CheckpointError
        The method needs trained weights and none ship, or the folder is no checkpoint.
    """
    spec, _ = split_options(spec)
    name = DEFAULT_CHECKPOINTS.get(spec, spec)
    if name in shipped_names():
        folder = SHIPPED / name
        return _method_of(folder), folder
    if spec in DEFAULT_CHECKPOINTS:
        raise CheckpointError(
            f"no trained weights of {spec!r} ship with this installation; "
            "train some by a recipe of runs/ with 'condense train' and give their folder"
        )
    if spec in METHODS.targets():
        return METHODS.get(spec), None
    if spec in installed_names():
        folder = installed_folder(spec)
        return _method_of(folder), folder
    if Path(spec).is_dir():
        return _method_of(Path(spec)), Path(spec)
    if Path(spec).suffix == PUBLISHED_SUFFIX and Path(spec).is_file():
        return METHODS.get(PUBLISHED_METHOD), Path(spec)
    if ":" in spec:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # a user's own module lies where they work
        return METHODS.get(spec), None
    known = sorted({*shipped_names(), *METHODS.names(), *installed_names()})
    raise UnknownNameError(
        f"unknown condenser {spec!r}.{suggest(spec, known)} Known: {', '.join(known)}; "
        "or the path of a checkpoint folder or of a published .safetensors file, or module:Class"
    )


def _method_of(folder: Path) -> type[Condenser]:
    """Return the class of a checkpoint's method; a registered name, never code of its choosing.

    Raises
    ------
    CheckpointError
        The method is no registered name.
    """
    method = read_config(folder).method
    if method not in METHODS.targets():
        raise CheckpointError(
            f"{folder} names the method {method!r}, which is none of {', '.join(METHODS.names())}"
        )
    return METHODS.get(method)


def load_condenser(
    spec: str, target_model: str | None = None, *, device: str = "cpu", dtype: str = "auto"
) -> Condenser:
    """Load a condenser by any name that ``resolve`` takes.

    Parameters
    ----------
    spec : checkpoint, method, folder, published file or ``module:Class``, with options or without
    target_model : the model to condense for; None = the checkpoint's own, else the embedded one.
        A published file does not say what its own is
    device : torch device
    dtype : ``"auto"``, ``"float32"`` or ``"bfloat16"``

    Raises
    ------
    CheckpointError
        The checkpoint was trained for another target model, or does not say for which and none
        is given.
    """
    spec, options = split_options(spec)
    cls, checkpoint = resolve(spec)
    own = _own_target(checkpoint)
    target = target_model or own
    if target is None:
        raise CheckpointError(f"{spec} does not say which target model it is for; name it")
    if checkpoint and own not in {None, target}:
        raise CheckpointError(
            f"checkpoint {spec!r} makes condensed tokens for {own!r}, not for {target!r}"
        )
    condenser = cls.load(LoadOptions(target, checkpoint, device, dtype))
    condenser.name = checkpoint.name.removesuffix(PUBLISHED_SUFFIX) if checkpoint else spec
    return wrap(condenser, options, device=device, dtype=dtype)


def _own_target(checkpoint: Path | None) -> str | None:
    if checkpoint is None:
        return DEFAULT_TARGET_MODEL
    if not checkpoint.is_dir():
        return None
    stored = read_config(checkpoint).target_model
    # a condenser that was trained together with its reader brings that model along
    return str(checkpoint / stored) if stored == OWN_TARGET else stored or None


DEFAULT_TARGET_MODEL = "smollm2-135m-instruct"
