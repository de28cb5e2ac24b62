"""Tensors of a trained condenser in a safetensors file: checked first, copied then.

Design decisions

* Only safetensors is read: a weights file comes from strangers, and a pickle is a program.
* Names, shapes and dtypes are compared in the header, before a byte of weights is read.
* Tensors are copied into those of a module that is already built, in that module's dtype, so a
  file stored as bfloat16 trains on in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

    Raises
    ------
    CheckpointError
        A name is missing or unexpected, a shape differs, or a value is not finite.
    """
    shapes = tensor_shapes(path)
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
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in into}
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity")
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(found[name])


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
