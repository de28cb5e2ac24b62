"""The training loop, on one page.

Design decisions

* A step is a function of (recipe, seed, step): its ratio, objective and texts are drawn from a
  generator seeded by the step's number, so a resumed run goes on exactly as the first would have.
* State is one safetensors file, replaced atomically now and then and at the end; nothing is
  pickled. A stop is heard between two steps, so that state never holds half of one.
* The schedule follows steps, never the clock. ``minutes`` only ends a run early.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.registry import METHODS
from neural_condense_core.condensers.trainable import TrainableCondenser
from neural_condense_core.errors import CheckpointError, ConfigError, DivergedError
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.data import Prose, Questions
from neural_condense_core.training.objectives import (
    IMITATION,
    Batch,
    BatchMaker,
    Reader,
    batch_loss,
    imitation_loss,
    swap_loss,
)

STATISTICS_TOKENS = 256
SAVE_EVERY_S = 300.0
LR_GROUPS = ("adapter", "head")


@dataclass(frozen=True)
class StepReport:
    """One line of the training log.

    ``ce`` is the cross-entropy in nats per target token; while imitating, the relative error.
    """

    step: int
    objective: str
    ratio: int
    ce: float
    loss: float
    seconds: float


class Trainer:
    """Trains one condenser by one recipe.

    Parameters
    ----------
    recipe : what to train and how
    prose, qa : Parquet files; each is needed if an objective reads it
    out : folder for the state, the log and the checkpoint
    device, dtype : where and in what the target runs

    Raises
    ------
    ConfigError
        An objective lacks its data file, the method cannot be trained, or the recipe asks for
        what the condenser does not offer.
    """

    def __init__(
        self,
        recipe: Recipe,
        prose: Path | None,
        qa: Path | None,
        out: Path,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        wanted = {name for name, weight in recipe.objectives.items() if weight > 0}
        if recipe.imitation_steps > 0:
            wanted.add(IMITATION)
        if prose is None and wanted - {"answer"}:
            raise ConfigError(f"{', '.join(sorted(wanted - {'answer'}))}: give --prose FILE")
        if qa is None and "answer" in wanted:
            raise ConfigError("the answer objective needs questions: give --qa FILE")
        self.recipe = recipe
        self.out = out
        self.step = 0
        self.context_tokens = 0
        self.target = load_target(recipe.target_model, device, dtype)
        self.condenser = _untrained(recipe, device, dtype)
        self._digest = run_digest(recipe, self.target, [prose, qa])
        texts = Prose(prose, self.target, recipe.source_weights) if prose else None
        questions = Questions(qa, self.target, max_answer_tokens=16) if qa else None
        self.batches = BatchMaker(self.target, texts, questions)
        self.reader = Reader(self.target)
        self.optimizer = self._make_optimizer()
        if texts is not None:
            rng = random.Random(f"{recipe.seed}:statistics")  # noqa: S311 - sampling, no secret
            self.condenser.fit_statistics([
                texts.draw(rng, STATISTICS_TOKENS) for _ in range(recipe.statistics_stretches)
            ])

    def train(
        self,
        minutes: float | None,
        report: Callable[[StepReport], None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run to the recipe's last step, and save the state.

        Parameters
        ----------
        minutes : end early after so many; None = do not
        report : called after each step
        should_stop : asked before each step; True ends early
        """
        self.condenser.module.train()
        started = saved = time.monotonic()
        deadline = math.inf if minutes is None else started + 60 * minutes
        try:
            while self.step < self.recipe.steps and not should_stop():
                if time.monotonic() >= deadline:
                    break
                report(self._train_step())
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self.save_state()
                    saved = time.monotonic()
        finally:
            self.condenser.module.eval()
            self.save_state()

    def _train_step(self) -> StepReport:
        """Draw, weigh, update.

        Raises
        ------
        DivergedError
            The loss or a gradient is not finite; the weights are still those of the step before.
        """
        started = time.monotonic()
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}:{self.step}")  # noqa: S311 - sampling, no secret
        ratio = _choose(rng, recipe.ratios)
        objective = _choose(rng, recipe.objectives)
        n_context = _choose(rng, recipe.context_lengths)
        if self.step < recipe.imitation_steps:
            objective = IMITATION
        batch = self.batches.draw(objective, rng, recipe.batch, n_context)
        loss, nats = self._loss(batch, ratio)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self._lr_factor()
            norm = torch.nn.utils.clip_grad_norm_(group["params"], recipe.clip)
            if not math.isfinite(float(norm)) or not math.isfinite(float(loss.detach())):
                raise DivergedError(
                    f"the loss or a gradient of step {self.step + 1} is not finite; the state of "
                    f"step {self.step} is kept in {self.out}; lower lr_adapter and lr_head"
                )
        self.optimizer.step()
        self.step += 1
        self.context_tokens += recipe.batch * n_context
        seconds = time.monotonic() - started
        return StepReport(self.step, objective, ratio, nats, float(loss.detach()), seconds)

    def _loss(self, batch: Batch, ratio: int) -> tuple[Tensor, float]:
        """Return (loss to minimise, figure to show): cross-entropy, or imitation's own error."""
        ids = batch.context_ids.to(self.target.device)
        n_context = torch.full((len(ids),), ids.shape[1], device=ids.device)
        with self.condenser.autocast():
            embeds, places = self.condenser.module(ids, n_context, ratio)
        if batch.objective == IMITATION:
            wanted = self.target.embed_ids(ids.gather(1, places))
            return imitation_loss(embeds, wanted, self.target.embedding_scale)
        has_teacher = batch.objective != "reconstruction" and self.recipe.kl_weight > 0
        teacher = self.reader.teacher_logprobs(batch) if has_teacher else None
        logits = self.reader.logits(embeds, batch)
        recipe = self.recipe
        loss, nats = batch_loss(logits, batch, teacher, recipe.ce_weight, recipe.kl_weight)
        margin = recipe.swap_margins.get(batch.objective, 0.0)
        if recipe.swap_weight > 0 and margin > 0 and len(ids) > 1:
            swapped = self.reader.logits(embeds.roll(1, 0), batch)
            loss = loss + recipe.swap_weight * swap_loss(logits, swapped, batch, margin)
        return loss, nats

    def _lr_factor(self) -> float:
        """Linear warm-up, then cosine to ``final_lr`` at the last step."""
        recipe = self.recipe
        if self.step < recipe.warmup:
            return (self.step + 1) / recipe.warmup
        progress = (self.step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return recipe.final_lr + (1 - recipe.final_lr) * cosine

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups: dict[str, list[Any]] = {name: [] for name in LR_GROUPS}
        for name, parameter in self.condenser.module.named_parameters():
            if parameter.requires_grad:
                groups["adapter" if "lora_" in name else "head"].append(parameter)
        peaks = {"adapter": self.recipe.lr_adapter, "head": self.recipe.lr_head}
        return torch.optim.AdamW(
            [{"params": groups[name], "peak_lr": peaks[name]} for name in LR_GROUPS],
            lr=0.0,
            betas=(0.9, 0.95),
            weight_decay=self.recipe.weight_decay,
        )

    def save_state(self) -> None:
        """Write what an exact resume needs into ``out``."""
        self.out.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v.float() for k, v in self.condenser.trained_state().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
        partial = self.out / "state.partial"
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            partial,
            metadata={
                "step": str(self.step),
                "context_tokens": str(self.context_tokens),
                "run": self._digest,
            },
        )
        partial.replace(self.out / "state.safetensors")

    def resume(self) -> None:
        """Go on where ``out`` left off.

        Raises
        ------
        CheckpointError
            There is no state, or another recipe, other data or another dtype made it.
        """
        path = self.out / "state.safetensors"
        if not path.is_file():
            raise CheckpointError(f"nothing to resume in {self.out}: it has no state.safetensors")
        metadata = _metadata(path)
        if metadata.get("run") != self._digest:
            raise CheckpointError(
                f"{path} was made by another recipe, from other data or in another dtype; "
                "use another --out"
            )
        stored = load_file(path)
        with torch.no_grad():
            for name, tensor in self.condenser.trained_state().items():
                tensor.copy_(stored[f"model.{name}"])
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in stored.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".")
                state.setdefault(int(index), {})[moment] = tensor
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**whole, "state": state})
        self.step = int(metadata["step"])
        self.context_tokens = int(metadata["context_tokens"])

    def save_checkpoint(self, folder: Path) -> None:
        """Write the condenser as a checkpoint that users can name by its folder."""
        self.condenser.save(
            folder,
            self.recipe.name,
            [ratio for ratio, weight in sorted(self.recipe.ratios.items()) if weight > 0],
            licence=self.recipe.licence,
            measured={
                "trained_steps": self.step,
                "trained_context_tokens": self.context_tokens,
            },
        )


def _untrained(recipe: Recipe, device: str, dtype: str) -> TrainableCondenser:
    """Make the condenser that a recipe trains.

    Raises
    ------
    ConfigError
        The recipe's method has nothing to train, or does not offer what the recipe asks for.
    """
    cls = METHODS.get(recipe.method)
    if not issubclass(cls, TrainableCondenser):
        raise ConfigError(f"{recipe.method!r} cannot be trained; pooled and icae can")
    options = LoadOptions(recipe.target_model, None, device, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        condenser = cls.create(options, recipe.condenser)
    missing = sorted(set(recipe.ratios) - set(condenser.ratios or recipe.ratios))
    if missing:
        raise ConfigError(f"{recipe.method} does not offer ratio {missing[0]}")
    if max(recipe.context_lengths) > condenser.window_tokens:
        raise ConfigError(
            f"context_lengths go up to {max(recipe.context_lengths)}; "
            f"a window of {recipe.method} holds {condenser.window_tokens}"
        )
    return condenser


def _choose(rng: random.Random, weights: dict[Any, float]) -> Any:
    """Draw a key by its weight; the order of the recipe's lines does not matter."""
    keys = sorted(weights)
    return rng.choices(keys, [weights[key] for key in keys])[0]


def _metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def run_digest(recipe: Recipe, target: HFTarget, files: Sequence[Path | None]) -> str:
    """Return a hash of all that a resumed run must share with the first."""
    hashed = hashlib.sha256(json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode())
    hashed.update(str(target.dtype).encode())
    for path in files:
        if path is not None:
            with path.open("rb") as file:
                hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()
