"""What the routes of a gateway work with, put together in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neural_condense_core.errors import RequestError
from neural_condense_core.gateway.contexts import Contexts
from neural_condense_core.gateway.door import Door
from neural_condense_core.gateway.metrics import Metrics
from neural_condense_core.gateway.preparing import Preparer
from neural_condense_core.gateway.reading import Reading
from neural_condense_core.gateway.settings import GatewaySettings
from neural_condense_core.gateway.sources import Source


@dataclass(frozen=True)
class Parts:
    """The gateway's parts.

    Parameters
    ----------
    settings : the flags
    reading : the model
    source : who condenses
    contexts : condensed texts
    preparer : requests to prompts
    door : who may ask
    metrics : counters
    others : texts condensed by further condensers, which ``/v1/condense`` takes by name
    """

    settings: GatewaySettings
    reading: Reading
    source: Source
    contexts: Contexts
    preparer: Preparer
    door: Door
    metrics: Metrics
    others: tuple[Contexts, ...] = ()

    def contexts_by(self, condenser: str | None) -> Contexts:
        """Return the contexts of a condenser.

        Parameters
        ----------
        condenser : by name; None = the gateway's own

        Raises
        ------
        RequestError
            No such one is served.
        """
        served = {each.source.name: each for each in (self.contexts, *self.others)}
        if condenser is None:
            return self.contexts
        if condenser not in served:
            raise RequestError(
                f"condenser: served are {', '.join(served)}",
                {"param": "condenser", "served": list(served)},
            )
        return served[condenser]

    def default_ratio(self, source: Source) -> float:
        """Return the compression ratio of requests that name none."""
        own = self.settings.ratio if source is self.source else None
        return own or source.ratio

    def condensers(self) -> list[dict[str, Any]]:
        """Return name and ratios of every condenser, the gateway's own first."""
        return [
            {
                "name": source.name,
                "ratios": source.ratios,
                "default_ratio": self.default_ratio(source),
                "is_ready": source.is_ready,
            }
            for source in (self.source, *(each.source for each in self.others))
        ]
