"""What condensed tokens kept of a text, token by token: measured in the reader process.

Where it sits: ``playground.py`` asks for a stretch of a text, ``reader.py`` calls ``trace``, the
page draws it.

Design decisions

* The target model repeats the text word for word, teacher-forced: once behind the condensed tokens
  and once behind no text at all. What a token costs less behind the condensed tokens is what they
  tell; what it costs in both cases is lost; what it costs in neither needed no telling.
* A stretch begins behind ``LEAD_TOKENS`` tokens of true text in both cases, so that the model knows
  where in the text it stands.
* A call is bounded by ``MAX_TOKENS``, whatever the text's length: it holds the model for as long.
* Tokens that are no whole character by themselves are told together with the next ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from neural_condense_core.gateway.reader_messages import Trace, Traced, TracedPiece
from neural_condense_core.llm.base import TargetLLM, as_segment
from neural_condense_core.llm.decoding import Detokenizer
from neural_condense_core.llm.prompt import reconstruction_prompt

LEAD_TOKENS = 32
MAX_TOKENS = 512


def trace(target: TargetLLM, asked: Trace) -> Traced:
    """Score a stretch of a text behind its condensed tokens and behind none.

    Parameters
    ----------
    target : the model that reads them
    asked : text, condensed tokens and which stretch; one that begins behind the text's end is empty
    """
    ids = target.tokenize(asked.text)
    scored = ids[asked.start : asked.start + min(asked.n_tokens, MAX_TOKENS)]
    if not scored:
        return Traced(len(ids), asked.start, ())
    lead = ids[max(0, asked.start - LEAD_TOKENS) : asked.start]
    prompts = [
        reconstruction_prompt(target, context, lead) for context in (as_segment(asked.tokens), None)
    ]
    condensed, none = target.loglikelihood(prompts, [scored, scored])
    pieces = _pieces(target, scored, condensed.logprobs.tolist(), none.logprobs.tolist())
    return Traced(len(ids), asked.start, pieces)


def _pieces(
    target: TargetLLM, ids: Sequence[int], condensed: Sequence[float], none: Sequence[float]
) -> tuple[TracedPiece, ...]:
    letters = Detokenizer(target.decode)
    found = []
    begin = 0
    for index, token in enumerate(ids):
        is_last = index == len(ids) - 1
        text = letters.push(token)
        if is_last:
            text += letters.flush()
        if not text and not is_last:
            continue
        end = index + 1
        found.append(
            TracedPiece(text, end - begin, -sum(condensed[begin:end]), -sum(none[begin:end]))
        )
        begin = end
    return tuple(found)
