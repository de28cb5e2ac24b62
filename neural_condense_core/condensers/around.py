"""What every condenser around another one has of that: tokenizer, sizes, number of tokens.

Where it sits: ``budgets.py`` and ``refine.py`` build on it; ``options.py`` names them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from neural_condense_core.condensers.base import Condenser, LoadOptions
from neural_condense_core.errors import ConfigError

if TYPE_CHECKING:
    from neural_condense_core.llm.hf import HFTarget


class AroundCondenser(Condenser):
    """A condenser around another one, for the model that this one condenses for.

    Parameters
    ----------
    inner : makes the condensed tokens; not query-aware
    target : the model that reads them
    value : of the option, for the name

    Raises
    ------
    ConfigError
        ``inner`` is query-aware, has a tokenizer of its own, or its rows are not that model's.
    """

    option: ClassVar[str]
    """How it is asked for: ``"refine"``."""
    example: ClassVar[str]
    """A value of it, for messages."""

    def __init__(self, inner: Condenser, target: HFTarget, value: object) -> None:
        if inner.query_aware:
            raise ConfigError(f"{inner.name} condenses for one question; leave +{self.option} out")
        if not inner.reads_target_tokens:
            raise ConfigError(f"{inner.name} reads tokens of its own; leave +{self.option} out")
        if (inner.target_model, inner.hidden_size) != (target.name, target.hidden_size):
            raise ConfigError(
                f"{inner.name} makes rows of width {inner.hidden_size} for {inner.target_model}, "
                f"and +{self.option} needs those of {target.name}, width {target.hidden_size}"
            )
        self.inner = inner
        self.target = target
        self.name = f"{inner.name}+{self.option}={value}"
        self.target_model = inner.target_model
        self.hidden_size = inner.hidden_size
        self.ratios = inner.ratios

    @classmethod
    def load(cls, options: LoadOptions) -> Self:
        """Refuse: it is made of a loaded condenser.

        Raises
        ------
        ConfigError
            Always.
        """
        raise ConfigError(
            f"+{cls.option} needs a condenser; name it as NAME+{cls.option}={cls.example}"
        )

    def tokenize(self, context: str) -> list[int]:
        """Return the inner condenser's token ids of a context."""
        return self.inner.tokenize(context)

    def tokenizer_json(self) -> str | None:
        """Return the inner condenser's tokenizer."""
        return self.inner.tokenizer_json()

    def n_condensed_tokens(self, n_context_tokens: int, ratio: float) -> int:
        """Return what the inner condenser makes of so many tokens, neither more nor less."""
        return self.inner.n_condensed_tokens(n_context_tokens, ratio)
