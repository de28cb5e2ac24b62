"""Generated questions: unlimited, with exact answers that stand in the text. No torch.

* *cloze*: one word of the sentence that follows a stretch of prose is blanked; it is a name or a
  number that the stretch holds.
* *facts*: facts about people who do not exist, between the sentences of a text; one is asked for.
* *key_value*: a list of keys and values; one value is asked for.
* *counterfactual*: a real question whose answer is replaced throughout its context by another of
  the same type, so that the answer can come from nowhere but the text.

Design decisions

* Every answer is a literal part of its context, so a context can be cut to any length around it.
* Names are made of syllables: a list of names would be learned by heart, and two texts that stand
  side by side would share people.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MAX_TRIES = 40
CHARACTERS = (300, 1100)
"""Shortest and longest generated context."""

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z])")
_WORD = re.compile(r"\b(?:[A-Z][a-z]{2,}|\d{2,})\b")
_MIN_SENTENCES = 3

_ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "kl", "l", "m", "n", "p", "r", "s", "st",
           "t", "tr", "v", "z")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
_CODAS = ("l", "n", "r", "s", "th", "nd", "rk", "m", "sh", "")
_PLACES = ("harbour", "library", "mill", "school", "station", "market", "theatre", "lighthouse")
_TRADES = ("baker", "carpenter", "surveyor", "violinist", "botanist", "tailor", "printer", "diver",
           "clockmaker", "translator", "geologist", "beekeeper")  # fmt: skip
_COLOURS = ("red", "green", "blue", "amber", "violet", "white", "copper", "grey", "crimson")
_THINGS = ("lamp", "boat", "cabinet", "engine", "ladder", "mirror", "parcel", "wagon", "clock")
_ANIMALS = ("heron", "terrier", "tortoise", "parrot", "goat", "ferret", "pony", "cat")


@dataclass(frozen=True)
class GeneratedQuestion:
    """A question whose answer is a literal part of its context."""

    kind: str
    context: str
    question: str
    answer: str


@dataclass(frozen=True)
class Attribute:
    """A kind of fact about a person: how it is told, how it is asked for, what it may be."""

    told: tuple[str, ...]
    asked: tuple[str, ...]
    draw: Callable[[random.Random], str]


def invented_name(rng: random.Random) -> str:
    """Return a name that nobody bears, ``"Torvand Melisk"``."""
    return f"{_invented_word(rng)} {_invented_word(rng)}"


def _invented_word(rng: random.Random) -> str:
    syllables = (
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for _ in range(rng.choice((1, 2, 2)))
    )
    return "".join(syllables).capitalize()


def _number(low: int, high: int) -> Callable[[random.Random], str]:
    return lambda rng: str(rng.randint(low, high))


def _one_of(choices: Sequence[str]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(choices)


ATTRIBUTES = (
    Attribute(
        ("{who} was born in {what}.", "The town {who} comes from is {what}."),
        ("Where was {who} born?", "Which town does {who} come from?"),
        _invented_word,
    ),
    Attribute(
        ("{who} works as a {what}.", "For a living, {who} is a {what}."),
        ("What does {who} work as?", "What is the trade of {who}?"),
        _one_of(_TRADES),
    ),
    Attribute(
        ("{who} was born in the year {what}.", "The year of birth of {who} is {what}."),
        ("In which year was {who} born?",),
        _number(1780, 1999),
    ),
    Attribute(
        ("The telephone number of {who} is {what}.", "You reach {who} under {what}."),
        ("What is the telephone number of {who}?",),
        _number(100_000, 999_999),
    ),
    Attribute(
        ("{who} keeps a {what}.", "At home {who} has a {what}."),
        ("Which animal does {who} keep?",),
        _one_of(_ANIMALS),
    ),
    Attribute(
        ("The favourite colour of {who} is {what}.", "{who} likes {what} best of all colours."),
        ("Which colour does {who} like best?",),
        _one_of(_COLOURS),
    ),
    Attribute(
        ("{who} is married to {what}.", "The spouse of {who} is {what}."),
        ("Who is married to {who}?", "What is the name of the spouse of {who}?"),
        invented_name,
    ),
    Attribute(
        ("{who} meets the others at the {what}.", "On Mondays {who} waits at the {what}."),
        ("Where does {who} meet the others?", "Where is {who} on Mondays?"),
        _one_of(_PLACES),
    ),
    Attribute(
        ("{who} owes the bank {what} crowns.", "The debt of {who} is {what} crowns."),
        ("How many crowns does {who} owe?",),
        _number(11, 9_999),
    ),
)


class QuestionGenerator:
    """Makes questions from a generator of random numbers; the same state, the same question.

    Parameters
    ----------
    texts : running text for cloze and to put facts between; may be empty
    questions : rows with ``context``, ``question`` and ``answers`` to turn into counterfactuals;
        may be empty
    """

    def __init__(self, texts: Sequence[str], questions: Sequence[Mapping[str, object]]) -> None:
        self._texts = [text for text in texts if len(text) > CHARACTERS[0]]
        self._questions = [found for row in questions if (found := _first_answer(row))]
        self._answers: dict[str, list[str]] = {}
        for _, _, answer in self._questions:
            self._answers.setdefault(_type_of(answer), []).append(answer)
        self._makers: dict[str, Callable[[random.Random], GeneratedQuestion | None]] = {
            "cloze": self._cloze,
            "facts": self._facts,
            "key_value": self._key_value,
            "counterfactual": self._counterfactual,
        }

    def make(self, rng: random.Random, kind: str) -> GeneratedQuestion | None:
        """Return a question of a kind; None where the texts at hand allow none."""
        for _ in range(MAX_TRIES):
            made = self._makers[kind](rng)
            if made is not None and made.answer in made.context:
                return made
        return None

    def _sentences(self, rng: random.Random, n_characters: int) -> list[str]:
        if not self._texts:
            return []
        text = rng.choice(self._texts)
        start = rng.randrange(max(1, len(text) - n_characters))
        stretch = " ".join(text[start : start + n_characters].split())
        return _SENTENCE_END.split(stretch)[1:-1]  # the first and the last may be cut

    def _cloze(self, rng: random.Random) -> GeneratedQuestion | None:
        sentences = self._sentences(rng, rng.randint(*CHARACTERS) + CHARACTERS[0])
        if len(sentences) <= _MIN_SENTENCES:
            return None
        context, last = " ".join(sentences[:-1]), sentences[-1]
        found = [
            match for match in _WORD.finditer(last)
            if match.start() > 0 and re.search(rf"\b{match.group()}\b", context)
        ]  # fmt: skip
        if not found:
            return None
        blank = rng.choice(found)
        gap = f"{last[: blank.start()]}____{last[blank.end() :]}"
        question = f"Which word is missing from the sentence that comes next? {gap}"
        return GeneratedQuestion("cloze", context, question, blank.group())

    def _facts(self, rng: random.Random) -> GeneratedQuestion | None:
        people = [invented_name(rng) for _ in range(rng.randint(1, 3))]
        told: list[tuple[str, str, str]] = []
        for who in people:
            for attribute in rng.sample(ATTRIBUTES, rng.randint(2, 5)):
                what = attribute.draw(rng)
                told.append((
                    rng.choice(attribute.told).format(who=who, what=what),
                    rng.choice(attribute.asked).format(who=who),
                    what,
                ))
        asked = rng.choice(told)
        rng.shuffle(told)
        wanted = rng.randint(*CHARACTERS) - sum(len(fact) for fact, _, _ in told)
        sentences = self._sentences(rng, wanted) if wanted > 0 else []
        for fact, _, _ in told:
            sentences.insert(rng.randint(0, len(sentences)), fact)
        return GeneratedQuestion("facts", " ".join(sentences), asked[1], asked[2])

    def _key_value(self, rng: random.Random) -> GeneratedQuestion | None:
        pairs: dict[str, str] = {}
        for _ in range(rng.randint(4, 24)):
            key = rng.choice((
                f"{rng.choice(_COLOURS)} {rng.choice(_THINGS)}",
                _invented_word(rng).lower(),
                f"{_invented_word(rng)}-{rng.randint(2, 99)}",
            ))
            pairs[key] = rng.choice((
                str(rng.randint(1000, 999_999)), _invented_word(rng), rng.choice(_ANIMALS)
            ))  # fmt: skip
        line = rng.choice(("{}: {}", "The value of {} is {}.", "{} = {}", "- {} -> {}"))
        context = "\n".join(line.format(key, value) for key, value in pairs.items())
        key = rng.choice(list(pairs))
        question = rng.choice(("What is the value of {}?", "Which value belongs to {}?"))
        return GeneratedQuestion("key_value", context, question.format(key), pairs[key])

    def _counterfactual(self, rng: random.Random) -> GeneratedQuestion | None:
        if not self._questions:
            return None
        context, question, answer = rng.choice(self._questions)
        kind = _type_of(answer)
        is_number = kind == "number"
        new = _other_number(rng, answer) if is_number else rng.choice(self._answers[kind])
        whole = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
        if new in context or whole.search(question) or not whole.search(context):
            return None
        edited = whole.sub(lambda _: new, context)
        return GeneratedQuestion("counterfactual", edited, question, new)


def _first_answer(row: Mapping[str, object]) -> tuple[str, str, str] | None:
    """Return (context, question, answer) of a row whose answer can be swapped, else None."""
    context, question, answers = row["context"], row["question"], row["answers"]
    if not (isinstance(context, str) and isinstance(question, str) and isinstance(answers, list)):
        return None
    answer = str(answers[0]).strip() if answers else ""
    return (context, question, answer) if _type_of(answer) != "other" else None


def _type_of(answer: str) -> str:
    """Return what an answer may be swapped for: a number, a name of one or of more words."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+|\d+", answer):
        return "number"
    words = answer.split()
    if 1 <= len(words) <= 3 and all(re.fullmatch(r"[A-Z][\w'-]+", word) for word in words):
        return "name" if len(words) == 1 else "names"
    return "other"


def _other_number(rng: random.Random, answer: str) -> str:
    """Return another number with as many digits, written alike."""
    digits = answer.replace(",", "")
    low = 10 ** (len(digits) - 1) if len(digits) > 1 else 1
    new = rng.randint(low, 10 ** len(digits) - 1)
    return f"{new:,}" if "," in answer else str(new)


def generate_rows(
    generator: QuestionGenerator, kinds: Mapping[str, float], n_rows: int, seed: int
) -> list[dict[str, object]]:
    """Return generated questions as rows of a question file.

    A kind for which the texts at hand hold nothing gives no rows; the others then give its share.

    Parameters
    ----------
    kinds : kind -> how often, relative
    """
    rng = random.Random(f"{seed}:generated")  # noqa: S311 - sampling, no secret
    weights = {kind: weight for kind, weight in sorted(kinds.items()) if weight > 0}
    rows: list[dict[str, object]] = []
    while len(rows) < n_rows and weights:
        kind = rng.choices(list(weights), list(weights.values()))[0]
        made = generator.make(rng, kind)
        if made is None:
            del weights[kind]
            continue
        rows.append({
            "kind": made.kind,
            "context": made.context,
            "question": made.question,
            "answers": [made.answer],
        })
    return rows
