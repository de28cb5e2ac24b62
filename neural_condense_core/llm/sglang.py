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

from neural_condense_core.errors import BackendError, TargetModelError, UnsupportedError
from neural_condense_core.llm.base import Likelihood, Piece, Prefix, Prompt, Sampling
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_http import EngineHTTP
from neural_condense_core.llm.fitting import require_fitting
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
        super().__init__("SGLang", name, tokenizer, table, table.max_positions)
        self._http = http
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

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def loglikelihood(
        self,
        prompts: Sequence[Prompt],
        targets: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> list[Likelihood]:
        """Score target token ids behind prompts of ids.

        Raises
        ------
        UnsupportedError
            A prompt holds embeddings.
        """
        found = []
        for prompt, target in zip(prompts, targets, strict=True):
            whole = self.joined(prompt, prefix)
            require_fitting(self, whole, 0, len(target), engine=self.engine)
            ids = only_ids(whole)
            if ids is None:
                raise UnsupportedError(
                    "SGLang gives no likelihoods behind embeddings; use the transformers, "
                    "llama.cpp or vLLM engine to score condensed tokens"
                )
            found.append(self._likelihood(ids, target))
        return found

    def _pieces(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling) -> Iterator[Piece]:
        body = {
            **self._input(prompt),
            "sampling_params": self._settings(max_new_tokens, sampling),
            "stream": True,
        }
        shown, n_before = "", 0
        for event in self._http.events(GENERATE, body):
            if isinstance(event, dict) and "error" in event:
                raise BackendError("SGLang gave up amid an answer")
            try:
                said, meta = event["text"], event["meta_info"]
                n_made = int(meta["completion_tokens"])
                finish = _finish(meta["finish_reason"])
                text = said if self._is_incremental else said[len(shown) :]
            except (LookupError, TypeError, ValueError) as error:
                raise self.wrong_answer(error) from error
            shown = said
            piece = Piece(text, n_made - n_before, finish)
            n_before = n_made
            yield piece
            if finish is not None:
                return
        raise BackendError("SGLang ended an answer before it was whole")

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

    def _likelihood(self, ids: Sequence[int], target: Sequence[int]) -> Likelihood:
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


def _finish(reason: Any) -> str | None:
    """Return how an answer ended.

    Raises
    ------
    ValueError
        In a way that is neither the model's nor the caller's.
    """
    if reason is None:
        return None
    if reason["type"] in ("stop", "length"):
        return str(reason["type"])
    raise ValueError(f"the answer ended by {reason['type']}")
