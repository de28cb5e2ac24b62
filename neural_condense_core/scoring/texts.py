"""Where the texts of challenges come from: generated, installed, a parquet file, or a hub.

Where it sits: below ``challenges.py``, which puts nonce facts into what it gets here and asks.

Design decisions

* The default needs no file and no network: half generated accounts and chats, half stories that
  ship with the package.
* Names and numbers of a real text are replaced throughout, in its questions as well: what a model
  remembers of a published text is of no use, and two draws of one text differ.
* A passage brings what follows it, so that a continuation can be asked for that the miner has not
  seen.
* A file is read once and only so many rows of it; what is drawn depends on the generator alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from neural_condense_core.errors import ConfigError
from neural_condense_core.scoring.facts import (
    Rng,
    nonce_word,
    number,
    person,
    pick,
    place,
)

GENERATED = "generated"
INSTALLED = "installed"
HUB_PREFIX = "hf:"

MAX_ROWS = 20_000
MAX_ROW_CHARS = 200_000
MIN_TEXT_CHARS = 200
FOLLOWING_CHARS = 400

_STORIES = ("cyclone.txt", "munchkins.txt")
_COMMON = frozenset((
    "The", "A", "An", "In", "On", "At", "But", "And", "Then", "When", "While", "After",
    "Before", "He", "She", "It", "They", "We", "You", "His", "Her", "Its", "Their", "There",
    "This", "That", "These", "Those", "What", "Who", "Why", "How", "If", "For", "From", "With",
    "Not", "No", "Yes", "Oh", "Now", "So", "As", "January", "February", "March", "April", "May",
    "June", "July", "August", "September", "October", "November", "December", "Monday",
    "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "English", "French",
    "German",
))  # fmt: skip
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")
_NUMBER = re.compile(r"\b\d{1,6}\b")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'\u201d]?\s+(?=[\"'\u201c]?[A-Z])")


@dataclass(frozen=True)
class Passage:
    """A stretch of text.

    Parameters
    ----------
    source : collection
    document : what it is part of; two documents share no text
    sentences : the text, whole sentences
    following : what comes after it; empty where nothing does
    questions : (question, answer) pairs about it
    is_chat : whether the sentences are the turns of a chat, which stand on lines of their own
    """

    source: str
    document: str
    sentences: tuple[str, ...]
    following: str = ""
    questions: tuple[tuple[str, str], ...] = ()
    is_chat: bool = False


class TextSource(Protocol):
    """Gives passages by a generator."""

    def draw(self, rng: Rng, n_chars: int) -> Passage:
        """Return a passage of about so many characters, never more."""


def open_texts(spec: str | None) -> TextSource:
    """Return a source of texts.

    Parameters
    ----------
    spec : None = generated and installed texts in turn; ``"generated"``; ``"installed"``; the path
        of a parquet file with a column ``text`` or with ``context``, ``question`` and ``answers``;
        or ``"hf:NAME"``, ``"hf:NAME:SPLIT"``, a Hugging Face dataset

    Raises
    ------
    ConfigError
        It is none of these.
    """
    if spec is None:
        return Mixed((Generated(), _installed()))
    if spec == GENERATED:
        return Generated()
    if spec == INSTALLED:
        return _installed()
    if spec.startswith(HUB_PREFIX):
        name, _, split = spec.removeprefix(HUB_PREFIX).partition(":")
        return Rows(name, read_parquet(fetch_parquet(name, split or "train")))
    path = Path(spec)
    if not path.is_file():
        raise ConfigError(
            f"no texts {spec!r}: give {GENERATED}, {INSTALLED}, a parquet file or {HUB_PREFIX}NAME"
        )
    return Rows(path.stem, read_parquet(path))


@dataclass(frozen=True)
class Mixed:
    """Several sources, each as often as any other."""

    sources: tuple[TextSource, ...]

    def draw(self, rng: Rng, n_chars: int) -> Passage:
        """Return a passage of one of the sources."""
        return pick(rng, self.sources).draw(rng, n_chars)


_FILLERS = (
    "It rained for most of the afternoon, and the road to {p} was closed.",
    "Nobody could say afterwards who had left the gate open.",
    "The market in {p} was busier than in other years.",
    "A cold wind came down from the hills, and the boats stayed in the harbour.",
    "{n} had promised to write, but no letter came.",
    "The bell of the small church rang twice and then fell silent.",
    "They waited for a while on the bench by the river.",
    "Later {n} told the story to everyone who would listen.",
    "The train from {p} was late again, as it nearly always is.",
    "By then the lamps along the street had been lit.",
    "There was talk of a new bridge, though few believed in it.",
    "{n} kept a list of such things in a brown notebook.",
    "The baker's window was full of bread, and children stood in front of it.",
    "On the way back they met {n}, who was in a hurry.",
    "For a long time nothing happened that was worth writing down.",
    "The old map on the wall still showed {p} on the wrong side of the river.",
    "Someone laughed in the next room, and a chair fell over.",
    "It had been a good year for apples and a poor one for wheat.",
    "{n} folded the newspaper and looked out at the square.",
    "The clerk asked for patience and went on counting.",
)
_ASKED = (
    "Is there any news from {p}?",
    "What else should I know?",
    "Did {n} say anything more?",
    "Please go on.",
    "And what happened then?",
    "Can you tell me more about that?",
)


@dataclass(frozen=True)
class Generated:
    """Small accounts and chats about people and places that do not exist."""

    def draw(self, rng: Rng, n_chars: int) -> Passage:
        """Return sentences without facts; the challenge adds those."""
        is_chat = bool(rng.integers(2))
        found: list[str] = []
        left = n_chars
        for k in _endlessly(rng, len(_FILLERS)):
            text = _FILLERS[k].format(p=place(rng), n=person(rng))
            if is_chat:
                asked = pick(rng, _ASKED).format(p=place(rng), n=person(rng))
                text = f"User: {asked}\nAssistant: {text}"
            left -= len(text) + 1
            if left < 0:
                break
            found.append(text)
        name = f"{GENERATED}-{int(rng.integers(2**62)):016x}"
        source = f"{GENERATED}-{'chat' if is_chat else 'account'}"
        return Passage(source, name, tuple(found), is_chat=is_chat)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of real text.

    Parameters
    ----------
    source : name of the collection
    rows : (text, question and answer pairs), at least one
    """

    source: str
    rows: Sequence[tuple[str, tuple[tuple[str, str], ...]]]

    def draw(self, rng: Rng, n_chars: int) -> Passage:
        """Return whole sentences of a row from a random place on, names and numbers replaced."""
        text, questions = pick(rng, self.rows)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
        rename = renamer(rng, text)
        whole = bool(questions) and len(text) <= n_chars
        sentences = split_sentences(text)
        start = 0 if whole else int(rng.integers(max(1, len(sentences) // 2)))
        found: list[str] = []
        left = n_chars
        end = start
        for end in range(start, len(sentences)):
            sentence = rename(sentences[end])
            left -= len(sentence) + 1
            if left < 0:
                break
            found.append(sentence)
        else:
            end = len(sentences)
        following = rename(" ".join(sentences[end : end + 4]))[:FOLLOWING_CHARS]
        asked = tuple((rename(q), rename(a)) for q, a in questions) if whole else ()
        return Passage(self.source, f"{self.source}: {digest}", tuple(found), following, asked)


def renamer(rng: Rng, text: str) -> Callable[[str], str]:
    """Return what replaces the names and numbers of a text, each by the same one everywhere.

    A name is a capitalised word that stands inside a sentence.
    """
    new: dict[str, str] = {}
    for name in dict.fromkeys(_NAME.findall(text)):
        if name not in _COMMON:
            new[name] = nonce_word(rng, 1 + int(rng.integers(2)))
    for digits in dict.fromkeys(_NUMBER.findall(text)):
        new[digits] = number(rng, len(digits))
    if not new:
        return lambda given: given
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, new)) + r")\b")
    return lambda given: pattern.sub(lambda match: new[match.group()], given)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, white space made single."""
    plain = " ".join(text.split())
    return [piece for piece in _SENTENCE_END.split(plain) if piece]


def read_parquet(path: Path) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """Read texts, or contexts with their questions, at most ``MAX_ROWS`` rows.

    Parameters
    ----------
    path : parquet with a column ``text``, or ``context`` and, optionally, ``question`` and
        ``answers`` (a list or a map with a list ``text``; the first is gold)

    Raises
    ------
    ConfigError
        It is no parquet file, lacks the columns or holds no usable row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        wanted = [name for name in ("text", "context", "question", "answers") if name in names]
        if "text" not in names and "context" not in names:
            raise ConfigError(f"{path} has neither a column 'text' nor 'context'")
        rows: list[dict[str, Any]] = []
        for batch in file.iter_batches(batch_size=1024, columns=wanted):
            rows += batch.to_pylist()
            if len(rows) >= MAX_ROWS:
                break
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is no parquet file, or a damaged one") from error
    found = _by_text(rows[:MAX_ROWS])
    if not found:
        raise ConfigError(f"{path} has no text of {MIN_TEXT_CHARS} characters or more")
    return found


def fetch_parquet(name: str, split: str) -> Path:
    """Return the first parquet file of a Hugging Face dataset's split, fetched if need be.

    Raises
    ------
    ConfigError
        The hub cannot be reached, or the dataset has no such split.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    revision = "refs/convert/parquet"
    try:
        listed = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        paths = sorted(p for p in listed if p.endswith(".parquet") and split in p.split("/"))
        if not paths:
            raise ConfigError(f"the dataset {name!r} has no parquet file of a split {split!r}")
        return Path(hf_hub_download(name, paths[0], repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ConfigError(
            f"cannot fetch the dataset {name!r} ({type(error).__name__}); without a hub use "
            f"{GENERATED} texts or a parquet file"
        ) from error


def _by_text(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        text = row.get("text") or row.get("context")
        if not isinstance(text, str) or not MIN_TEXT_CHARS <= len(text) <= MAX_ROW_CHARS:
            continue
        pairs = found.setdefault(text, [])
        answer = _gold(row.get("answers"))
        question = row.get("question")
        if isinstance(question, str) and question.strip() and answer:
            pairs.append((question.strip(), answer))
    return [(text, tuple(pairs)) for text, pairs in found.items()]


def _gold(answers: object) -> str | None:
    if isinstance(answers, dict):
        answers = answers.get("text")
    if isinstance(answers, list) and answers and isinstance(answers[0], str):
        return answers[0].strip() or None
    return None


def _installed() -> Rows:
    folder = files("neural_condense_core") / "demo"
    return Rows(INSTALLED, [((folder / name).read_text(encoding="utf-8"), ()) for name in _STORIES])


def _endlessly(rng: Rng, n: int) -> Any:
    while True:
        yield from map(int, rng.permutation(n))
