"""SGLang's HTTP server as its source reads prompts, with a small model of ours behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import torch

from neural_condense_core.llm.base import Embeds, Prompt, Sampling, TokenIds
from neural_condense_core.llm.hf import HFTarget

KNOWN = {
    "input_ids", "input_embeds", "sampling_params", "stream", "return_logprob",
    "logprob_start_len", "top_logprobs_num",
}  # fmt: skip
KNOWN_SAMPLING = {"max_new_tokens", "temperature", "top_p", "stop", "sampling_seed"}


class RefusedError(Exception):
    """The engine would answer 400."""


class FakeSGLang:
    """One server.

    Parameters
    ----------
    target : what answers
    settings : the flags it was started with, as its own report names them
    """

    def __init__(self, target: HFTarget, **settings: Any) -> None:
        self.target = target
        self.settings = {"disable_radix_cache": True, "context_length": None, **settings}
        self.bodies: list[dict[str, Any]] = []

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if (request.method, request.url.path) == ("GET", "/get_server_info"):
            return httpx.Response(200, json=self.settings)
        if (request.method, request.url.path) != ("POST", "/generate"):
            return httpx.Response(404, json={"detail": "Not Found"})
        try:
            body = json.loads(request.content)
            self.bodies.append(body)
            return self._generate(body)
        except RefusedError as error:
            return httpx.Response(400, json={"error": {"message": str(error)}})

    def _generate(self, body: dict[str, Any]) -> httpx.Response:
        unknown = (body.keys() - KNOWN) | (body["sampling_params"].keys() - KNOWN_SAMPLING)
        if unknown:
            raise RefusedError(f"unknown fields {unknown}")
        prompt = self._prompt(body)
        if body.get("stream"):
            lines = "".join(self._events(prompt, body))
            return httpx.Response(200, content=lines, headers={"content-type": "text/event-stream"})
        *_, last = self._answers(prompt, body)
        if body.get("return_logprob"):
            last["meta_info"].update(self._logprobs(body))
        return httpx.Response(200, json=last)

    def _prompt(self, body: dict[str, Any]) -> Prompt:
        if ("input_ids" in body) == ("input_embeds" in body):
            raise RefusedError("Either text, input_ids or input_embeds should be provided.")
        if "input_ids" in body:
            return (TokenIds(tuple(body["input_ids"])),)
        if not self.settings["disable_radix_cache"]:
            raise RefusedError("Please add `--disable-radix-cache` when you launch the server")
        rows = body["input_embeds"]
        if not all(isinstance(number, float) for row in rows for number in row):
            raise RefusedError("input_embeds must be lists of floats")
        if {len(row) for row in rows} != {self.target.hidden_size}:
            raise RefusedError("input_embeds of another width")
        return (Embeds(np.array(rows, np.float32)),)

    def _events(self, prompt: Prompt, body: dict[str, Any]) -> Iterator[str]:
        for found in self._answers(prompt, body):
            yield f"data: {json.dumps(found)}\n\n"
        yield "data: [DONE]\n\n"

    def _answers(self, prompt: Prompt, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        given = body["sampling_params"]
        if "sampling_seed" in given and not self.settings.get("enable_deterministic_inference"):
            raise RefusedError("a seed the engine would pass over in silence")
        sampling = Sampling(
            given["temperature"], given.get("top_p", 1.0), given.get("sampling_seed"),
            tuple(given.get("stop", ())),
        )  # fmt: skip
        incremental = self.settings.get("incremental_streaming_output", False)
        text, n_made = "", 0
        for piece in self.target.stream(prompt, given["max_new_tokens"], sampling=sampling):
            text = piece.text if incremental else text + piece.text
            n_made += piece.n_tokens
            finish = None if piece.finish is None else {"type": piece.finish}
            meta = {"completion_tokens": n_made, "finish_reason": finish}
            yield {"text": text, "meta_info": meta}

    def _logprobs(self, body: dict[str, Any]) -> dict[str, Any]:
        if "input_ids" not in body or body.get("top_logprobs_num") != 1:
            raise RefusedError("this test gives logprobs of ids, with the best beside them")
        ids, start = body["input_ids"], body["logprob_start_len"]
        with torch.no_grad():
            rows = self.target.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        own: list[Any] = [[None, ids[start], None]]
        best: list[Any] = [None]
        for token, row in zip(ids[start + 1 :], rows[start:], strict=False):
            own.append([float(row[token]), token, None])
            best.append([[float(row.max()), int(row.argmax()), None]])
        return {"input_token_logprobs": own, "input_top_logprobs": best}
