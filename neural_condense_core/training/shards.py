"""A checkpoint in files of a bounded size, to be carried where large files cannot go.

``condense train --shard_mb 15`` writes ``NAME.parts`` beside the checkpoint, and
``python -m neural_condense_core.training.shards NAME.parts NAME`` makes the checkpoint of it again,
bit for bit.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from neural_condense_core.condensers.checkpoints import CONFIG_FILE, WEIGHTS_FILE
from neural_condense_core.condensers.weights import store_tensors, tensor_shapes
from neural_condense_core.errors import CheckpointError, ConfigError, NeuralCondenseError

MEGABYTE = 1 << 20
HEADER_BYTES = 64 * 1024
"""Room for names and shapes, which a file holds beside its tensors."""


def split(checkpoint: Path, parts: Path, max_mb: float) -> list[Path]:
    """Write a checkpoint's files into a folder, its weights in parts.

    Parameters
    ----------
    checkpoint : a folder with weights and config
    parts : folder to write; earlier parts in it are removed
    max_mb : size that no part exceeds, 2^20 bytes each

    Returns
    -------
    the parts, in order

    Raises
    ------
    ConfigError
        A tensor alone is larger than a part may be.
    """
    tensors = load_file(checkpoint / WEIGHTS_FILE)
    groups = list(_groups(tensors, int(max_mb * MEGABYTE) - HEADER_BYTES))
    for group in groups:
        if len(group) == 1 and sum(map(_n_bytes, group.values())) > max_mb * MEGABYTE:
            raise ConfigError(f"{next(iter(group))} alone is larger than {max_mb} MB")
    parts.mkdir(parents=True, exist_ok=True)
    for stale in parts.glob("part-*.safetensors"):
        stale.unlink()
    shutil.copyfile(checkpoint / CONFIG_FILE, parts / CONFIG_FILE)
    paths = []
    for number, group in enumerate(groups, 1):
        path = parts / f"part-{number:03d}-of-{len(groups):03d}.safetensors"
        save_file(group, path, metadata={"format": "pt"})
        paths.append(path)
    return paths


def join(parts: Path, checkpoint: Path) -> None:
    """Make a checkpoint of its parts.

    Raises
    ------
    CheckpointError
        A part is missing or holds what another one does.
    """
    paths = sorted(parts.glob("part-*.safetensors"))
    counts = {path.stem.rpartition("-")[2] for path in paths}
    if counts != {f"{len(paths):03d}"} or not (parts / CONFIG_FILE).is_file():
        raise CheckpointError(f"{parts} does not hold all parts of one checkpoint")
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensor_shapes(path)
        found = load_file(path)
        if tensors.keys() & found.keys():
            raise CheckpointError(f"{path} holds what another part holds")
        tensors |= found
    checkpoint.mkdir(parents=True, exist_ok=True)
    store_tensors(checkpoint / WEIGHTS_FILE, tensors)
    shutil.copyfile(parts / CONFIG_FILE, checkpoint / CONFIG_FILE)


def _groups(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    group: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        if group and sum(map(_n_bytes, group.values())) + _n_bytes(tensor) > max_bytes:
            yield group
            group = {}
        group[name] = tensor
    if group:
        yield group


def _n_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def main(arguments: list[str]) -> int:
    """Join the parts in one folder to a checkpoint in another."""
    if len(arguments) != 2:
        sys.stderr.write("give two folders: that of the parts, and the checkpoint to write\n")
        return ConfigError.exit_code
    try:
        join(Path(arguments[0]), Path(arguments[1]))
    except NeuralCondenseError as error:
        sys.stderr.write(f"error ({error.code}): {error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
