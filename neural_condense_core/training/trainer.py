"""The training loop, on one page.

Design decisions

* A step is a function of (recipe, seed, step): its ratio, objective and texts are drawn from
  generators seeded by the step's number, so a resumed run goes on exactly as the first would have.
* The batch is the recipe's, however many processes share it; all of them take the same steps.
* What is trained is float32 whatever the frozen model is in: small steps vanish in bfloat16.
* A stop is heard between two steps, so that a state never holds half of one. The schedule follows
  steps, never the clock: ``minutes`` only ends a run early.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.pooled import PooledCondenser
from neural_condense_core.condensers.registry import METHODS
from neural_condense_core.condensers.trainable import TrainableCondenser
from neural_condense_core.errors import ConfigError, DivergedError
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.training.batches import Batch, BatchMaker
from neural_condense_core.training.config import Recipe
from neural_condense_core.training.data import ProseSource, Questions
from neural_condense_core.training.prefetch import Prefetcher
from neural_condense_core.training.salience import fit_salience, gather_examples
from neural_condense_core.training.schedule import (
    StepPlan,
    lr_factor,
    plan_step,
    texts_rng,
)
from neural_condense_core.training.sources import DataFiles, open_sources
from neural_condense_core.training.state import Progress, load_state, run_digest, save_state
from neural_condense_core.training.supervision import Supervisor
from neural_condense_core.training.throughput import Meter, measure_matrix_rate
from neural_condense_core.training.transfer import (
    HEAD_SHARE,
    Transferred,
    read_origin,
    take_tensors,
)
from neural_condense_core.training.workers import Workers, alone

STATISTICS_TOKENS = 256
PREFETCHED_STEPS = 2
SAVE_EVERY_S = 300.0
LR_GROUPS = ("adapter", "head")


@dataclass(frozen=True)
class StepReport:
    """One line of the training log.

    ``ce`` is the cross-entropy in nats per target token; while imitating, the relative error.
    ``tokens_per_s`` are context tokens of all processes; ``matrix_share`` is the share of the
    measured matrix rate, None for the first step of each shape, which is slowed by counting.
    """

    step: int
    objective: str
    ratio: int
    ce: float
    loss: float
    seconds: float
    tokens_per_s: float
    matrix_share: float | None


@dataclass(frozen=True)
class RunSettings:
    """How a recipe is run on a machine; what comes out does not depend on it beyond rounding.

    Parameters
    ----------
    dtype : of the frozen model
    is_compiled : compile the layers; pays on a GPU after a few hundred steps
    prefetched_steps : batches that are drawn ahead
    """

    dtype: str = "auto"
    is_compiled: bool = False
    prefetched_steps: int = PREFETCHED_STEPS


class Trainer:
    """Trains one condenser by one recipe.

    Parameters
    ----------
    recipe : what to train and how
    files : data; what an objective reads must be there
    out : folder for the state, the log and the checkpoint
    init : folder of a checkpoint to begin from, maybe of another target model
    settings, workers : how and where it runs
    is_resumed : go on where ``out`` left off; what is fitted before the first step comes from there

    Raises
    ------
    ConfigError
        An objective lacks its data, the method cannot be trained, or the recipe asks for what the
        condenser does not offer.
    """

    def __init__(
        self,
        recipe: Recipe,
        files: DataFiles,
        out: Path,
        init: Path | None = None,
        settings: RunSettings | None = None,
        workers: Workers | None = None,
        *,
        is_resumed: bool = False,
    ) -> None:
        settings = settings or RunSettings()
        self.workers = workers or alone()
        self.own_rows = self.workers.own_rows(recipe.batch)
        files.check(recipe)
        self.recipe = recipe = moved(recipe, init)
        self.out = out
        self.progress = Progress(0, 0)
        self.target = load_target(recipe.target_model, self.workers.device, settings.dtype)
        self.condenser = _untrained(recipe, self.workers.device, settings.dtype)
        self._digest = run_digest(recipe, self.target, [*files.paths, init])
        texts, questions = open_sources(recipe, files, self.target)
        self._maker = BatchMaker(self.target, texts, questions)
        self.transferred = Transferred((), ())
        if not is_resumed:
            self._begin(init, texts, questions)
        self.optimizer = self._make_optimizer()
        if settings.is_compiled:
            compile_layers(self.condenser, self.target)
        self._prefetched_steps = settings.prefetched_steps
        self._supervisor = Supervisor(recipe, self.target, self.condenser, self.workers)
        self.meter = Meter(measure_matrix_rate(self.workers.device, self.target.dtype))
        if is_resumed:
            self.resume()

    def _begin(
        self, init: Path | None, texts: ProseSource | None, questions: Questions | None
    ) -> None:
        """Count, take over and fit what is there before the first step."""
        if texts is not None:
            rng = random.Random(f"{self.recipe.seed}:statistics")  # noqa: S311 - no secret
            self.condenser.fit_statistics([
                texts.draw(rng, STATISTICS_TOKENS) for _ in range(self.recipe.statistics_stretches)
            ])
        if init is not None:
            self.transferred = take_tensors(self.condenser, init)
        if self.recipe.salience_contexts and not self.transferred.holds("salience."):
            self._fit_salience(texts, questions)

    def _fit_salience(self, texts: ProseSource | None, questions: Questions | None) -> None:
        """Fit what decides which tokens a pooled condenser keeps.

        Raises
        ------
        ConfigError
            The method keeps no tokens.
        """
        if not isinstance(self.condenser, PooledCondenser):
            raise ConfigError(f"{self.recipe.method} has no salience: set salience_contexts = 0")
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}:salience")  # noqa: S311 - sampling, no secret
        given = questions.given if questions else None
        examples = gather_examples(self.target, texts, given, recipe.salience_contexts, rng)
        fit_salience(self.condenser.module, examples, epochs=recipe.salience_epochs)

    @property
    def step(self) -> int:
        """Steps done."""
        return self.progress.step

    @property
    def context_tokens(self) -> int:
        """Context tokens seen, over all processes."""
        return self.progress.context_tokens

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
        batches = Prefetcher(self._make_batch, self.recipe.steps, self._prefetched_steps)
        try:
            while self.step < self.recipe.steps:
                if self.workers.any(should_stop() or time.monotonic() >= deadline):
                    break
                report(self._train_step(*batches.take(self.step)))
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self.save_state()
                    saved = time.monotonic()
        finally:
            batches.close()
            self.condenser.module.eval()
            self.save_state()

    def _make_batch(self, step: int) -> tuple[StepPlan, Batch]:
        plan = plan_step(self.recipe, step)
        rng = texts_rng(self.recipe, step)
        batch = self._maker.draw(
            plan.objective, rng, self.recipe.batch, plan.n_context, self.own_rows
        )
        return plan, batch

    def _train_step(self, plan: StepPlan, batch: Batch) -> StepReport:
        """Weigh and update.

        Raises
        ------
        DivergedError
            The loss or a gradient is not finite; the weights are still those of the step before.
        """
        started = time.monotonic()
        shape = (plan.objective, plan.ratio, plan.n_context)
        is_known = self.meter.is_known(shape)
        self.optimizer.zero_grad(set_to_none=True)
        loss, shown = self.meter.run(shape, lambda: self._supervisor.backward(plan, batch))
        groups = self.optimizer.param_groups
        self.workers.sum_gradients(p for group in groups for p in group["params"])
        for name, group in zip(LR_GROUPS, groups, strict=True):
            group["lr"] = group["peak_lr"] * lr_factor(self.recipe, plan.step, name)
            norm = torch.nn.utils.clip_grad_norm_(group["params"], self.recipe.clip)
            if not math.isfinite(float(norm)) or not math.isfinite(loss):
                raise DivergedError(
                    f"the loss or a gradient of step {plan.step + 1} is not finite; the state of "
                    f"step {plan.step} is kept in {self.out}; lower lr_adapter and lr_head"
                )
        self.optimizer.step()
        n_tokens = self.recipe.batch * plan.n_context
        self.progress = Progress(plan.step + 1, self.context_tokens + n_tokens)
        seconds = time.monotonic() - started
        share = self.meter.note(shape, len(batch) * plan.n_context, seconds) if is_known else None
        return StepReport(
            self.step, plan.objective, plan.ratio, shown, loss, seconds, n_tokens / seconds, share
        )

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups: dict[str, list[Any]] = {name: [] for name in LR_GROUPS}
        for name, parameter in self.condenser.module.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                groups["adapter" if "lora_" in name else "head"].append(parameter)
        peaks = {"adapter": self.recipe.lr_adapter, "head": self.recipe.lr_head}
        return torch.optim.AdamW(
            [{"params": groups[name], "peak_lr": peaks[name]} for name in LR_GROUPS],
            lr=0.0,
            betas=(0.9, 0.95),
            weight_decay=self.recipe.weight_decay,
        )

    def save_state(self) -> None:
        """Write what an exact resume needs into ``out``; the first process does."""
        if self.workers.is_first:
            trained = self.condenser.trained_state()
            save_state(self.out, self._digest, self.progress, trained, self.optimizer)

    def resume(self) -> None:
        """Go on where ``out`` left off; a CheckpointError where another run left it."""
        trained = self.condenser.trained_state()
        self.progress = load_state(self.out, self._digest, trained, self.optimizer)

    def save_checkpoint(self, folder: Path) -> None:
        """Write the condenser as a checkpoint that users can name by its folder."""
        with _scaled(self.condenser, self.recipe.residual_scale):
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


def moved(recipe: Recipe, init: Path | None) -> Recipe:
    """Return the recipe for going on from a checkpoint: its settings, the projector first.

    The recipe's own settings of the condenser come before the checkpoint's.
    """
    if init is None:
        return recipe
    origin = read_origin(init, recipe.method)
    head_warmup = recipe.head_warmup
    if origin.target_model != recipe.target_model:
        head_warmup = max(head_warmup, round(HEAD_SHARE * recipe.steps))
    return replace(recipe, condenser={**origin.config, **recipe.condenser}, head_warmup=head_warmup)


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
    missing = sorted(recipe.all_ratios - set(condenser.ratios or recipe.all_ratios))
    if missing:
        raise ConfigError(f"{recipe.method} does not offer ratio {missing[0]}")
    if max(recipe.context_lengths) > condenser.window_tokens:
        raise ConfigError(
            f"context_lengths go up to {max(recipe.context_lengths)}; "
            f"a window of {recipe.method} holds {condenser.window_tokens}"
        )
    for ratio in sorted(recipe.all_ratios):
        _require_gradient(condenser, ratio, min(recipe.context_lengths))
    return condenser


def _require_gradient(condenser: TrainableCondenser, ratio: int, n_context: int) -> None:
    """Refuse a ratio that leaves nothing to learn, such as 1 where nothing is dropped.

    Raises
    ------
    ConfigError
        It is one.
    """
    ids = torch.zeros(1, n_context, dtype=torch.long, device=condenser.target.device)
    with condenser.autocast():
        embeds, _ = condenser.module(ids, torch.full((1,), n_context, device=ids.device), ratio)
    if not embeds.requires_grad:
        raise ConfigError(
            f"at ratio {ratio} {condenser.name} has nothing to learn: leave {ratio} out of "
            "ratios and curriculum"
        )


@contextmanager
def _scaled(condenser: TrainableCondenser, factor: float) -> Iterator[None]:
    """Scale a pooled condenser's residual, and put it back bit for bit: training may go on."""
    if factor == 1 or not isinstance(condenser, PooledCondenser):
        yield
        return
    last = condenser.module.down
    exact = [(parameter, parameter.detach().clone()) for parameter in last.parameters()]
    try:
        for parameter, value in exact:
            parameter.data.copy_(value * factor)
        yield
    finally:
        for parameter, value in exact:
            parameter.data.copy_(value)


def compile_layers(
    condenser: TrainableCondenser, target: HFTarget, backend: str = "inductor"
) -> None:
    """Compile the layers of the encoder and of the reader, one by one: they share their code."""
    encoder = getattr(condenser.module, "encoder", None)
    for layers in (getattr(encoder, "layers", ()), target.decoder.layers):
        for layer in layers:
            layer.compile(backend=backend)
