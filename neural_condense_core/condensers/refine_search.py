"""Gradient steps on the condensed tokens of one text, through the frozen target model.

Where it sits: under ``RefinedCondenser`` (``refine.py``), which cuts long texts and keeps time.

Design decisions

* Nothing but the rows is trained; the model's weights take no gradient.
* What the probes of a step have in common (the rows, the instruction) is computed once and its
  keys and values shared, gradients included.
* The projection on the vocabulary is done in slices, each with its own backward pass, so that no
  matrix of all labels times all words is ever held.
* Every step disturbs the rows as the wire may (Gaussian noise; every other step rounded to 8 bits,
  the gradient passing straight through): rows that hold only bit for bit are of no use.
* Norms stay where the model has seen embeddings; a row that begins outside keeps its own bound.
* The rows that are returned are the best that the held-out probes have seen, the first ones
  included: refinement never ends worse than it began, by that measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from neural_condense_core.condensers.refine_probes import Probe, Probes
from neural_condense_core.condensers.trainable import NORM_RANGE, clamp_norms
from neural_condense_core.llm.hf import HFTarget
from neural_condense_core.llm.prefix import expand_cache
from neural_condense_core.llm.prompt import continuation_prompt

LABELS_PER_SLICE = 64
LENGTH_BUCKET = 16
"""Suffixes are padded to a multiple of it: on CPU every new shape costs a kernel."""

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SearchSettings:
    """How the rows are moved.

    Parameters
    ----------
    learning_rate : of Adam, in units of the target's embedding scale; falls along a cosine
    probes_per_step : drawn without replacement until all had their turn
    noise : standard deviation of the noise of every step, in the same units
    teacher_weight : share of the KL to the full-text model in the loss of taught probes
    check_every : steps between two looks at the held-out probes
    seed : of the order of probes and of the noise
    """

    learning_rate: float = 0.2
    probes_per_step: int = 4
    noise: float = 0.02
    teacher_weight: float = 0.5
    check_every: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Limit:
    """When to stop; at least one is given.

    Parameters
    ----------
    steps : most gradient steps
    deadline_s : on the search's clock
    """

    steps: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What a search came to.

    Parameters
    ----------
    rows : (n, hidden) float32, the best by the held-out probes
    steps : gradient steps that were done
    before, after : held-out loss of the first and of the returned rows, nats per token; None
        where there was no time to measure
    """

    rows: Rows
    steps: int
    before: float | None
    after: float | None


class RowReader:
    """The target model as a differentiable reader of rows.

    Parameters
    ----------
    target : the frozen model; what stands before a context is computed once
    """

    def __init__(self, target: HFTarget) -> None:
        self.target = target
        self._head = target.prefill((continuation_prompt(target, None, ())[0],))

    @property
    def n_head(self) -> int:
        """Rows before the context."""
        return self._head.n_tokens

    def states(self, rows: Tensor, probes: Sequence[Probe]) -> tuple[Tensor, Tensor]:
        """Run probes behind rows.

        Parameters
        ----------
        rows : (n, hidden), condensed tokens or a text's own embeddings
        probes : at least one

        Returns
        -------
        (n_labels, hidden) last hidden states and (n_labels,) int64 the token that follows each,
        probe by probe
        """
        target, device = self.target, self.target.device
        prompts = [probe.prompt_ids for probe in probes]
        shared = _common_beginning(prompts)
        first = target.embed_ids(torch.tensor(shared, dtype=torch.long))
        cache = expand_cache(self._head, 1)
        n_past = self._run(torch.cat([rows.to(target.dtype), first])[None], cache, self.n_head)[1]
        cache.batch_repeat_interleave(len(probes))
        suffixes = [[*probe.prompt_ids[len(shared) :], *probe.target_ids[:-1]] for probe in probes]
        length = -(-max(map(len, suffixes)) // LENGTH_BUCKET) * LENGTH_BUCKET
        ids = torch.zeros(len(probes), length, dtype=torch.long)
        for row, suffix in zip(ids, suffixes, strict=True):
            row[: len(suffix)] = torch.tensor(suffix)
        hidden = self._run(target.embed_ids(ids), cache, n_past)[0]
        found = [
            states[len(suffix) - len(probe.target_ids) : len(suffix)]
            for states, suffix, probe in zip(hidden, suffixes, probes, strict=True)
        ]
        labels = [token for probe in probes for token in probe.target_ids]
        return torch.cat(found), torch.tensor(labels, device=device)

    def _run(self, embeds: Tensor, cache: object, n_past: int) -> tuple[Tensor, int]:
        batch, n = embeds.shape[:2]
        positions = torch.arange(n_past, n_past + n, device=embeds.device)
        out = self.target.decoder(
            inputs_embeds=embeds,
            attention_mask=torch.ones(batch, n_past + n, dtype=torch.long, device=embeds.device),
            position_ids=positions.expand(batch, -1),
            past_key_values=cache,
            use_cache=True,
        )
        return out.last_hidden_state, n_past + n

    @torch.no_grad()
    def teacher(self, text_embeds: Tensor, probes: Sequence[Probe]) -> Tensor:
        """Return the full-text model's log-probabilities, (n_labels, vocab)."""
        return log_softmax(self.target.logits(self.states(text_embeds, probes)[0]), dim=-1)

    @torch.no_grad()
    def loss(self, rows: Tensor, probes: Sequence[Probe]) -> float:
        """Return the mean over probes of their nats per token."""
        states, labels = self.states(rows, probes)
        nats = torch.cat([
            cross_entropy(self.target.logits(part), wanted, reduction="none")
            for part, wanted in _slices(states, labels)
        ])
        sizes = [len(probe.target_ids) for probe in probes]
        return float(torch.stack([part.mean() for part in torch.split(nats, sizes)]).mean())

    def backward(
        self, rows: Tensor, probes: Sequence[Probe], teacher: Tensor | None, weight: float
    ) -> None:
        """Add the gradient of the loss to what ``rows`` comes from.

        Parameters
        ----------
        rows : (n, hidden), part of a graph
        probes : at least one
        teacher : (n_labels, vocab) log-probabilities to come near to, or None
        weight : the teacher's share of the loss
        """
        states, labels = self.states(rows, probes)
        leaf = states.detach().requires_grad_()
        start = 0
        for part, wanted in _slices(leaf, labels):
            logits = self.target.logits(part)
            loss = cross_entropy(logits, wanted, reduction="sum")
            if teacher is not None:
                taught = teacher[start : start + len(wanted)]
                divergence = kl_div(
                    log_softmax(logits, dim=-1), taught, log_target=True, reduction="sum"
                )
                loss = (1 - weight) * loss + weight * divergence
            torch.autograd.backward(loss / len(labels))
            start += len(wanted)
        torch.autograd.backward(states, leaf.grad)


def _common_beginning(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return what all prompts begin with; of each at least the last token is left over."""
    most = min(map(len, prompts)) - 1
    columns = zip(*(prompt[:most] for prompt in prompts), strict=True)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def _slices(states: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    parts = zip(
        torch.split(states, LABELS_PER_SLICE), torch.split(labels, LABELS_PER_SLICE), strict=True
    )
    return list(parts)


def rounded(rows: Tensor) -> Tensor:
    """Round each row to 8 bits by its largest value; the gradient passes as if it had not been."""
    scale = rows.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return rows + (torch.round(rows / scale) * scale - rows).detach()


class Pace:
    """How long steps and looks take, by what they last took a token.

    The last and not the longest: a first run of a shape builds its kernels.
    """

    def __init__(self) -> None:
        self._s_per_token: dict[str, float] = {}

    def note(self, kind: str, n_tokens: int, seconds: float) -> None:
        """Remember what one took."""
        self._s_per_token[kind] = seconds / n_tokens

    def expect(self, kind: str, n_tokens: int) -> float:
        """Return the seconds that one will take; 0 where none was seen yet."""
        return self._s_per_token.get(kind, 0.0) * n_tokens


class Search:
    """Moves the rows of one text after another.

    Parameters
    ----------
    reader : the target model
    settings : how
    clock : seconds
    """

    def __init__(
        self, reader: RowReader, settings: SearchSettings, clock: Callable[[], float]
    ) -> None:
        self._reader = reader
        self._settings = settings
        self._clock = clock
        scale = reader.target.embedding_scale
        self._unit = scale
        self._norms = tuple(
            factor * scale * reader.target.hidden_size**0.5 for factor in NORM_RANGE
        )
        self._pace = Pace()

    def run(self, rows: Rows, ids: Sequence[int], probes: Probes, limit: Limit) -> Found:
        """Improve rows until the limit.

        Parameters
        ----------
        rows : (n, hidden) float32, where to start
        ids : (n_context,) token ids of the text, for the teacher
        probes : what is asked
        limit : when to stop. Nothing begins that would not end in time by what it took before;
            what never ran before begins while there is time, and is finished
        """
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            return self._run(rows, ids, probes, limit)

    def _run(self, rows: Rows, ids: Sequence[int], probes: Probes, limit: Limit) -> Found:
        device = self._reader.target.device
        generator = torch.Generator().manual_seed(self._settings.seed)
        start = torch.tensor(np.asarray(rows, dtype=np.float32), device=device)
        low, high = self._norms
        own = start.norm(dim=-1, keepdim=True)
        bounds = own.clamp(max=low), own.clamp(min=high)
        begun_s = self._clock()
        look_s = self._pace.expect("look", _n_tokens(rows, probes.held_out))
        step_tokens = _n_tokens(rows, probes.trained[: self._settings.probes_per_step])
        step_s = self._pace.expect("step", step_tokens)
        if not _has_time(limit, begun_s, step_s + 2 * look_s):
            return Found(rows, 0, None, None)
        noise = self._noise(start, generator)  # one and the same at every look
        best = before = self._look(start, noise, probes)
        look_s = self._clock() - begun_s
        moved = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([moved], betas=(0.9, 0.95))
        turns = _Turns(probes.trained, generator)
        kept, steps, looked = start, 0, 0
        while limit.steps is None or steps < limit.steps:
            now_s = self._clock()
            # a step takes at least as long as a look
            if not _has_time(limit, now_s, max(step_s, look_s) + look_s):
                break
            done = _progress(limit, steps, begun_s, now_s)
            self._step(moved, optimizer, turns, ids, done, generator, rounds=steps % 2 == 1)
            with torch.no_grad():
                moved.copy_(clamp_norms(moved, *bounds))
            step_s = self._clock() - now_s
            self._pace.note("step", step_tokens, step_s)
            steps += 1
            if steps - looked == self._settings.check_every:
                looked = steps
                kept, best = self._better(moved, kept, best, noise, probes)
        if steps > looked:
            kept, best = self._better(moved, kept, best, noise, probes)
        return Found(kept.cpu().numpy(), steps, before, best)

    def _step(
        self,
        moved: Tensor,
        optimizer: torch.optim.Optimizer,
        turns: _Turns,
        ids: Sequence[int],
        done: float,
        generator: torch.Generator,
        *,
        rounds: bool,
    ) -> None:
        settings, reader = self._settings, self._reader
        probes = turns.next(settings.probes_per_step)
        rate = settings.learning_rate * self._unit * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        teacher = None
        if probes[0].taught:
            embeds = reader.target.embed_ids(torch.tensor(list(ids)))
            teacher = reader.teacher(embeds, probes)
        disturbed = moved + self._noise(moved, generator)
        optimizer.zero_grad()
        reader.backward(
            rounded(disturbed) if rounds else disturbed, probes, teacher, settings.teacher_weight
        )
        optimizer.step()

    def _better(
        self, moved: Tensor, kept: Tensor, best: float, noise: Tensor, probes: Probes
    ) -> tuple[Tensor, float]:
        loss = self._look(moved.detach(), noise, probes)
        # NaN is not smaller either
        return (moved.detach().clone(), loss) if loss < best else (kept, best)

    def _look(self, rows: Tensor, noise: Tensor, probes: Probes) -> float:
        begun_s = self._clock()
        loss = self._reader.loss(rounded(rows + noise), probes.held_out)
        self._pace.note("look", _n_tokens(rows, probes.held_out), self._clock() - begun_s)
        return loss

    def _noise(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(rows.shape, generator=generator).to(rows.device)
        return drawn * (self._settings.noise * self._unit)


def _n_tokens(rows: Rows | Tensor, probes: Sequence[Probe]) -> int:
    return len(rows) + sum(len(probe.prompt_ids) + len(probe.target_ids) for probe in probes)


def _has_time(limit: Limit, now_s: float, needed_s: float) -> bool:
    return limit.deadline_s is None or now_s + needed_s < limit.deadline_s


def _progress(limit: Limit, steps: int, begun_s: float, now_s: float) -> float:
    """Return how much of the way is behind, by steps or by time, in [0, 1]."""
    by_steps = steps / limit.steps if limit.steps else 0.0
    by_time = 0.0
    if limit.deadline_s is not None:
        by_time = (now_s - begun_s) / max(limit.deadline_s - begun_s, 1e-9)
    return min(1.0, max(by_steps, by_time))


class _Turns:
    """Hands out probes of one kind at a time, each once before any comes again."""

    def __init__(self, probes: Sequence[Probe], generator: torch.Generator) -> None:
        kinds = (False, True)
        self._kinds = [[p for p in probes if p.taught == kind] for kind in kinds]
        self._left: list[list[Probe]] = []
        self._generator = generator

    def next(self, n: int) -> list[Probe]:
        if not self._left:
            self._left = [batch for kind in self._kinds for batch in self._batches(kind, n)]
        return self._left.pop(0)

    def _batches(self, probes: list[Probe], n: int) -> list[list[Probe]]:
        order = torch.randperm(len(probes), generator=self._generator).tolist()
        n_batches = -(-len(probes) // n)
        # of even size, as a shape of its own for a remainder would cost a kernel
        return [[probes[i] for i in order[k::n_batches]] for k in range(n_batches)]
