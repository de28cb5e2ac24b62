"""Content negotiation as RFC 9110 section 12.5.1 has it; pure, and knows no format.

Design decisions

* Parameters that no offer has (``charset``, ``version``) do not count against an offer: clients
  add them by habit.
* Between offers of the same quality the one that was named more precisely wins, then the server's
  order: ``Accept: application/x-npy, */*`` means npy.
* Elements that are not well formed are skipped; the length of the header and the number of its
  elements are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

MAX_HEADER_CHARS = 4096
MAX_RANGES = 32

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_ELEMENT = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*")+')
_RANGE = re.compile(rf"\s*({_WORD})/({_WORD})\s*(?=;|$)")
_PARAMETER = re.compile(rf';\s*({_WORD})=({_WORD}|"(?:\\.|[^"\\])*")\s*(?=;|$)')
_QUALITY = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?")


@dataclass(frozen=True)
class Offer:
    """One representation that a server can send.

    Parameters
    ----------
    media_type : lower case, without parameters
    parameters : those that distinguish it, lower case
    """

    media_type: str
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class MediaRange:
    """One well-formed element of an ``Accept`` header.

    Parameters
    ----------
    kind, subtype : lower case, ``"*"`` = any
    parameters : lower case, without ``q``
    quality : 0 (never) to 1
    """

    kind: str
    subtype: str
    parameters: Mapping[str, str]
    quality: float

    def precision(self, offer: Offer, known: frozenset[str]) -> int | None:
        """Return how precisely this range names an offer; None = not at all."""
        kind, _, subtype = offer.media_type.partition("/")
        if self.kind not in {"*", kind} or self.subtype not in {"*", subtype}:
            return None
        named = {key: value for key, value in self.parameters.items() if key in known}
        if any(offer.parameters.get(key) != value for key, value in named.items()):
            return None
        return (self.kind != "*") + (self.subtype != "*") + len(named)


def parse_media_type(text: str) -> tuple[str, dict[str, str]]:
    """Return type and parameters of a ``Content-Type``, lower case; ``""`` if malformed."""
    match = _RANGE.match(text)
    if match is None:
        return "", {}
    parameters: dict[str, str] = {}
    at = match.end()
    while found := _PARAMETER.match(text, at):
        parameters[found[1].lower()] = _unquote(found[2]).lower()
        at = found.end()
    if at != len(text):
        return "", {}
    return f"{match[1]}/{match[2]}".lower(), parameters


def parse_accept(header: str) -> list[MediaRange]:
    """Return the well-formed elements of an ``Accept`` header, in their order."""
    ranges = []
    # Lazily: an unterminated quote costs a scan to the end for every element behind it.
    for element in islice(_ELEMENT.finditer(header[:MAX_HEADER_CHARS]), MAX_RANGES):
        media_type, parameters = parse_media_type(element[0])
        quality = parameters.pop("q", "1")
        kind, _, subtype = media_type.partition("/")
        if kind and _QUALITY.fullmatch(quality) and (kind != "*" or subtype == "*"):
            ranges.append(MediaRange(kind, subtype, parameters, float(quality)))
    return ranges


def choose(header: str, offers: Sequence[Offer]) -> int | None:
    """Return the index of the offer that fits an ``Accept`` header best.

    Parameters
    ----------
    header : empty = anything
    offers : in the server's order of preference

    Returns
    -------
    None if none is acceptable
    """
    if not header.strip():
        return 0
    known = frozenset(key for offer in offers for key in offer.parameters)
    ranges = parse_accept(header)
    best: tuple[float, int] = (0.0, -1)
    chosen: int | None = None
    for index, offer in enumerate(offers):
        fits = [(r.precision(offer, known), r.quality) for r in ranges]
        precise = [(precision, quality) for precision, quality in fits if precision is not None]
        if not precise:
            continue
        precision, quality = max(precise)
        if quality > 0 and (quality, precision) > best:
            best, chosen = (quality, precision), index
    return chosen


def _unquote(value: str) -> str:
    if value.startswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value
