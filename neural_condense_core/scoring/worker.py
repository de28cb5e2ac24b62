"""The process that holds the target model and scores rounds.

Where it sits: behind ``host.py``, which runs these functions in a process of their own; nothing
here runs in the service's front, which therefore never loads torch.

Design decisions

* What goes wrong comes back as a value: an error of ours as it is, any other by type and place
  only, since its message may quote a context.
* Ctrl-C and SIGTERM reach the whole group; they are ignored here, so that the front can finish. A
  thread that waits for the parent ends this process with it, however the parent ended.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass

from neural_condense_core import errors
from neural_condense_core.errors import ConfigError, NeuralCondenseError, type_and_frames
from neural_condense_core.scoring.service import ScoringService, ServiceConfig
from neural_condense_core.threads import use_threads
from neural_condense_core.wire.scoring import ScoreLimits, decode_score_request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSpec:
    """What the process loads.

    Parameters
    ----------
    target_model, device, dtype, threads : as in ``ScoringSettings``
    baselines : names
    config : what the service accepts
    limits : what a round may hold
    """

    target_model: str
    device: str
    dtype: str
    threads: int
    baselines: tuple[str, ...]
    config: ServiceConfig
    limits: ScoreLimits


@dataclass(frozen=True)
class Loaded:
    """A process that is ready.

    Parameters
    ----------
    target_model : what it scores for
    hidden_size : its width
    """

    target_model: str
    hidden_size: int


# What the functions below work on: a pool's functions share nothing but their module.
_loaded: list[tuple[ScoringService, ScoreLimits]] = []


def prepare(threads: int) -> None:
    """Take the process over: the pool's initializer.

    Parameters
    ----------
    threads : CPU threads of the model
    """
    handled = {signal.SIGINT, signal.SIGTERM}
    for number in handled:
        signal.signal(number, signal.SIG_IGN)
    # The front blocks them while it spawns, so that none arrives before this line.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    use_threads(threads)


def load(spec: WorkerSpec) -> Loaded | NeuralCondenseError:
    """Load the model and its baselines."""
    try:
        service = build_service(spec)
        # Before the first round: it is a pass over the whole table.
        _ = service.vocabulary.mean_norm
    except Exception as error:  # noqa: BLE001 - whatever it is, the front has to know
        return _as_value(error)
    _loaded[:] = [(service, spec.limits)]
    return Loaded(service.target.name, service.target.hidden_size)


def score(body: bytes) -> bytes | NeuralCondenseError:
    """Score a round: bytes of a ``ScoreRequest`` in, JSON of a ``ScoreAnswer`` out."""
    service, limits = _loaded[0]
    try:
        request, tensors = decode_score_request(body, limits)
        return service.score(request, tensors).model_dump_json().encode()
    except Exception as error:  # noqa: BLE001 - whatever it is, the front has to know
        return _as_value(error)


def build_service(spec: WorkerSpec) -> ScoringService:
    """Return a service with its model and baselines loaded.

    Raises
    ------
    ConfigError
        A baseline cannot meet a number of tokens.
    """
    import torch

    from neural_condense_core.condensers.base import BudgetedCondenser
    from neural_condense_core.condensers.checkpoints import load_condenser
    from neural_condense_core.llm.hf import load_target
    from neural_condense_core.scoring.checks import EmbeddingTable

    torch.set_num_threads(spec.threads)
    # The same positional arguments as in the baselines: one cached model for all.
    target = load_target(spec.target_model, spec.device, spec.dtype)
    baselines: list[BudgetedCondenser] = []
    for name in spec.baselines:
        baseline = load_condenser(name, spec.target_model, device=spec.device, dtype=spec.dtype)
        if not isinstance(baseline, BudgetedCondenser):
            raise ConfigError(f"{name!r} cannot meet a number of tokens; it is no baseline")
        baselines.append(baseline)
    return ScoringService(target, EmbeddingTable(target), baselines, spec.config)


def _as_value(error: Exception) -> NeuralCondenseError:
    if type(error).__module__ == errors.__name__ and isinstance(error, NeuralCondenseError):
        return error
    log.error("scoring raised %s", type_and_frames(error))
    return NeuralCondenseError(
        "the scoring service failed; its log says where", {"exception": type(error).__name__}
    )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
