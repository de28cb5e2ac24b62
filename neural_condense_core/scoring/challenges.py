"""Seeded challenges: contexts first, and what is asked about them only once the replies are in.

Where it sits: the validator draws contexts for a round, sends them to miners, and then asks. The
scoring service judges what comes out; ``condense bench`` does the same at home.

Design decisions

* Two seeds. The first makes contexts; the second, to be drawn **after the replies are in**, chooses
  among everything that could be asked. So no reply can hold the answer instead of the text. Both
  come from a source nobody can predict (``secrets``); a seed that is used again repeats the round.
* Every context of a round is its own: draw a miner's contexts by a seed of that miner's, and there
  is nothing to memorise, to share, or to copy. Several in one round let content recovery swap them.
* Six ways of asking, since each alone can be prepared for: the text itself (reconstruction), what
  comes next (conversation), a fact forwards (fact_recall) and backwards (question_answering), a
  blank in a sentence (cloze), and what contradicts the well known (counterfactual).
* Lengths vary as people's texts do, up to the tier's limit, chats and prose mixed: nothing in a
  request's shape tells a test from a user.
* Texts only: no tokenizer, no model. Same arguments, same challenges, on any machine.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from neural_condense_core.errors import ConfigError
from neural_condense_core.registry import suggest
from neural_condense_core.scoring.facts import (
    BLANK,
    Fact,
    Rng,
    draw_counterfactual,
    draw_facts,
    pick,
)
from neural_condense_core.scoring.texts import Generated, TextSource
from neural_condense_core.wire.scoring import Challenge, ChallengeItem

MIN_CONTEXT_CHARS = 240
"""Shortest context in which there is something to ask about."""
SHORTEST_SHARE = 0.4
"""Shortest context, as a share of the longest."""

N_ITEMS = 4
"""What is asked about one context; over a few contexts every task has its turn."""
MAX_ATTEMPTS = 8
"""How often a context of a new document is tried for."""
CHARS_PER_FACT = 220
MAX_FACTS = 16
N_RETOLD = 2
CUE_CHARS = 48
RECITED_CHARS = 160
CONTINUED_CHARS = 200

_CHAT_RECAP = "User: Can you sum up what we know so far?\nAssistant: Certainly."
_RECAPS = (
    "Some time later it was all written down once more.",
    "Before they parted, they went through it again.",
    "The notice on the board repeated the main points.",
)
_CHAT_CUES = ("What about {s}?", "Do you know anything about {s}?", "And {s}?")


@dataclass(frozen=True)
class ContextDraft:
    """A context to condense, and everything that could be asked about it.

    Parameters
    ----------
    id : names the context
    context : the text that miners get, and all they get
    source, document : as in ``Challenge``
    facts : what was put into the text
    questions : (question, answer) pairs of the text's own
    following : how the text goes on; empty where it does not
    is_chat : whether it is a chat
    """

    id: str
    context: str
    source: str
    document: str
    facts: tuple[Fact, ...]
    questions: tuple[tuple[str, str], ...] = ()
    following: str = ""
    is_chat: bool = False


def make_contexts(seed: int, n: int, max_chars: int, texts: TextSource) -> list[ContextDraft]:
    """Draw contexts.

    Parameters
    ----------
    seed : same seed, same contexts
    n : how many
    max_chars : the tier's limit, kept by every context
    texts : where the text around the facts is from

    Returns
    -------
    each of another document, so that any two can be swapped; where the texts are too few for that,
    generated ones stand in

    Raises
    ------
    ConfigError
        ``max_chars`` leaves no room for anything to ask about.
    """
    if max_chars < MIN_CONTEXT_CHARS:
        raise ConfigError(
            f"contexts of at most {max_chars} characters hold too little to ask about; "
            f"{MIN_CONTEXT_CHARS} is the least"
        )
    found: list[ContextDraft] = []
    for index in range(n):
        taken = {draft.document for draft in found}
        draft = _draft(np.random.default_rng([seed, index, 0]), max_chars, texts)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if draft.document not in taken:
                break
            source = texts if attempt < MAX_ATTEMPTS else Generated()
            draft = _draft(np.random.default_rng([seed, index, attempt]), max_chars, source)
        found.append(draft)
    return found


def ask(
    drafts: Sequence[ContextDraft], seed: int, tasks: Sequence[str] | None = None
) -> list[Challenge]:
    """Choose what is asked; call it once the replies are in.

    Parameters
    ----------
    drafts : the contexts
    seed : drawn after the replies came; same seed, same questions
    tasks : of ``TASKS``; None = all
    """
    return [
        Challenge(
            id=draft.id,
            context=draft.context,
            source=draft.source,
            document=draft.document,
            items=draw_items(draft, seed, tasks),
        )
        for draft in drafts
    ]


def make_challenges(seed: int, n: int, max_chars: int, texts: TextSource) -> list[Challenge]:
    """Draw contexts and questions at once, where nobody could cheat: at home, in tests."""
    return ask(make_contexts(seed, n, max_chars, texts), seed)


def draw_items(
    draft: ContextDraft, seed: int, tasks: Sequence[str] | None = None
) -> tuple[ChallengeItem, ...]:
    """Return at most ``N_ITEMS`` items of different tasks.

    Parameters
    ----------
    draft : the context
    seed : same seed, same items
    tasks : of ``TASKS``; None = all; those that the context has nothing for are left out
    """
    found: list[ChallengeItem] = []
    names = check_tasks(tasks)
    order = np.random.default_rng([seed, zlib.crc32(draft.id.encode())]).permutation(len(names))
    for task in [names[int(k)] for k in order]:
        if len(found) == N_ITEMS:
            break
        # A generator a task: what one draws does not shift the others.
        rng = np.random.default_rng([
            seed,
            zlib.crc32(draft.id.encode()),
            zlib.crc32(task.encode()),
        ])
        item = _MAKERS[task](draft, rng)
        if item is not None:
            found.append(item)
    return tuple(found)


def check_tasks(tasks: Sequence[str] | None) -> tuple[str, ...]:
    """Return the tasks to ask, all if none are named.

    Raises
    ------
    ConfigError
        A name is no task.
    """
    for task in tasks or ():
        if task not in TASKS:
            hint = suggest(task, TASKS)
            raise ConfigError(f"unknown task {task!r}.{hint} Known: {', '.join(TASKS)}")
    return TASKS if not tasks else tuple(tasks)


def _draft(rng: Rng, max_chars: int, texts: TextSource) -> ContextDraft:
    shortest = max(MIN_CONTEXT_CHARS, int(SHORTEST_SHARE * max_chars))
    n_chars = int(rng.integers(shortest, max_chars + 1))
    n_facts = min(max(2, n_chars // CHARS_PER_FACT), MAX_FACTS)
    facts = [*draw_facts(rng, n_facts - 1), draw_counterfactual(rng)]
    passage = texts.draw(rng, n_chars)
    told = [_told(rng, fact, is_chat=passage.is_chat) for fact in facts]
    sentences = _fitted(passage.sentences, told, n_chars)
    for text in told:
        sentences.insert(int(rng.integers(len(sentences) + 1)), text)
    context = ("\n" if passage.is_chat else " ").join(sentences)[:max_chars].rstrip()
    kept = tuple(fact for fact in facts if fact.statement in context)
    digest = hashlib.sha256(context.encode("utf-8", "replace")).hexdigest()[:24]
    questions = tuple((q, a) for q, a in passage.questions if a and a in context)
    whole = len(sentences) == len(passage.sentences) + len(told)
    following = passage.following if whole else ""
    return ContextDraft(
        digest, context, passage.source, passage.document, kept, questions, following,
        passage.is_chat,
    )  # fmt: skip


def _fitted(sentences: Sequence[str], told: Sequence[str], n_chars: int) -> list[str]:
    """Return as many of the first sentences as leave room for what is to be told."""
    left = n_chars - sum(len(text) + 1 for text in told)
    found = []
    for sentence in sentences:
        left -= len(sentence) + 1
        if left < 0:
            break
        found.append(sentence)
    return found


def _told(rng: Rng, fact: Fact, *, is_chat: bool) -> str:
    if not is_chat:
        return fact.statement
    cue = pick(rng, _CHAT_CUES).format(s=fact.subject)
    return f"User: {cue}\nAssistant: {fact.statement}"


def _reconstruction(draft: ContextDraft, rng: Rng) -> ChallengeItem | None:
    """Ask for a stretch from a random place; the words just before it say which."""
    starts = [i for i, letter in enumerate(draft.context) if letter == " " and i >= CUE_CHARS]
    starts = [i for i in starts if len(draft.context) - i >= RECITED_CHARS // 2]
    if not starts:
        return None
    start = pick(rng, starts)
    cue = draft.context[start - CUE_CHARS : start].partition(" ")[2]
    target = _at_a_word(draft.context[start:], RECITED_CHARS)
    return ChallengeItem(task="reconstruction", target=target, bridge=cue or None)


def _conversation(draft: ContextDraft, rng: Rng) -> ChallengeItem | None:
    """Ask for what comes next: the text's own next words, or the facts told once more."""
    facts = [fact for fact in draft.facts if not fact.counterfactual]
    if len(draft.following) >= CUE_CHARS + RECITED_CHARS // 2 and rng.integers(2):
        bridge = _at_a_word(draft.following, CUE_CHARS)
        target = _at_a_word(draft.following[len(bridge) :], CONTINUED_CHARS)
        return ChallengeItem(task="conversation", target=target, bridge=bridge)
    if not facts:
        return None
    chosen = [facts[int(k)] for k in rng.permutation(len(facts))[:N_RETOLD]]
    intro = _CHAT_RECAP if draft.is_chat else pick(rng, _RECAPS)
    target = "".join(f" {fact.retold}" for fact in chosen)
    return ChallengeItem(task="conversation", target=target, bridge=intro)


def _fact_recall(draft: ContextDraft, rng: Rng) -> ChallengeItem | None:
    facts = [fact for fact in draft.facts if not fact.counterfactual]
    if not facts:
        return None
    fact = pick(rng, facts)
    return ChallengeItem(task="fact_recall", question=fact.question, target=fact.value)


def _question_answering(draft: ContextDraft, rng: Rng) -> ChallengeItem | None:
    asked = list(draft.questions)
    asked += [(fact.reverse, fact.subject) for fact in draft.facts if fact.reverse]
    if not asked:
        return None
    question, answer = pick(rng, draft.questions or asked)
    return ChallengeItem(task="question_answering", question=question, target=answer)


def _cloze(draft: ContextDraft, rng: Rng) -> ChallengeItem | None:
    facts = [fact for fact in draft.facts if not fact.counterfactual]
    if not facts:
        return None
    fact = pick(rng, facts)
    question = f'What does "{BLANK}" stand for in "{fact.cloze}"?'
    return ChallengeItem(task="cloze", question=question, target=fact.value)


def _counterfactual(draft: ContextDraft, rng: Rng) -> ChallengeItem | None:
    facts = [fact for fact in draft.facts if fact.counterfactual]
    if not facts:
        return None
    fact = pick(rng, facts)
    return ChallengeItem(task="counterfactual", question=fact.question, target=fact.value)


_MAKERS: Mapping[str, Callable[[ContextDraft, Rng], ChallengeItem | None]] = MappingProxyType({
    "reconstruction": _reconstruction,
    "question_answering": _question_answering,
    "conversation": _conversation,
    "cloze": _cloze,
    "fact_recall": _fact_recall,
    "counterfactual": _counterfactual,
})
TASKS = tuple(_MAKERS)
"""Names of the ways of asking."""


def _at_a_word(text: str, n_chars: int) -> str:
    """Return the beginning of a text, cut between two words; the leading space stays."""
    if len(text) <= n_chars:
        return text
    cut = text.rfind(" ", 1, n_chars)
    return text[: cut if cut > 0 else n_chars]
