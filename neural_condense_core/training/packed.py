"""A folder of text and questions as token ids: training from it tokenises nothing.

``pack.json`` says for which tokenizer and prompts it was made; ``prose.safetensors`` and
``questions.safetensors`` hold ids in two bytes each (four where the vocabulary is large) and where
each document begins.

Design decisions

* What is stored follows from the files and the tokenizer alone; weights of sources and objectives
  stay in the recipe, so one folder serves many recipes.
* A question is stored as the end of its chat prompt. A folder made with another tokenizer, chat
  template or wording is refused, since it would train for prompts that nobody sends.
* The folder may come from elsewhere: names, types, bounds and ids are checked before use.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from neural_condense_core.errors import ConfigError
from neural_condense_core.llm.base import TargetLLM, token_ids
from neural_condense_core.llm.prompt import answer_prompt
from neural_condense_core.training.data import MAX_DRAWS, TokenRow, weight_of

SCHEMA = 1
INDEX_FILE = "pack.json"
PROSE_FILE = "prose.safetensors"
QUESTIONS_FILE = "questions.safetensors"
MAX_INDEX_BYTES = 1 << 24
MAX_FILE_BYTES = 1 << 33

Ids = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class PackIndex:
    """``pack.json``.

    Parameters
    ----------
    target_model : name of the model whose tokenizer made the ids
    prompts : ``prompts_digest`` of that model
    vocab_size : every id is below it
    sources : names of the prose sources, by the number that documents carry
    separator : token ids between two contexts
    n_prose_tokens, n_questions, n_generated : how much there is
    """

    target_model: str
    prompts: str
    vocab_size: int
    sources: tuple[str, ...]
    separator: tuple[int, ...]
    n_prose_tokens: int
    n_questions: int
    n_generated: int
    schema: int = SCHEMA


def prompts_digest(target: TargetLLM) -> str:
    """Return a hash of what a target makes of texts and questions: tokenizer and chat template."""
    probe = "Kräftig 12,345 tokens: they'll\n\n\tagree (or not)."
    prompt = answer_prompt(target, None, probe)
    seen = [target.tokenize(probe), *(list(token_ids(part)) for part in prompt)]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


class Ragged:
    """Sequences of token ids, one behind the other.

    Parameters
    ----------
    ids : (n_ids,) unsigned
    starts : (n + 1,) int64, where each sequence begins and the last one ends
    """

    def __init__(self, ids: Ids, starts: npt.NDArray[np.int64]) -> None:
        self.ids = ids
        self.starts = starts

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]], vocab_size: int) -> Ragged:
        """Join sequences."""
        dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        parts = [np.asarray(sequence, dtype) for sequence in sequences]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, dtype), *parts]), ends)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> list[int]:
        ids: list[int] = self.ids[self.starts[index] : self.starts[index + 1]].tolist()
        return ids

    def check(self, vocab_size: int, where: str) -> None:
        """Refuse what cannot be.

        Raises
        ------
        ConfigError
            A type or shape is wrong, a start is out of order, or an id is no token.
        """
        ids, starts = self.ids, self.starts
        if ids.dtype not in (np.uint16, np.uint32) or starts.dtype != np.int64:
            raise ConfigError(f"{where} is damaged: ids are {ids.dtype}, starts {starts.dtype}")
        if ids.ndim != 1 or starts.ndim != 1 or not len(starts):
            raise ConfigError(f"{where} is damaged: a table has the wrong shape")
        if starts[0] != 0 or starts[-1] != len(ids) or (np.diff(starts) < 0).any():
            raise ConfigError(f"{where} is damaged: its sequences do not follow each other")
        if len(ids) and int(ids.max()) >= vocab_size:
            raise ConfigError(f"{where} holds the id {ids.max()}; {vocab_size} tokens are known")


@dataclass(frozen=True)
class PackedQuestions:
    """Questions of a packed folder, given ones first.

    Parameters
    ----------
    contexts : distinct contexts
    tails, answers : one a question
    context_of : (n,) int32, which context a question is about
    answer_at : (n,) int32, see ``TokenRow``
    first, end : which questions these are
    """

    contexts: Ragged
    tails: Ragged
    answers: Ragged
    context_of: npt.NDArray[np.int32]
    answer_at: npt.NDArray[np.int32]
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, index: int) -> TokenRow:
        i = self.first + index
        return TokenRow(
            self.contexts[int(self.context_of[i])],
            tuple(self.tails[i]),
            tuple(self.answers[i]),
            int(self.answer_at[i]),
        )


class PackedProse:
    """Documents of a packed folder.

    Parameters
    ----------
    documents : their token ids
    weights : one a document, how likely a stretch is of it, relative
    """

    def __init__(self, documents: Ragged, weights: Sequence[float]) -> None:
        self._documents = documents
        self._cumulative = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random, n_tokens: int) -> tuple[int, ...]:
        """Return a contiguous stretch of exactly ``n_tokens`` token ids.

        Raises
        ------
        ConfigError
            No document in ``MAX_DRAWS`` draws was long enough.
        """
        starts = self._documents.starts
        for _ in range(MAX_DRAWS):
            at = bisect.bisect(self._cumulative, rng.random() * self._cumulative[-1])
            first, end = int(starts[at]), int(starts[at + 1])
            if end - first >= n_tokens:
                start = rng.randint(first, end - n_tokens)
                return tuple(self._documents.ids[start : start + n_tokens].tolist())
        raise ConfigError(f"the prose holds no stretch of {n_tokens} tokens; pack longer texts")


@dataclass(frozen=True)
class PackedDocument:
    """A document on its way into a folder.

    Parameters
    ----------
    ids : of the stretch that is kept
    source : number of its source in ``PackIndex.sources``
    n_whole : how long the whole document is, in characters
    """

    ids: Sequence[int]
    source: int
    n_whole: int


@dataclass(frozen=True)
class Pack:
    """A packed folder that was read and checked."""

    index: PackIndex
    documents: Ragged
    source_of: npt.NDArray[np.int32]
    whole: npt.NDArray[np.int32]
    given: PackedQuestions
    generated: PackedQuestions

    def prose(self, source_weights: Mapping[str, float]) -> PackedProse | None:
        """Return the prose, None if there is none."""
        if not len(self.documents):
            return None
        by_source = [weight_of(source, source_weights) for source in self.index.sources]
        pairs = zip(self.whole.tolist(), self.source_of.tolist(), strict=True)
        # by what a document was before it was cut: packing must not change what is drawn
        return PackedProse(self.documents, [n * by_source[source] for n, source in pairs])


def write_pack(
    folder: Path,
    index: PackIndex,
    documents: Sequence[PackedDocument],
    contexts: Sequence[Sequence[int]],
    rows: Sequence[tuple[int, TokenRow]],
) -> None:
    """Write a folder.

    Parameters
    ----------
    folder : made if missing
    documents : the prose
    contexts : distinct contexts of questions
    rows : (which context, the question), given ones before generated ones
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = index.vocab_size
    prose = Ragged.of([document.ids for document in documents], size)
    save_file(
        {
            "ids": prose.ids,
            "starts": prose.starts,
            "sources": np.asarray([document.source for document in documents], np.int32),
            "whole": np.asarray([document.n_whole for document in documents], np.int32),
        },
        folder / PROSE_FILE,
    )
    tensors: dict[str, Any] = {
        "context_of": np.asarray([number for number, _ in rows], np.int32),
        "answer_at": np.asarray([row.answer_at for _, row in rows], np.int32),
    }
    for name, sequences in (
        ("contexts", contexts),
        ("tails", [row.tail_ids for _, row in rows]),
        ("answers", [row.answer_ids for _, row in rows]),
    ):
        ragged = Ragged.of(sequences, size)
        tensors |= {f"{name}.ids": ragged.ids, f"{name}.starts": ragged.starts}
    save_file(tensors, folder / QUESTIONS_FILE)
    text = json.dumps(asdict(index), indent=2, ensure_ascii=False) + "\n"
    (folder / INDEX_FILE).write_text(text, encoding="utf-8")


def read_pack(folder: Path, target: TargetLLM, vocab_size: int) -> Pack:
    """Read a folder that was made for a target.

    Parameters
    ----------
    folder : what ``condense pack`` wrote
    target : the model that is to be trained for
    vocab_size : how many rows its embeddings have

    Raises
    ------
    ConfigError
        The folder is incomplete or damaged, or was made for another tokenizer or other prompts.
    """
    index = _read_index(folder / INDEX_FILE)
    if index.prompts != prompts_digest(target):
        raise ConfigError(
            f"{folder} was packed for {index.target_model!r}: {target.name!r} has another "
            "tokenizer, chat template or other prompts. Pack again with 'condense pack'"
        )
    prose = _read_tensors(folder / PROSE_FILE, ("ids", "starts", "sources", "whole"))
    documents = Ragged(prose["ids"], prose["starts"])
    documents.check(vocab_size, str(folder / PROSE_FILE))
    source_of, whole = prose["sources"], prose["whole"]
    names = [f"{table}.{part}" for table in _TABLES for part in ("ids", "starts")]
    tensors = _read_tensors(folder / QUESTIONS_FILE, ("context_of", "answer_at", *names))
    tables = {t: Ragged(tensors[f"{t}.ids"], tensors[f"{t}.starts"]) for t in _TABLES}
    for table in tables.values():
        table.check(vocab_size, str(folder / QUESTIONS_FILE))
    n, n_given = index.n_questions + index.n_generated, index.n_questions
    _check_numbers(source_of, len(documents), (0, len(index.sources)), folder)
    _check_numbers(whole, len(documents), (1, 1 << 31), folder)
    _check_numbers(tensors["context_of"], n, (0, len(tables["contexts"])), folder)
    _check_numbers(tensors["answer_at"], n, (-1, 1 << 31), folder)
    if len(tables["tails"]) != n or len(tables["answers"]) != n:
        raise ConfigError(f"{folder} is damaged: {INDEX_FILE} counts {n} questions")
    given, generated = (
        PackedQuestions(**tables, context_of=tensors["context_of"],
                        answer_at=tensors["answer_at"], first=first, end=end)
        for first, end in ((0, n_given), (n_given, n))
    )  # fmt: skip
    return Pack(index, documents, source_of, whole, given, generated)


_TABLES = ("contexts", "tails", "answers")


def _read_index(path: Path) -> PackIndex:
    if not path.is_file():
        raise ConfigError(f"{path.parent} is no packed folder: it has no {path.name}")
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_INDEX_BYTES} bytes")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        sources, separator = tuple(map(str, raw["sources"])), tuple(map(int, raw["separator"]))
        index = PackIndex(**{**raw, "sources": sources, "separator": separator})
        counts = (index.n_questions, index.n_generated)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the index of a packed folder: {error}") from error
    if index.schema != SCHEMA or not all(type(n) is int and n >= 0 for n in counts):
        raise ConfigError(f"{path} is of schema {index.schema}; {SCHEMA} is known here")
    return index


def _read_tensors(path: Path, names: Sequence[str]) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path.parent} is no packed folder: it has no {path.name}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged or not safetensors: {error}") from error
    if sorted(tensors) != sorted(names):
        raise ConfigError(f"{path} must hold {', '.join(sorted(names))} and nothing else")
    return dict(tensors)


def _check_numbers(
    numbers: npt.NDArray[np.int32], n_wanted: int, bounds: tuple[int, int], folder: Path
) -> None:
    """Refuse a table of wrong type or length, or with a number outside [low, high).

    Raises
    ------
    ConfigError
        It is one of these.
    """
    low, high = bounds
    if numbers.dtype != np.int32 or numbers.shape != (n_wanted,):
        raise ConfigError(f"{folder} is damaged: a table of {n_wanted} numbers is not as it says")
    if len(numbers) and (int(numbers.min()) < low or int(numbers.max()) >= high):
        raise ConfigError(f"{folder} is damaged: a number is out of range")
