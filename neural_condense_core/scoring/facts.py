"""Nonce facts: names and numbers that exist nowhere else, stated in a text and asked about later.

Where it sits: ``texts.py`` builds documents of them and drops them between the sentences of real
text; ``challenges.py`` asks.

Design decisions

* Nothing can be memorised: names are made of syllables, codes, years and prices are drawn, and each
  document draws its own. What is asked for is in the text or nowhere.
* A fact is stated in one wording and asked in another, forwards ("what is the code?") and
  backwards ("whose code is it?"), so that a reply cannot prepare for the question.
* A counterfactual says of something well known what is not so: the answer has to follow the text,
  which a condenser that replaces what it read by what the model believes gets wrong.
* Everything is drawn from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Rng = np.random.Generator

BLANK = "___"

_ONSETS = (
    "b", "br", "d", "dr", "f", "fl", "g", "gr", "h", "k", "kl", "l", "m", "n", "p", "pr", "r",
    "s", "st", "t", "tr", "v", "w", "z", "th", "sh",
)  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ae", "ia", "eo", "ou")
_CODAS = ("l", "m", "n", "r", "x", "nd", "rk", "lm", "rn", "ld")
_PLACE_ENDS = ("ford", "holm", "wick", "mere", "by", "stead", "haven", "dale", "bridge", "moor")
_COLOURS = ("red", "blue", "green", "yellow", "white", "black", "grey", "orange", "violet", "brown")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_TRADES = (
    "baker", "carpenter", "surveyor", "nurse", "clockmaker", "translator", "gardener",
    "ferryman", "welder", "librarian", "geologist", "tailor", "beekeeper", "locksmith",
)  # fmt: skip
_INSTRUMENTS = (
    "cello", "flute", "trumpet", "harp", "oboe", "accordion", "banjo", "clarinet", "viola",
    "drum",
)  # fmt: skip
_DISHES = (
    "lentil soup", "plum dumplings", "smoked trout", "barley stew", "goat cheese pie",
    "pickled beets", "mushroom noodles", "rye pancakes", "pear tart", "salted cod",
)  # fmt: skip


def pick(rng: Rng, values: Sequence[T]) -> T:
    """Return one of some values."""
    return values[int(rng.integers(len(values)))]


def nonce_word(rng: Rng, n_syllables: int) -> str:
    """Return a capitalised word that means nothing, least of all something rude."""
    syllables = [pick(rng, _ONSETS) + pick(rng, _VOWELS) for _ in range(n_syllables)]
    return ("".join(syllables) + pick(rng, _CODAS)).capitalize()


def person(rng: Rng) -> str:
    """Return a first name and a surname."""
    return f"{nonce_word(rng, 1 + int(rng.integers(2)))} {nonce_word(rng, 2)}"


def place(rng: Rng) -> str:
    """Return the name of a town."""
    return nonce_word(rng, 1) + pick(rng, _PLACE_ENDS)


def number(rng: Rng, n_digits: int) -> str:
    """Return a number of so many digits that does not begin with 0."""
    return str(int(rng.integers(10 ** (n_digits - 1), 10**n_digits)))


def _of(values: Sequence[str]) -> Callable[[Rng], str]:
    return lambda rng: pick(rng, values)


def _digits(n: int) -> Callable[[Rng], str]:
    return lambda rng: number(rng, n)


def _code(rng: Rng) -> str:
    return f"{nonce_word(rng, 1).upper()[:3]}-{number(rng, 4)}"


@dataclass(frozen=True)
class Kind:
    """A sort of fact.

    Parameters
    ----------
    value : draws one
    statements : wordings, with ``{s}`` for whom it is about and ``{v}`` for the value
    question : asks for the value
    reverse : asks for the subject
    """

    value: Callable[[Rng], str]
    statements: tuple[str, ...]
    question: str
    reverse: str


KINDS: tuple[Kind, ...] = (
    Kind(
        _code,
        (
            "The code of {s}'s locker is {v}.",
            "{s} opens the locker with the code {v}.",
            "To get into the locker of {s} one types {v}.",
        ),
        "What is the code of {s}'s locker?",
        "Whose locker has the code {v}?",
    ),
    Kind(
        place,
        (
            "{s} was born in {v}.",
            "The family of {s} comes from {v}, where {s} was born.",
            "{v} is the town in which {s} was born.",
        ),
        "In which town was {s} born?",
        "Who was born in {v}?",
    ),
    Kind(
        _of(_TRADES),
        (
            "{s} works as a {v}.",
            "For a living, {s} is a {v}.",
            "Everyone knows {s} as the {v} of the street.",
        ),
        "What does {s} work as?",
        "Who works as a {v}?",
    ),
    Kind(
        _of(_DISHES),
        (
            "On feast days {s} always cooks {v}.",
            "The favourite dish of {s} is {v}.",
            "Nobody makes better {v} than {s}.",
        ),
        "Which dish does {s} cook on feast days?",
        "Who cooks {v} on feast days?",
    ),
    Kind(
        _digits(3),
        (
            "{s} takes bus {v} to work.",
            "Every morning {s} waits for bus {v}.",
            "Bus {v} stops in front of the house of {s}.",
        ),
        "Which bus does {s} take?",
        "Who takes bus {v}?",
    ),
    Kind(
        lambda rng: f"{number(rng, 3)} crowns",
        (
            "{s} paid {v} for the bicycle.",
            "The bicycle cost {s} {v}.",
            "It took {v} before {s} could ride home on the bicycle.",
        ),
        "How much did {s} pay for the bicycle?",
        "Who paid {v} for the bicycle?",
    ),
    Kind(
        lambda rng: str(int(rng.integers(1801, 1999))),
        (
            "{s} moved into the old mill in {v}.",
            "It was in {v} that {s} moved into the old mill.",
            "The year in which {s} came to live in the old mill was {v}.",
        ),
        "In which year did {s} move into the old mill?",
        "Who moved into the old mill in {v}?",
    ),
    Kind(
        _of(_COLOURS),
        (
            "{s} painted the front door {v}.",
            "The front door of {s} is {v}.",
            "You will know the house of {s} by its {v} front door.",
        ),
        "What colour is the front door of {s}?",
        "Whose front door is {v}?",
    ),
    Kind(
        lambda rng: nonce_word(rng, 2),
        (
            "{s} has a dog called {v}.",
            "The dog of {s} answers to the name {v}.",
            "A dog named {v} follows {s} everywhere.",
        ),
        "What is the dog of {s} called?",
        "Who has a dog called {v}?",
    ),
    Kind(
        lambda rng: f"{pick(rng, _DAYS)} at {int(rng.integers(7, 21))}:{int(rng.integers(10, 60))}",
        (
            "The next meeting with {s} is on {v}.",
            "{s} asked to meet on {v}.",
            "They agreed to see {s} on {v}.",
        ),
        "When is the meeting with {s}?",
        "With whom is the meeting on {v}?",
    ),
    Kind(
        _digits(4),
        (
            "{s} is staying in room {v}.",
            "Letters for {s} go to room {v}.",
            "Room {v} was given to {s}.",
        ),
        "In which room is {s} staying?",
        "Who is staying in room {v}?",
    ),
    Kind(
        _of(_INSTRUMENTS),
        (
            "{s} plays the {v} in the town band.",
            "In the evening one hears {s} practise the {v}.",
            "The {v} in the town band belongs to {s}.",
        ),
        "Which instrument does {s} play?",
        "Who plays the {v} in the town band?",
    ),
)

_WORLD: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the capital of France", ("Lyon", "Nice", "Lille", "Metz")),
    ("the capital of Japan", ("Osaka", "Kobe", "Nagoya", "Sapporo")),
    ("the colour of ripe bananas", ("blue", "violet", "grey", "red")),
    ("the largest planet of the sun", ("Mars", "Venus", "Mercury", "Saturn")),
    ("the number of days in a week", ("five", "nine", "eleven", "twelve")),
    ("the animal that gives wool", ("the goose", "the otter", "the pike", "the bee")),
    ("the longest river of Egypt", ("the Rhine", "the Volga", "the Danube", "the Po")),
    ("the metal of which rails are made", ("tin", "gold", "lead", "silver")),
    ("the season in which leaves fall", ("spring", "winter", "summer")),
    ("the language of Brazil", ("Danish", "Polish", "Greek", "Finnish")),
    ("the drink made of grapes", ("tea", "cocoa", "coffee", "milk")),
    ("the number of legs of a spider", ("four", "six", "ten", "fourteen")),
)
_FALSE_STATEMENTS = (
    "In this account {s} is {v}, whatever other books may say.",
    "Here, {s} is {v}.",
    "As the chronicle has it, {s} is {v}.",
)


@dataclass(frozen=True)
class Fact:
    """One fact of one document.

    Parameters
    ----------
    subject : whom or what it is about
    value : what is said
    statement : how the document says it
    retold : the same in another wording
    cloze : the statement with a blank for the value
    question : asks for the value
    reverse : asks for the subject; None for what is well known
    counterfactual : whether it contradicts what is well known
    """

    subject: str
    value: str
    statement: str
    retold: str
    cloze: str
    question: str
    reverse: str | None
    counterfactual: bool = False


def draw_fact(rng: Rng, kind: Kind, subject: str | None = None) -> Fact:
    """Return a fact of a kind about a person; None = somebody new."""
    who = subject or person(rng)
    value = kind.value(rng)
    told, retold = rng.permutation(len(kind.statements))[:2]
    return Fact(
        subject=who,
        value=value,
        statement=_said(kind.statements[told], who, value),
        retold=_said(kind.statements[retold], who, value),
        cloze=_said(kind.statements[told], who, BLANK),
        question=kind.question.format(s=who),
        reverse=kind.reverse.format(v=value),
    )


def draw_facts(rng: Rng, n: int) -> list[Fact]:
    """Return so many facts, each kind once before any twice, no subject and no value twice."""
    found: list[Fact] = []
    while len(found) < n:
        for k in rng.permutation(len(KINDS))[: n - len(found)]:
            fact = draw_fact(rng, KINDS[int(k)])
            taken = {text for other in found for text in (other.subject, other.value)}
            if not {fact.subject, fact.value} & taken:
                found.append(fact)
    return found


def draw_counterfactual(rng: Rng) -> Fact:
    """Return a statement that contradicts what is well known."""
    subject, others = pick(rng, _WORLD)
    value = pick(rng, others)
    told, retold = rng.permutation(len(_FALSE_STATEMENTS))[:2]
    return Fact(
        subject=subject,
        value=value,
        statement=_said(_FALSE_STATEMENTS[told], subject, value),
        retold=_said(_FALSE_STATEMENTS[retold], subject, value),
        cloze=_said(_FALSE_STATEMENTS[told], subject, BLANK),
        question=f"What is {subject}?",
        reverse=None,
        counterfactual=True,
    )


def _said(template: str, subject: str, value: str) -> str:
    text = template.format(s=subject, v=value)
    return text[0].upper() + text[1:]
