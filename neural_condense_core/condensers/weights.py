"""Tensors of a trained condenser in a safetensors file: checked first, copied then.

Design decisions

* Only safetensors is read: a weights file comes from strangers, and a pickle is a program.
* Names, shapes and dtypes are compared in the header, before a byte of weights is read.
* Tensors are copied into those of a module that is already built, in that module's dtype, so a
  file stored as bfloat16 trains on in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neural_condense_core.errors import CheckpointError

DTYPES = ("F32", "BF16", "F16")
_SHOWN = 3


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by name; reads the header alone.

    Raises
    ------
    CheckpointError
        No such file, not safetensors, or a tensor is not floating point.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            dtypes = {name: str(found.get_dtype()) for name, found in slices.items()}
            shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not safetensors: {error}") from error
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise CheckpointError(f"{path}: {name} is {dtype}; allowed: {', '.join(DTYPES)}")
    return shapes


def restore_tensors(path: Path, into: Mapping[str, Tensor]) -> None:
    """Copy a file's tensors into those of a module; all or an error, never a part.

    Parameters
    ----------
    path : the safetensors file
    into : name -> live tensor, exactly the names of the file

    A name that is missing or unexpected, another shape and a value that is not finite are
    CheckpointErrors.
    """
    _check_fit(path, tensor_shapes(path), into)
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in into}
    for name, tensor in found.items():
        _check_finite(path, name, tensor)
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(found[name])


def stream_tensors(
    path: Path,
    expected: Mapping[str, Tensor],
    *,
    allocate: Callable[[], Mapping[str, Tensor]],
    ignored: Sequence[str] = (),
) -> None:
    """Copy a large file's tensors one by one into a module that is used by nobody yet.

    Parameters
    ----------
    path : the safetensors file
    expected : name -> tensor of the right shape; may lie on the meta device
    allocate : called when names and shapes fit; returns the same names with memory behind them
    ignored : beginnings of names that the file may hold besides

    A name that is missing or unexpected, another shape and a value that is not finite are
    CheckpointErrors; the module is then of no use.
    """
    shapes = tensor_shapes(path)
    besides = {name for name in shapes if name.startswith(tuple(ignored))} - expected.keys()
    _check_fit(path, {name: shapes[name] for name in shapes.keys() - besides}, expected)
    into = allocate()
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, tensor in into.items():
            found = file.get_tensor(name)
            _check_finite(path, name, found)
            tensor.copy_(found)


def _check_fit(
    path: Path, shapes: Mapping[str, tuple[int, ...]], into: Mapping[str, Tensor]
) -> None:
    missing, unexpected = into.keys() - shapes.keys(), shapes.keys() - into.keys()
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit: "
            + "; ".join([*_listed("missing", missing), *_listed("unexpected", unexpected)])
        )
    for name, tensor in into.items():
        if shapes[name] != tuple(tensor.shape):
            raise CheckpointError(
                f"{path}: {name} is {_shape(shapes[name])} and has to be {_shape(tensor.shape)}; "
                "was it trained for another target model or other settings?"
            )


def _check_finite(path: Path, name: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name} holds NaN or infinity")


def store_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors; the file appears complete or not at all."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    part = path.with_name(path.name + ".part")
    save_file(ready, part, metadata={"format": "pt"})
    part.replace(path)


def _listed(kind: str, names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    if not ordered:
        return []
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return [f"{kind} {', '.join(ordered[:_SHOWN])}{more}"]


def _shape(shape: Iterable[int]) -> str:
    return "x".join(str(size) for size in shape) or "a scalar"
