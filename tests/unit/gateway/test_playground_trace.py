"""What a stretch of a text costs token by token: as the model itself says, in whole characters."""

from __future__ import annotations

import numpy as np
import pytest

from neural_condense_core.gateway.playground_trace import LEAD_TOKENS, MAX_TOKENS, trace
from neural_condense_core.gateway.reader_messages import Trace
from neural_condense_core.llm.base import as_segment
from neural_condense_core.llm.hf import load_target
from neural_condense_core.llm.prompt import reconstruction_prompt
from neural_condense_core.tokens import CondensedTokens

TEXT = "The caf\u00e9 was quiet \U0001f600 when they came. " * 40


@pytest.fixture(scope="module")
def target(tiny_llama):
    return load_target(tiny_llama, dtype="float32")


@pytest.fixture(scope="module")
def tokens(target):
    ids = target.tokenize(TEXT)[:40]
    return CondensedTokens(target.embed(ids), target.name, 4 * len(ids))


def test_the_losses_are_those_of_the_model(target, tokens):
    found = trace(target, Trace(TEXT, tokens, 100, 64))
    ids = target.tokenize(TEXT)
    assert (found.n_tokens, found.start) == (len(ids), 100)
    lead, scored = ids[100 - LEAD_TOKENS : 100], ids[100:164]
    for name, context in (("condensed", as_segment(tokens)), ("none", None)):
        prompt = reconstruction_prompt(target, context, lead)
        ((alone),) = target.loglikelihood([prompt], [scored])
        total = sum(getattr(piece, name) for piece in found.pieces)
        assert total == pytest.approx(alone.loss, rel=1e-4)
    assert sum(piece.n_tokens for piece in found.pieces) == 64
    assert found.pieces[0].condensed != pytest.approx(found.pieces[0].none)


def test_pieces_are_whole_characters_and_join_to_the_text(target, tokens):
    found = trace(target, Trace(TEXT, tokens, 0, len(TEXT[:50].encode())))
    assert "".join(piece.text for piece in found.pieces) == TEXT[:50]
    sizes = {piece.text: piece.n_tokens for piece in found.pieces}
    assert (sizes["T"], sizes["\u00e9"], sizes["\U0001f600"]) == (1, 2, 4)


def test_a_stretch_that_ends_inside_a_character_keeps_its_tokens(target, tokens):
    end = TEXT.encode().index("\u00e9".encode()) + 1
    found = trace(target, Trace(TEXT, tokens, 0, end))
    assert sum(piece.n_tokens for piece in found.pieces) == end
    assert found.pieces[-1].text == "\ufffd"


def test_it_is_bounded_and_empty_behind_the_end(target, tokens):
    found = trace(target, Trace(TEXT, tokens, 0, 10_000))
    assert sum(piece.n_tokens for piece in found.pieces) == MAX_TOKENS
    n = len(target.tokenize(TEXT))
    assert trace(target, Trace(TEXT, tokens, n, 8)).pieces == ()
    assert sum(p.n_tokens for p in trace(target, Trace(TEXT, tokens, n - 3, 8)).pieces) == 3


def test_its_losses_are_finite_nats_above_zero(target, tokens):
    found = trace(target, Trace(TEXT, tokens, 0, 100))
    values = np.array([[piece.condensed, piece.none] for piece in found.pieces])
    assert np.isfinite(values).all()
    assert (values > 0).all()
