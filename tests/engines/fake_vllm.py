"""vLLM's HTTP server as strict as the real one (0.32), with a small model of ours behind it.

Every byte of a prompt is checked as the engine checks it: base64 without junk, a file that
``torch.load(weights_only=True)`` takes, two dimensions, the model's width, a float dtype; fields it
does not know, a body with both prompts, or none, are refused.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import torch

from neural_condense_core.llm.base import Embeds, Piece, Prompt, Sampling, TokenIds
from neural_condense_core.llm.hf import HFTarget

KNOWN = {
    "model", "prompt", "prompt_embeds", "max_tokens", "temperature", "top_p", "seed", "stop",
    "stream", "stream_options", "add_special_tokens", "logprobs", "logprob_token_ids",
    "prompt_logprobs", "return_tokens_as_token_ids",
}  # fmt: skip
MAX_LOGPROB_TOKEN_IDS = 128


class RefusedError(Exception):
    """The engine would answer 400."""


class FakeVLLM:
    """One server.

    Parameters
    ----------
    target : what answers
    served_name : the model's name in the API
    api_key : what callers must know, if anything
    """

    def __init__(
        self, target: HFTarget, served_name: str = "tiny", api_key: str | None = None
    ) -> None:
        self.target = target
        self.served_name = served_name
        self.api_key = api_key
        self.bodies: list[dict[str, Any]] = []

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return httpx.Response(401, json={"error": "Unauthorized"})
        if (request.method, request.url.path) == ("GET", "/v1/models"):
            models = [{"id": self.served_name, "max_model_len": self.target.max_positions}]
            return httpx.Response(200, json={"object": "list", "data": models})
        if (request.method, request.url.path) != ("POST", "/v1/completions"):
            return httpx.Response(404, json={"detail": "Not Found"})
        try:
            body = json.loads(request.content)
            self.bodies.append(body)
            return self._complete(body)
        except RefusedError as error:
            said = {"message": str(error), "type": "BadRequestError", "param": None, "code": 400}
            return httpx.Response(400, json={"error": said})

    def _complete(self, body: dict[str, Any]) -> httpx.Response:
        unknown = body.keys() - KNOWN
        if unknown:
            raise RefusedError(f"unknown fields {unknown}")
        if body["model"] != self.served_name:
            return httpx.Response(404, json={"error": {"message": "The model does not exist."}})
        prompts = self._prompts(body)
        if body.get("stream"):
            lines = "".join(self._events(prompts, body))
            return httpx.Response(200, content=lines, headers={"content-type": "text/event-stream"})
        if "stream_options" in body:
            raise RefusedError("Stream options can only be defined when `stream=True`.")
        choices = [self._choice(i, prompt, body) for i, prompt in enumerate(prompts)]
        return httpx.Response(200, json={"object": "text_completion", "choices": choices})

    def _prompts(self, body: dict[str, Any]) -> list[Prompt]:
        if body.get("prompt") in (None, "") and not body.get("prompt_embeds"):
            raise RefusedError("Either prompt or prompt_embeds must be provided and non-empty.")
        given = body.get("prompt_embeds", [])
        payloads = given if isinstance(given, list) else [given]
        prompts: list[Prompt] = [(Embeds(self._matrix(payload)),) for payload in payloads]
        if "prompt" in body:  # a second prompt beside the embeddings, as the engine reads it
            if body.get("add_special_tokens") is not False:
                raise RefusedError("this test wants its ids as they are")
            prompts.append((TokenIds(tuple(body["prompt"])),))
        longest = max(sum(map(len, prompt)) for prompt in prompts) + body["max_tokens"]
        if longest > self.target.max_positions:
            raise RefusedError(f"maximum context length is {self.target.max_positions}")
        return prompts

    def _matrix(self, payload: str) -> np.ndarray:
        try:
            raw = base64.b64decode(payload.encode(), validate=True)
        except ValueError as error:
            raise RefusedError("not base64") from error
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                stored = all(
                    each.compress_type == zipfile.ZIP_STORED for each in archive.infolist()
                )
            tensor = torch.load(io.BytesIO(raw), weights_only=True)
        except Exception as error:
            raise RefusedError("`prompt_embeds` could not be deserialized") from error
        if not stored or tensor.dim() != 2 or tensor.shape[1] != self.target.hidden_size:
            raise RefusedError(f"`prompt_embeds` of shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise RefusedError("not a floating-point type")
        return tensor.float().numpy()

    def _events(self, prompts: list[Prompt], body: dict[str, Any]) -> Iterator[str]:
        if len(prompts) != 1:
            raise RefusedError("this test streams one prompt")
        options = body.get("stream_options", {})
        n_made = 0
        for piece in self._stream(prompts[0], body):
            n_made += piece.n_tokens
            choice = {"index": 0, "text": piece.text, "finish_reason": piece.finish}
            usage = {"completion_tokens": n_made}
            found = {"choices": [choice]}
            if options.get("continuous_usage_stats"):
                found["usage"] = usage
            yield f"data: {json.dumps(found)}\n\n"
        if options.get("include_usage"):
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    def _stream(self, prompt: Prompt, body: dict[str, Any]) -> Iterator[Piece]:
        sampling = Sampling(
            body["temperature"],
            body.get("top_p", 1.0),
            body.get("seed"),
            tuple(body.get("stop", ())),
        )
        return self.target.stream(prompt, body["max_tokens"], sampling=sampling)

    def _choice(self, index: int, prompt: Prompt, body: dict[str, Any]) -> dict[str, Any]:
        text = "".join(piece.text for piece in self._stream(prompt, body))
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": "length"}
        if body.get("prompt_logprobs") is not None:
            if "prompt_embeds" in body:
                raise RefusedError("prompt_logprobs is not compatible with prompt embeds.")
            choice["prompt_logprobs"] = self._prompt_logprobs(body["prompt"])
        if body.get("logprob_token_ids"):
            choice["logprobs"] = self._next_logprobs(prompt, body)
        return choice

    def _prompt_logprobs(self, ids: list[int]) -> list[dict[str, Any] | None]:
        found: list[dict[str, Any] | None] = [None]
        for token, row in zip(ids[1:], self._rows((TokenIds(tuple(ids)),)), strict=False):
            rank = int((row > row[token]).sum()) + 1
            found.append({str(token): {"logprob": float(row[token]), "rank": rank}})
        return found

    def _next_logprobs(self, prompt: Prompt, body: dict[str, Any]) -> dict[str, Any]:
        wanted = body["logprob_token_ids"]
        if body.get("logprobs") != len(wanted) or len(wanted) > MAX_LOGPROB_TOKEN_IDS:
            raise RefusedError("logprobs must equal len(logprob_token_ids)")
        if not body.get("return_tokens_as_token_ids") or body["max_tokens"] != 1:
            raise RefusedError("this test asks for one token, by id")
        row = self._rows(prompt)[-1]
        said = int(row.argmax())
        top = {f"token_id:{token}": float(row[token]) for token in {*wanted, said}}
        return {"tokens": [f"token_id:{said}"], "top_logprobs": [top]}

    def _rows(self, prompt: Prompt) -> torch.Tensor:
        """Log-probabilities behind every row, by the plain model."""
        row = self.target._row(prompt, 0)
        with torch.no_grad():
            logits = self.target.model(inputs_embeds=row.embeds[None]).logits[0]
        return logits.float().log_softmax(-1)
