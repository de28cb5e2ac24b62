"""The messages of the scoring service, and a round of replies as bytes.

Where it sits: the validator writes requests and reads answers with these, the service the other way
round. They are texts and matrices; no tokenizer and no model is needed on the validator's side.

Design decisions

* One body for a round: a safetensors file whose tensors are the replies, by reply id, and whose
  metadata holds the request. So a matrix is never written as text.
* What a miner sent is not judged here. A tensor with a NaN or three dimensions arrives as such and
  gets a code of its own; a fault of the *request* (ids that do not match, too many replies) refuses
  the whole, since only a validator can have made it.
* An answer is complete: per miner and task the losses that the ratios were made of.
* Faults name the field and the rule, never the value: contexts are private.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neural_condense_core.errors import CodecError, RequestError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.messages import Message
from neural_condense_core.wire.tensor_bundle import (
    Array,
    BundleLimits,
    read_bundle,
    write_bundle,
)

M = TypeVar("M", bound=BaseModel)

SCORE_PATH = "/v1/score"
MEDIA_TYPE = "application/vnd.safetensors"
REQUEST_KEY = "request"

MAX_ID_CHARS = 256
MAX_NAME_CHARS = 256
MAX_ITEMS = 64
MAX_TEXT_CHARS = 1_000_000
MAX_CHOICES = 16

ReplyCode = Literal["ok", "not_finite", "norm", "wrong_width", "too_many_tokens", "shape", "copied"]
REPLY_CODES: tuple[ReplyCode, ...] = (
    "ok",
    "not_finite",  # NaN or infinity
    "norm",  # a row far shorter or longer than the model's own embeddings
    "wrong_width",
    "too_many_tokens",
    "shape",  # not (n, hidden) with n from 1 on
    "copied",  # an earlier reply to the same context, all but the noise
)

Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]


class _Message(Message):
    model_config = ConfigDict(
        validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )


class ChallengeItem(_Message):
    """One thing to say about a context, and the text that counts as having said it."""

    task: Name = Field(description="reconstruction, question_answering, conversation, cloze, ...")
    question: Text | None = Field(default=None, description="for tasks that ask")
    target: Text = Field(description="the text that the target model is scored on")
    bridge: Text | None = Field(
        default=None, description="text with which the reply has begun; every variant sees it"
    )
    choices: tuple[Text, ...] | None = Field(
        default=None, max_length=MAX_CHOICES, description="offered with the question"
    )


class Challenge(_Message):
    """A context that miners condensed, and what is asked about it."""

    id: Id
    context: Text
    source: Name = Field(description="collection; a context is swapped with one of the same")
    document: Name = Field(description="contexts of two documents share no text")
    items: tuple[ChallengeItem, ...] = Field(max_length=MAX_ITEMS)


class ReplyRef(_Message):
    """Which miner answered which challenge; the tensor has the same id."""

    id: Id
    miner: Id
    challenge: Id


class ScoreRequest(_Message):
    """A round: what was asked and who answered, in the order in which the replies arrived."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    target_model: Name
    seed: int = Field(ge=0, lt=2**63)
    challenges: tuple[Challenge, ...]
    replies: tuple[ReplyRef, ...]


class TaskScore(_Message):
    """What a miner's tokens were worth in one task; losses in nats per target token.

    ``loss_other`` is as C counts it: each item's at most the larger of no context's and the other
    full text's.
    """

    content_recovery: float | None
    recovery: float | None
    n: int = Field(ge=0, description="items that counted")
    loss_own: float
    loss_other: float
    loss_none: float
    loss_full: float


class BaselineScore(_Message):
    """The best training-free method at the miner's own numbers of tokens."""

    name: str
    content_recovery: float
    recovery: float | None = None


class ReplyScore(_Message):
    """What became of one reply."""

    code: ReplyCode
    n_condensed: int | None = None


class MinerScore(_Message):
    """What a miner's replies were worth, all parts beside."""

    content_recovery: float | None
    recovery: float | None
    best_baseline: BaselineScore | None = None
    n_items: int = Field(ge=0)
    tasks: dict[str, TaskScore] = Field(default_factory=dict)
    replies: dict[str, ReplyScore] = Field(default_factory=dict)


class ScoreAnswer(_Message):
    """The service's answer to a round."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    target_model: str
    seconds: float = Field(ge=0)
    miners: dict[str, MinerScore]


class ScoringInfo(_Message):
    """Body of ``GET /info``."""

    target_model: str
    hidden_size: int
    max_condensed_tokens: int
    max_body_bytes: int
    max_replies: int
    max_challenges: int
    tasks: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ()
    min_norm: float | None = None
    max_norm: float | None = None


@dataclass(frozen=True)
class ScoreLimits:
    """What a scoring service accepts.

    Parameters
    ----------
    max_bytes : the whole body, bytes
    max_header_bytes : of which contexts, questions and names
    max_replies : miners times contexts
    max_challenges : contexts
    """

    max_bytes: int = 64_000_000
    max_header_bytes: int = 16_000_000
    max_replies: int = 1024
    max_challenges: int = 256


def encode_score_request(
    request: ScoreRequest, tensors: Mapping[str, CondensedTokens], dtype: str | None = None
) -> bytes:
    """Write a round.

    Parameters
    ----------
    request : what was asked and who answered
    tensors : reply id -> condensed tokens, one a reply of the request
    dtype : dtype on the wire; None = as they are

    Raises
    ------
    RequestError
        The tensors are not one a reply.
    """
    if {reply.id for reply in request.replies} != tensors.keys():
        raise RequestError("a scoring request needs exactly one tensor a reply")
    # In the request's order: the same round always gives the same bytes.
    ordered = {reply.id: tensors[reply.id].embeds for reply in request.replies}
    return write_bundle(ordered, {REQUEST_KEY: request.model_dump_json()}, dtype)


def decode_score_request(data: bytes, limits: ScoreLimits) -> tuple[ScoreRequest, dict[str, Array]]:
    """Read a round from outside.

    A request that contradicts itself, its tensors or the limits is a ``RequestError``.

    Parameters
    ----------
    data : what ``encode_score_request`` wrote
    limits : what is accepted

    Returns
    -------
    the request; reply id -> float32 or float16 matrix of any shape, its values unchecked

    Raises
    ------
    CodecError
        The bytes are no such file.
    """
    bundle = BundleLimits(limits.max_bytes, limits.max_header_bytes, limits.max_replies)
    tensors, metadata = read_bundle(data, bundle)
    if REQUEST_KEY not in metadata:
        raise CodecError(f"the metadata holds no {REQUEST_KEY!r}", {"reason": "metadata"})
    request = parse_message(ScoreRequest, metadata[REQUEST_KEY].encode("utf-8", "replace"))
    _check_sizes(request, limits)
    _check_ids(request, tensors)
    return request, tensors


def parse_message(kind: type[M], body: bytes) -> M:
    """Read one of the messages above from JSON.

    Raises
    ------
    RequestError
        It is something else; detail names the fields at fault.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        # Not chained: the input is in it.
        faults = _faults(error)
    listed = "; ".join(f"{field}: {fault}" for field, fault in faults.items())
    raise RequestError(f"not a {kind.__name__}: {listed}", {"fields": faults})


def _check_sizes(request: ScoreRequest, limits: ScoreLimits) -> None:
    for what, found, limit in (
        ("replies", len(request.replies), limits.max_replies),
        ("challenges", len(request.challenges), limits.max_challenges),
    ):
        if found > limit:
            raise RequestError(f"{found} {what}, at most {limit} are scored at once; split them")


def _check_ids(request: ScoreRequest, tensors: Mapping[str, Array]) -> None:
    challenges = [challenge.id for challenge in request.challenges]
    replies = [reply.id for reply in request.replies]
    pairs = [(reply.miner, reply.challenge) for reply in request.replies]
    for what, found in (("challenge id", challenges), ("reply id", replies)):
        if len(set(found)) < len(found):
            raise RequestError(f"a {what} stands there twice")
    if len(set(pairs)) < len(pairs):
        raise RequestError("a miner has two replies to one challenge")
    if not {reply.challenge for reply in request.replies} <= set(challenges):
        raise RequestError("a reply is to a challenge that is not there")
    if set(replies) != tensors.keys():
        raise RequestError("a scoring request needs exactly one tensor a reply")


def _faults(error: ValidationError) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        # Names and numbers of fields only: a key of a map may be anything.
        field = ".".join(str(part) for part in item["loc"][:4]) or "body"
        found.setdefault(field[:100], item["msg"])
        if len(found) == 8:
            break
    return found


def as_condensed(tensor: Array, target_model: str, n_context_tokens: int) -> CondensedTokens:
    """Return a checked matrix as condensed tokens in float32."""
    return CondensedTokens(tensor.astype(np.float32), target_model, n_context_tokens)
