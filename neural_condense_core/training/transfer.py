"""From a checkpoint to a new run, for the same target model or another one.

Design decisions

* Every tensor whose name and shape fit is taken; what does not fit begins anew. A target of another
  width so gets a new projector, one of the same width and family keeps all of it.
* Tables that are counted, not trained, belong to a tokenizer: another target's are counted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from neural_condense_core.condensers.checkpoints import WEIGHTS_FILE, CheckpointConfig, read_config
from neural_condense_core.condensers.trainable import TrainableCondenser
from neural_condense_core.condensers.weights import tensor_shapes
from neural_condense_core.errors import CheckpointError, ConfigError

HEAD_SHARE = 0.2
"""Share of the steps in which a condenser that moved to another target trains its projector only,
where the recipe asks for less."""


@dataclass(frozen=True)
class Transferred:
    """Names of the tensors that a checkpoint gave, and of those that begin anew."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]

    def holds(self, prefix: str) -> bool:
        """Return whether a tensor was taken whose name begins so."""
        return any(name.startswith(prefix) for name in self.taken)


def read_origin(checkpoint: Path, method: str) -> CheckpointConfig:
    """Read the config of a checkpoint to begin from.

    Raises
    ------
    ConfigError
        It is of another method than the recipe.
    """
    stored = read_config(checkpoint)
    if stored.method != method:
        raise ConfigError(
            f"{checkpoint} is of the method {stored.method!r}, the recipe of {method!r}; "
            "a condenser keeps its method"
        )
    return stored


def take_tensors(condenser: TrainableCondenser, checkpoint: Path) -> Transferred:
    """Copy what fits of a checkpoint into an untrained condenser.

    Raises
    ------
    CheckpointError
        Nothing fits, or a value is not finite.
    """
    path = checkpoint / WEIGHTS_FILE
    shapes = tensor_shapes(path)
    live = condenser.trained_state()
    is_same = read_config(checkpoint).target_model == condenser.target_model
    fits = sorted(
        name
        for name, tensor in live.items()
        if shapes.get(name) == tuple(tensor.shape)
        and (is_same or name not in condenser.saved_buffers())
    )
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in fits}
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity")
    if not found:
        raise CheckpointError(
            f"nothing of {checkpoint} fits {condenser.target_model}: its width and its layers "
            "differ. Train from the start, or give the settings of that checkpoint in the recipe"
        )
    with torch.no_grad():
        for name, tensor in found.items():
            live[name].copy_(tensor)
    return Transferred(tuple(fits), tuple(sorted(live.keys() - found.keys())))
