"""Drawings inside a page: colours that follow light and dark, and SVG made ready for HTML.

Where it sits: below the pages that show plots; what is drawn is theirs.

Design decisions

* Colours are drawn as marks and replaced by CSS variables, so one drawing serves light and dark;
  a picture that stands alone carries the variables in a style of its own.
* Text stays text, and every drawing says what it shows to who does not see it.
* The same drawing gives the same bytes with the same matplotlib, which is imported on the first.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIGHT = {
    "paper": "#ffffff", "ink": "#1b1f23", "grid": "#d5dade", "muted": "#5c636b",
    "series-0": "#0060a8", "series-1": "#b34700", "series-2": "#00705a", "series-3": "#8a3a8f",
    "series-4": "#7a5c00", "series-5": "#b0003a",
}  # fmt: skip
DARK = {
    "paper": "#14171a", "ink": "#e6e9ec", "grid": "#3a4148", "muted": "#a4adb6",
    "series-0": "#6cb6ff", "series-1": "#ff9d5c", "series-2": "#4fd1a8", "series-3": "#d79be0",
    "series-4": "#e0c04a", "series-5": "#ff8a9a",
}  # fmt: skip

MARK = {name: f"#0a0b{i:02x}" for i, name in enumerate(LIGHT)}
"""Unlikely colours to draw with; they stand for variables until the drawing is done."""

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": MARK["ink"],
    "axes.labelcolor": MARK["ink"],
    "axes.edgecolor": MARK["muted"],
    "axes.titlesize": 10,
    "xtick.color": MARK["ink"],
    "ytick.color": MARK["ink"],
    "grid.color": MARK["grid"],
    "legend.frameon": False,
}
_REFERENCE = re.compile(r"""((?:\bid=|\bhref=)"#?|url\(#)""")
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def stylesheet(indent: str = "") -> str:
    """Return CSS that gives the colours, light and dark."""
    light, dark = (
        " ".join(f"--{name}: {value};" for name, value in palette.items())
        for palette in (LIGHT, DARK)
    )
    return (
        f":root {{ color-scheme: light dark; {light} }}\n{indent}"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )


def render(make: Callable[[], Figure], key: str, about: str, *, alone: bool = False) -> str:
    """Return a drawing as an ``<svg>`` element.

    Parameters
    ----------
    make : draws, with the colours of ``MARK``
    key : tells the elements of several drawings in one page apart
    about : the drawing in one sentence, for who does not see it
    alone : for a file of its own: with colours and a background
    """
    from matplotlib import rc_context

    settings: Any = {**_SETTINGS, "svg.hashsalt": key}
    with rc_context(settings):
        out = io.StringIO()
        make().savefig(out, format="svg", metadata=_NO_METADATA)
    return _finish(out.getvalue(), key, about, alone=alone)


def _finish(text: str, key: str, about: str, *, alone: bool) -> str:
    """Cut the prologue; put variables for colours, names of its own and a description in."""
    body = text[text.index("<svg") :].rstrip()
    for name, mark in MARK.items():
        body = body.replace(mark, f"var(--{name})")
    prefix = re.sub(r"[^a-z0-9]+", "-", key.lower())
    body = _REFERENCE.sub(rf"\g<1>{prefix}-", body)
    head, _, rest = body.partition(">")
    said = escape(about)
    if not alone:
        head = re.sub(r' (width|height)="[^"]*"', "", head)
        return f'{head} role="img" aria-label="{said}">{rest}'
    style = f"<style>\n{stylesheet()}\nsvg {{ background: var(--paper); }}\n</style>"
    return f'{head} role="img"><title>{said}</title>{style}{rest}\n'
