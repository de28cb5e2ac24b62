"""What a stopped run needs to go on exactly: one safetensors file, replaced atomically."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neural_condense_core.errors import CheckpointError
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.training.config import Recipe

STATE_FILE = "state.safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, context tokens seen."""

    step: int
    context_tokens: int


def save_state(
    folder: Path,
    digest: str,
    progress: Progress,
    trained: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the state; the file is complete or as it was before.

    Parameters
    ----------
    folder : made if missing
    digest : ``run_digest``
    trained : the condenser's tensors by name
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor.float() for name, tensor in trained.items()}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": moment for name, moment in moments.items()}
    partial = folder / "state.partial"
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        partial,
        metadata={
            "step": str(progress.step),
            "context_tokens": str(progress.context_tokens),
            "run": digest,
        },
    )
    partial.replace(folder / STATE_FILE)


def load_state(
    folder: Path, digest: str, trained: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> Progress:
    """Fill the tensors and the optimiser from a state; returns how far it is.

    Raises
    ------
    CheckpointError
        There is no state, or another recipe, other data or another dtype made it.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"nothing to resume in {folder}: it has no {STATE_FILE}")
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    if metadata.get("run") != digest:
        raise CheckpointError(
            f"{path} was made by another recipe, from other data or in another dtype; "
            "use another --out"
        )
    stored = load_file(path)
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(stored[f"model.{name}"])
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in stored.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".")
            state.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Progress(int(metadata["step"]), int(metadata["context_tokens"]))


def run_digest(recipe: Recipe, target: HFTarget, sources: Sequence[Path | None]) -> str:
    """Return a hash of all that a resumed run must share with the first.

    Parameters
    ----------
    sources : data files, packed folders and checkpoints that the run begins from
    """
    hashed = hashlib.sha256(json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode())
    hashed.update(str(target.dtype).encode())
    for source in sources:
        for path in _files(source):
            with path.open("rb") as file:
                hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()


def _files(source: Path | None) -> list[Path]:
    if source is None:
        return []
    return sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
