"""``icae``: the In-Context Autoencoder.

The ``variant`` in ``config.json`` says which: ``spans`` is our own, trained for a small target
model (``icae_spans.py``); ``published-v2`` reads the checkpoints of the authors of ICAE
(``icae_published.py``), also from their ``.safetensors`` file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, cast

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.checkpoints import read_config
from neural_condense_core.condensers.icae_published import PUBLISHED_VARIANT, PublishedIcae
from neural_condense_core.condensers.icae_spans import SpanModule, SpansConfig
from neural_condense_core.condensers.trainable import TrainableCondenser
from neural_condense_core.errors import CheckpointError, ConfigError
from neural_condense_core.llm.hf import HFTarget

SPANS_VARIANT = "spans"


class IcaeCondenser(TrainableCondenser):
    """Memory tokens that read a span of context and leave as condensed tokens.

    Parameters
    ----------
    target : the model to condense for
    config : settings by the names of ``SpansConfig``, and ``variant``

    Raises
    ------
    ConfigError
        A setting is unknown or out of range, or another variant was asked for.
    """

    method = "icae"
    module: SpanModule

    def __init__(self, target: HFTarget, config: dict[str, Any]) -> None:
        settings = {"variant": SPANS_VARIANT, **config}
        variant = settings.pop("variant")
        if variant != SPANS_VARIANT:
            raise ConfigError(
                f"unknown variant {variant!r} of icae; trained here: {SPANS_VARIANT!r}, "
                f"loaded from the authors' files: {PUBLISHED_VARIANT!r}"
            )
        spans = SpansConfig.parse(settings)
        available = len(target.decoder.layers)
        if spans.n_layers > available:
            raise ConfigError(f"n_layers is {spans.n_layers}; {target.name} has {available}")
        super().__init__(target, {"variant": variant, **spans.as_dict()})
        self.ratios = spans.ratios
        self.window_tokens = spans.span_tokens
        self.module = SpanModule(target, spans)

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Load a checkpoint folder of either variant, or a published file.

        Raises
        ------
        CheckpointError
            There is none, or it is damaged or made for another model.
        """
        if options.checkpoint is not None and _is_published(options.checkpoint):
            # another class behind the same name: whoever loads by name sees a condenser
            return cast("Self", PublishedIcae.load(options))
        try:
            condenser = super().load(options)
        except CheckpointError:
            raise
        except ConfigError as error:
            raise CheckpointError(f"{options.checkpoint}: {error.message}") from error
        offered, possible = condenser.ratios or (), condenser.config["ratios"]
        if not offered or not set(offered) <= set(possible):
            raise CheckpointError(
                f"{options.checkpoint} offers ratios {list(offered)}; its settings allow {possible}"
            )
        return condenser


def _is_published(checkpoint: Path) -> bool:
    if checkpoint.is_file():
        return True
    return read_config(checkpoint).config.get("variant") == PUBLISHED_VARIANT
