"""The input embeddings of a Hugging Face model without the rest of it.

Engines behind HTTP read a prompt either as ids or as embeddings, not mixed; to put text and
condensed tokens into one prompt, its text is embedded here. Only the file that holds the table is
opened, and only the rows that are asked for are read.

Design decisions

* What comes out is what the model's embedding layer returns: for families that scale embeddings
  inside that layer (Gemma) the scale is applied. The conformance suite holds it against the layer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from neural_condense_core.errors import RequestError, TargetModelError

_TABLES = (
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "transformer.wte.weight",
    "gpt_neox.embed_in.weight",
)
_SCALED_BY_ROOT = ("gemma", "gemma2", "gemma3", "gemma3_text")
_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class EmbeddingTable:
    """Rows of a model's input embeddings.

    Parameters
    ----------
    source : a folder, or a Hugging Face name

    Raises
    ------
    TargetModelError
        There is no such model, or its table is not where such tables are.
    """

    def __init__(self, source: str) -> None:
        try:
            config = json.loads(_path(source, "config.json").read_text(encoding="utf-8"))
            text = config.get("text_config", config)
            self.hidden_size = int(text["hidden_size"])
            self.max_positions = int(text["max_position_embeddings"])
            self._scale = self.hidden_size**0.5 if text["model_type"] in _SCALED_BY_ROOT else None
            self._weight = _read_table(source)
        except (OSError, ValueError, KeyError) as error:
            raise TargetModelError(
                f"cannot read the input embeddings of {source!r}: {type(error).__name__}: {error}; "
                "give a folder with config.json and safetensors weights, or a Hugging Face name "
                "that this machine can reach"
            ) from error

    def rows(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return (n, hidden_size) float32 input embeddings of token ids.

        Raises
        ------
        RequestError
            An id is not in the table.
        """
        n_rows = len(self._weight)
        if ids and not 0 <= min(ids) <= max(ids) < n_rows:
            raise RequestError(f"token ids must be from 0 to {n_rows - 1}")
        rows = self._weight[torch.tensor(list(ids), dtype=torch.long)]
        if self._scale is not None:  # in the model's own dtype, as the model does
            rows = rows * torch.tensor(self._scale, dtype=rows.dtype)
        found: npt.NDArray[np.float32] = rows.float().numpy()
        return found


def _path(source: str, name: str) -> Path:
    """Return a file of a model; from the Hugging Face cache or hub where it is no folder."""
    folder = Path(source)
    if folder.is_dir():
        return folder / name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, name))


def _read_table(source: str) -> Any:
    try:
        index = json.loads(_path(source, _INDEX).read_text(encoding="utf-8"))["weight_map"]
    except OSError:
        index = {}
    file = next((index[key] for key in _TABLES if key in index), _ONE_FILE)
    with safe_open(_path(source, file), framework="pt") as tensors:
        keys = set(tensors.keys())
        key = next((key for key in _TABLES if key in keys), None)
        if key is None:
            raise ValueError(f"{file} holds none of {', '.join(_TABLES)}")
        return tensors.get_tensor(key)
