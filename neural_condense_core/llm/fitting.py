"""Whether a prompt fits an engine: in width, in length, in what it asks of positions."""

from __future__ import annotations

from typing import Protocol

from neural_condense_core.errors import RequestError, UnsupportedError
from neural_condense_core.llm.base import Embeds, Prompt


class Window(Protocol):
    """What a target model has room for."""

    name: str
    hidden_size: int
    max_positions: int


def require_fitting(window: Window, prompt: Prompt, start: int, room: int, *, engine: str) -> int:
    """Return the rows of a prompt for an engine that takes no explicit positions.

    Parameters
    ----------
    window : the target model
    prompt : what it is to read
    start : rows that stand before it
    room : tokens it is to make
    engine : the engine's name, for messages

    Raises
    ------
    RequestError
        The prompt is too long, or its rows are of another model.
    UnsupportedError
        It has positions with gaps.
    """
    for segment in prompt:
        if not isinstance(segment, Embeds):
            continue
        if segment.embeds.shape[1] != window.hidden_size:
            raise RequestError(
                f"{window.name} reads rows of {window.hidden_size}, these have "
                f"{segment.embeds.shape[1]}; condense for the model that answers"
            )
        if not segment.is_gapless:
            raise UnsupportedError(
                f"{engine} takes no explicit positions: rows must follow each other without gaps; "
                "leave the positions out, or use the transformers engine"
            )
    n = sum(map(len, prompt))
    needed = start + n + room
    if needed > window.max_positions:
        raise RequestError(
            f"the prompt and {room} new tokens take {needed} positions and {window.name} has "
            f"{window.max_positions}",
            {"positions": needed, "max_positions": window.max_positions},
        )
    return n
