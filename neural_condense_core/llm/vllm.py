"""``VLLMTarget``: a model behind vLLM's HTTP server as a frozen target model.

The server is started with ``--enable-prompt-embeds``; tried with vLLM 0.32.

Design decisions

* ``/v1/completions`` takes either ids or one matrix as a whole prompt, which is what the contract
  needs. Chat parts (``handoff.to_vllm_chat_part``) are for callers that let the server render.
* ``prompt`` is left out where a matrix is sent: together they would be two prompts, not one.
* Likelihoods of a prompt of ids are the server's prompt logprobs. It gives none for a matrix, so
  each target token is then asked for as the next one behind everything before it, many in one call;
  its cache computes what they share once.
* The tokenizer and the embedding table are read here, from the folder or name of the same model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from neural_condense_core.errors import TargetModelError
from neural_condense_core.llm.base import (
    GREEDY,
    Likelihood,
    Piece,
    Prompt,
    Sampling,
    TokenIds,
)
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_http import EngineHTTP
from neural_condense_core.llm.served import ServedTarget, only_ids, wrong_answer
from neural_condense_core.llm.vllm_payload import torch_base64
from neural_condense_core.tokens import FloatArray

COMPLETIONS = "/v1/completions"
MAX_CALL_BYTES = 16 * 1024 * 1024
"""Of matrices in one call; vLLM wants each of them whole."""
MAX_CALL_TOKENS = 128
"""Distinct tokens whose likelihood one call may ask for; vLLM's own limit."""

_FINISHED = {"stop": "stop", "length": "length"}


class VLLMTarget(ServedTarget):
    """A model that vLLM serves.

    Parameters
    ----------
    http : the server
    name : how users call the model
    tokenizer : of the same model
    table : its input embeddings

    Raises
    ------
    TargetModelError
        The server serves other models.
    """

    def __init__(self, http: EngineHTTP, name: str, tokenizer: Any, table: EmbeddingTable) -> None:
        models = http.get("/v1/models")
        try:
            served = {each["id"]: each for each in models["data"]}
            # a server with one model may well call it by a path of its own
            own = served[name] if name in served else _only(served)
            super().__init__(http, name, tokenizer, table, int(own["max_model_len"]))
            self._served_name = str(own["id"])
        except LookupError as error:
            raise TargetModelError(
                f"vLLM at {http.url} does not serve {name!r}, nor one model alone"
            ) from error
        except (TypeError, ValueError) as error:
            raise wrong_answer(http.engine, error) from error

    def _likelihood(self, prompt: Prompt, target: Sequence[int]) -> Likelihood:
        ids = only_ids(prompt)
        if ids is not None:
            return self._by_prompt_logprobs(ids, target)
        return self._token_by_token(prompt, target)

    def _pieces(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling) -> Iterator[Piece]:
        body = self._body(prompt, max_new_tokens, sampling)
        options = {"include_usage": True, "continuous_usage_stats": True}
        n_before = 0
        last: Piece | None = None
        for event in self._http.events(
            COMPLETIONS, {**body, "stream": True, "stream_options": options}
        ):
            self.refuse_error(event)
            try:
                n_made = int(event["usage"]["completion_tokens"])
                choice = event["choices"][0] if event["choices"] else {"text": ""}
                piece = Piece(choice["text"], n_made - n_before, choice.get("finish_reason"))
            except (LookupError, TypeError, ValueError) as error:
                raise self.wrong_answer(error) from error
            n_before = n_made
            if piece.finish is not None:
                last = Piece(piece.text, piece.n_tokens, _FINISHED.get(piece.finish))
            elif last is None and (piece.text or piece.n_tokens):
                yield piece
        if last is None or last.finish is None:
            raise self.cut_short()
        yield last

    def _body(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling) -> dict[str, Any]:
        body = {
            "model": self._served_name,
            "max_tokens": max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "add_special_tokens": False,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        ids = only_ids(prompt)
        if ids is not None:
            return {**body, "prompt": ids}
        return {**body, "prompt_embeds": torch_base64(self.matrix(prompt))}

    def _by_prompt_logprobs(self, ids: Sequence[int], target: Sequence[int]) -> Likelihood:
        body = self._body((TokenIds((*ids, *target)),), 1, GREEDY)
        answer = self._http.post(COMPLETIONS, {**body, "prompt_logprobs": 0})
        try:
            given = answer["choices"][0]["prompt_logprobs"][-len(target) :]
            own = [each[str(token)] for each, token in zip(given, target, strict=True)]
            return _likelihood([(each["logprob"], each["rank"] == 1) for each in own])
        except (LookupError, TypeError, ValueError) as error:
            raise self.wrong_answer(error) from error

    def _token_by_token(self, prompt: Prompt, target: Sequence[int]) -> Likelihood:
        matrix = self.matrix((*prompt, TokenIds(tuple(target[:-1]))))
        n = len(matrix) - len(target) + 1
        per_call = max(1, min(MAX_CALL_BYTES // matrix.nbytes, MAX_CALL_TOKENS))
        found: list[tuple[float, bool]] = []
        for at in range(0, len(target), per_call):
            tokens = target[at : at + per_call]
            found += self._next_likelihoods(
                [matrix[: n + i] for i in range(at, at + len(tokens))], tokens
            )
        return _likelihood(found)

    def _next_likelihoods(
        self, matrices: Sequence[FloatArray], tokens: Sequence[int]
    ) -> list[tuple[float, bool]]:
        """Return how likely each token is behind its matrix, and whether it is the likeliest."""
        wanted = sorted(set(tokens))
        answer = self._http.post(
            COMPLETIONS,
            {
                "model": self._served_name,
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_embeds": [torch_base64(matrix) for matrix in matrices],
                "logprobs": len(wanted),
                "logprob_token_ids": wanted,
                "return_tokens_as_token_ids": True,
            },
        )
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            found = []
            for token, choice in zip(tokens, choices, strict=True):
                said = choice["logprobs"]
                name = f"token_id:{token}"
                found.append((float(said["top_logprobs"][0][name]), said["tokens"][0] == name))
            return found
        except (LookupError, TypeError, ValueError) as error:
            raise self.wrong_answer(error) from error


def _only(served: Mapping[str, Any]) -> Any:
    (found,) = served.values() if len(served) == 1 else [None]
    if found is None:
        raise LookupError
    return found


def _likelihood(found: Sequence[tuple[float, bool]]) -> Likelihood:
    return Likelihood(
        np.array([logprob for logprob, _ in found], np.float32),
        np.array([is_top for _, is_top in found], np.bool_),
    )
