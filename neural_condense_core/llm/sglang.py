"""``SGLangTarget``: a model behind SGLang's HTTP server as a frozen target model.

The server is started with ``--disable-radix-cache``; it refuses ``input_embeds`` otherwise.

Design decisions

* ``/generate`` takes either ``input_ids`` or ``input_embeds``, the latter as JSON floats. They are
  written with as few digits as float32 needs to come back exactly.
* SGLang streams the whole answer so far in every event, unless it was started to stream increments;
  it is asked once which of the two it does.
* Likelihoods come from the server's logprobs of a prompt of ids. For embeddings it has none, and
  that is refused rather than approximated.
* A seed is honoured only by a server that computes deterministically; any other is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from neural_condense_core.errors import TargetModelError, UnsupportedError
from neural_condense_core.llm.base import Likelihood, Piece, Prompt, Sampling
from neural_condense_core.llm.decoding import StopTexts
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_http import EngineHTTP
from neural_condense_core.llm.served import ServedTarget, only_ids

GENERATE = "/generate"


class SGLangTarget(ServedTarget):
    """A model that SGLang serves.

    Parameters
    ----------
    http : the server
    name : how users call the model
    tokenizer : of the same model
    table : its input embeddings

    Raises
    ------
    TargetModelError
        The server was started with its radix cache.
    """

    def __init__(self, http: EngineHTTP, name: str, tokenizer: Any, table: EmbeddingTable) -> None:
        super().__init__(http, name, tokenizer, table, table.max_positions)
        settings = http.get("/get_server_info")
        try:
            takes_embeds = bool(settings["disable_radix_cache"])
            limit = settings.get("context_length")
        except (LookupError, TypeError, AttributeError) as error:
            raise self.wrong_answer(error) from error
        if not takes_embeds:
            raise TargetModelError(
                f"SGLang at {http.url} takes no embeddings; start it with --disable-radix-cache"
            )
        self.max_positions = min(table.max_positions, limit or table.max_positions)
        self._is_incremental = bool(
            settings.get("incremental_streaming_output", settings.get("stream_output", False))
        )
        self._is_deterministic = bool(settings.get("enable_deterministic_inference", False))

    def _pieces(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling) -> Iterator[Piece]:
        body = {
            **self._input(prompt),
            "sampling_params": self._settings(max_new_tokens, sampling),
            "stream": True,
        }
        text = _Increments(sampling.stop) if self._is_incremental else _WholeTexts(sampling.stop)
        n_before = 0
        for event in self._http.events(GENERATE, body):
            self.refuse_error(event)
            try:
                said, meta = event["text"], event["meta_info"]
                n_made = int(meta["completion_tokens"])
                finish, matched = _finish(meta["finish_reason"])
                new = text.push(said) if finish is None else text.end(said, matched)
            except (LookupError, TypeError, ValueError) as error:
                raise self.wrong_answer(error) from error
            yield Piece(new, n_made - n_before, finish)
            n_before = n_made
            if finish is not None:
                return
        raise self.cut_short()

    def _input(self, prompt: Prompt) -> dict[str, Any]:
        ids = only_ids(prompt)
        if ids is not None:
            return {"input_ids": ids}
        return {"input_embeds": np.ascontiguousarray(self.matrix(prompt))}

    def _settings(self, max_new_tokens: int, sampling: Sampling) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if sampling.seed is not None and sampling.temperature > 0:
            if not self._is_deterministic:
                raise UnsupportedError(
                    "this SGLang server takes no seed; start it with "
                    "--enable-deterministic-inference, or leave the seed out"
                )
            settings["sampling_seed"] = sampling.seed
        return settings

    def _likelihood(self, prompt: Prompt, target: Sequence[int]) -> Likelihood:
        ids = only_ids(prompt)
        if ids is None:
            raise UnsupportedError(
                "SGLang gives no likelihoods behind embeddings; use the transformers, "
                "llama.cpp or vLLM engine to score condensed tokens"
            )
        answer = self._http.post(
            GENERATE,
            {
                "input_ids": [*ids, *target],
                "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
                "return_logprob": True,
                "logprob_start_len": max(0, len(ids) - 1),
                "top_logprobs_num": 1,
            },
        )
        n = len(target)
        try:
            meta = answer["meta_info"]
            own = meta["input_token_logprobs"][-n:]
            best = meta["input_top_logprobs"][-n:]
            given = [int(each[1]) for each in own]
            if given != list(target):
                raise ValueError("logprobs of other tokens")
            logprobs = np.array([float(each[0]) for each in own], np.float32)
            tops = [int(each[0][1]) == token for each, token in zip(best, target, strict=True)]
        except (LookupError, TypeError, ValueError) as error:
            raise self.wrong_answer(error) from error
        return Likelihood(logprobs, np.array(tops, np.bool_))


class _WholeTexts:
    """New text of events that each hold the whole answer so far.

    The beginning of a stop text may be sent and taken back once the rest of it has come; so it is
    held back here.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._gate = StopTexts(stop)
        self._seen = self._shown = 0

    def push(self, said: str) -> str:
        ready, _ = self._gate.push(said[self._seen :])
        self._seen, self._shown = len(said), self._shown + len(ready)
        return ready

    def end(self, said: str, matched: str) -> str:
        return said[self._shown :]


class _Increments:
    """New text of events that each hold what is new; of the rest as ``_WholeTexts``."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._gate = StopTexts(stop)

    def push(self, said: str) -> str:
        return self._gate.push(said)[0]

    def end(self, said: str, matched: str) -> str:
        ready, _ = self._gate.push(said)
        held = self._gate.flush()
        return ready if matched.startswith(held) else ready + held


def _finish(reason: Any) -> tuple[str | None, str]:
    """Return how an answer ended, and the stop text that ended it, if one did.

    Raises
    ------
    ValueError
        In a way that is neither the model's nor the caller's.
    """
    if reason is None:
        return None, ""
    if reason["type"] in ("stop", "length"):
        matched = reason.get("matched")
        return str(reason["type"]), matched if isinstance(matched, str) else ""
    raise ValueError(f"the answer ended by {reason['type']}")
