"""What trained condensers share: a module over windows of a context, its weights on disk.

Design decisions

* A module sees one window of at most ``window_tokens`` context tokens; a longer context is cut
  into windows that are condensed in parallel and joined in order (no recurrence).
* Only what was trained is saved. The frozen copies of the target's layers come from the target.
* Trained tensors are float32 and the copies of the target's layers keep the target's dtype;
  autocast meets the two, in training and in use alike.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from neural_condense_core.condensers.base import Condenser, LoadOptions, check_contexts
from neural_condense_core.condensers.checkpoints import (
    WEIGHTS_FILE,
    CheckpointConfig,
    read_config,
    write_config,
)
from neural_condense_core.condensers.lora import merge_lora
from neural_condense_core.condensers.weights import restore_tensors, store_tensors
from neural_condense_core.errors import CheckpointError
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.tokens import CondensedTokens, n_condensed_for

LENGTH_BUCKET = 32
NORM_RANGE = (0.3, 3.0)
"""Bounds of a condensed token's norm, in units of the target's mean embedding norm."""
MAX_WINDOWS_PER_BATCH = {"cpu": 8, "cuda": 128}


def clamp_norms(embeds: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Scale rows whose norm leaves [low, high] back to the bound; the others stay bit for bit.

    Parameters
    ----------
    embeds : (..., hidden)
    low, high : norms, numbers or (..., 1)
    """
    norms = embeds.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    inside = (norms >= low) & (norms <= high)
    return torch.where(inside, embeds, embeds * (norms.clamp(low, high) / norms))


class WindowModule(nn.Module):
    """Condenses one window: the part of a condenser that is trained."""

    @abstractmethod
    def forward(self, input_ids: Tensor, n_context: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
        """Condense a batch of windows.

        Parameters
        ----------
        input_ids : (batch, n_padded) int64, padded on the right with any id
        n_context : (batch,) int64, how many of them are real
        ratio : compression ratio

        Returns
        -------
        embeds : (batch, ceil(n_padded / ratio), hidden) float32; of row i the first
            ``ceil(n_context[i] / ratio)`` count and depend on row i's real tokens alone
        positions : (batch, ceil(n_padded / ratio)) int64, the place of each condensed token in
            its window
        """


class TrainableCondenser(Condenser):
    """A condenser made of a ``WindowModule`` for one target model.

    Parameters
    ----------
    target : the loaded target model
    config : the method's settings, as stored in ``config.json``
    """

    method: str
    window_tokens: int
    module: WindowModule

    def __init__(self, target: HFTarget, config: dict[str, Any]) -> None:
        self.name = self.method
        self.target = target
        self.target_model = target.name
        self.hidden_size = target.hidden_size
        self.config = config

    @classmethod
    def create(cls, options: LoadOptions, config: dict[str, Any] | None = None) -> Self:
        """Return an untrained condenser; for training and tests only.

        Parameters
        ----------
        options : target model, device, dtype; ``checkpoint`` is ignored
        config : the method's settings; missing ones take their defaults
        """
        target = load_target(options.target_model, options.device, options.dtype)
        condenser = cls(target, dict(config or {}))
        condenser.module.to(target.device).eval()
        return condenser

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load trained weights.

        Raises
        ------
        CheckpointError
            No checkpoint is given, it is damaged, or it does not fit the target model.
        """
        if options.checkpoint is None:
            raise CheckpointError(f"{cls.method} needs trained weights: give a checkpoint folder")
        stored = read_config(options.checkpoint)
        condenser = cls.create(options, stored.config)
        if stored.hidden_size != condenser.hidden_size:
            raise CheckpointError(
                f"{options.checkpoint} is {stored.hidden_size} wide, "
                f"{options.target_model} is {condenser.hidden_size}"
            )
        condenser.load_weights(options.checkpoint / WEIGHTS_FILE)
        merge_lora(condenser.module)
        condenser.name = stored.name
        condenser.ratios = stored.ratios
        return condenser

    def trained_state(self) -> dict[str, Tensor]:
        """Return the tensors that make a checkpoint, by name."""
        trained = {name for name, p in self.module.named_parameters() if p.requires_grad}
        state = self.module.state_dict()
        return {name: state[name] for name in sorted(trained | self.saved_buffers())}

    def fit_statistics(self, stretches: Sequence[Sequence[int]]) -> None:
        """Take what is counted rather than trained from stretches of token ids, before training."""

    def saved_buffers(self) -> set[str]:
        """Return the names of buffers that belong into a checkpoint."""
        return set()

    def load_weights(self, path: Path) -> None:
        """Fill the trained tensors from a safetensors file, all of them or none."""
        restore_tensors(path, self.trained_state())

    def save(self, folder: Path, name: str, ratios: Sequence[int], **facts: Any) -> None:
        """Write a checkpoint: trained tensors in bfloat16, counted tables as they are, its config.

        Parameters
        ----------
        folder : made if missing
        name : what users will type
        ratios : compression ratios it was trained for
        facts : further fields of ``CheckpointConfig`` (``licence``, ``measured``)
        """
        folder.mkdir(parents=True, exist_ok=True)
        exact = self.saved_buffers()
        store_tensors(
            folder / WEIGHTS_FILE,
            {
                # a table that decides must decide as it did in training
                key: tensor if key in exact else tensor.to(torch.bfloat16)
                for key, tensor in self.trained_state().items()
            },
        )
        write_config(
            folder,
            CheckpointConfig(
                name=name,
                method=self.method,
                target_model=self.target_model,
                hidden_size=self.hidden_size,
                ratios=tuple(ratios),
                config=self.config,
                **facts,
            ),
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the module runs: bfloat16 products if the target's are."""
        if self.target.dtype == torch.bfloat16:
            return torch.autocast(self.target.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def tokenize(self, context: str) -> list[int]:
        """Return the target model's token ids of a context."""
        return self.target.tokenize(context)

    def tokenizer_json(self) -> str | None:
        """Return the target model's tokenizer, if it is one of the ``tokenizers`` library."""
        return self.target.tokenizer_json()

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        """Return the sum over windows of ``ceil(n_window / ratio)``."""
        full, rest = divmod(n_context_tokens, self.window_tokens)
        return full * n_condensed_for(self.window_tokens, ratio) + n_condensed_for(rest, ratio)

    def condense(
        self,
        contexts: Sequence[Sequence[int]],
        ratio: float,
        *,
        queries: Sequence[str] | None = None,
    ) -> list[CondensedTokens]:
        """Condense a batch, all windows of all contexts side by side."""
        check_contexts(contexts)
        self.check_ratio(ratio)
        windows = [(i, start) for i, ids in enumerate(contexts) for start in self._starts(len(ids))]
        pieces: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for chunk in self._chunks(contexts, windows):
            ids = [contexts[i][start : start + self.window_tokens] for i, start in chunk]
            for key, piece in zip(chunk, self._condense_windows(ids, int(ratio)), strict=True):
                pieces[key] = piece
        return [self._join(i, ids, pieces) for i, ids in enumerate(contexts)]

    def _starts(self, n_context: int) -> range:
        return range(0, n_context, self.window_tokens)

    def _chunks(
        self, contexts: Sequence[Sequence[int]], windows: list[tuple[int, int]]
    ) -> Iterator[list[tuple[int, int]]]:
        """Group windows of equal padded length: on CPU padding costs what real tokens cost."""
        groups: dict[int, list[tuple[int, int]]] = {}
        for i, start in windows:
            n = min(len(contexts[i]) - start, self.window_tokens)
            groups.setdefault(-(-n // LENGTH_BUCKET), []).append((i, start))
        size = MAX_WINDOWS_PER_BATCH[self.target.device.type]
        for group in groups.values():
            for first in range(0, len(group), size):
                yield group[first : first + size]

    @torch.inference_mode()
    def _condense_windows(
        self, windows: Sequence[Sequence[int]], ratio: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Condense windows that share a padded length: per window (n, hidden) and (n,)."""
        padded = -(-max(map(len, windows)) // LENGTH_BUCKET) * LENGTH_BUCKET
        ids = torch.zeros(len(windows), padded, dtype=torch.long)
        for row, window in zip(ids, windows, strict=True):
            row[: len(window)] = torch.tensor(list(window))
        ids = ids.to(self.target.device)
        n_context = torch.tensor([len(window) for window in windows], device=ids.device)
        with self.autocast():
            embeds, positions = self.module(ids, n_context, ratio)
        counts = [n_condensed_for(len(window), ratio) for window in windows]
        rows = zip(embeds.float().cpu(), positions.cpu(), counts, strict=True)
        return [(row[:n], places[:n]) for row, places, n in rows]

    def _join(
        self,
        i: int,
        ids: Sequence[int],
        pieces: dict[tuple[int, int], tuple[Tensor, Tensor]],
    ) -> CondensedTokens:
        starts = self._starts(len(ids))
        embeds: npt.NDArray[np.float32] = torch.cat([pieces[i, s][0] for s in starts]).numpy()
        positions = torch.cat([pieces[i, s][1] + s for s in starts]).numpy()
        return CondensedTokens(embeds, self.target_model, len(ids), positions, self.name)
