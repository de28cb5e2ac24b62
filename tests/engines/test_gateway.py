"""The gateway over every engine: what it condenses arrives there as rows, and is answered from.

Engines and condenser are the real ones, with a tiny random model; servers of engines are the strict
fakes. First in this process, then by the command line against servers on a port.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fake_sglang import FakeSGLang
from fake_vllm import FakeVLLM
from gateway_here import MODEL, with_gateway

from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.llm.base import as_segment
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_http import EngineHTTP
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.llama_cpp import LlamaCppTarget
from neural_condense_core.llm.prompt import Turn, conversation
from neural_condense_core.llm.sglang import SGLangTarget
from neural_condense_core.llm.vllm import VLLMTarget
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors

TEXT = "The harbour was quiet when the two brothers came ashore with the nets. " * 8
QUESTION = "why?"
MESSAGES = [{"role": "user", "content": f"{TEXT}\n\n{QUESTION}"}]
ASKED = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 12}
CONDENSED = {**ASKED, "condense": {"mode": "always", "ratio": 4}}
LIMITS = Limits(1 << 24, 1 << 16)
needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="the extra [llama-cpp] is not installed"
)
ENGINES = ["vllm", "sglang", pytest.param("llama-cpp", marks=needs_llama_cpp)]


@pytest.fixture(scope="module")
def reference(tiny_llama: str) -> HFTarget:
    return load_target(tiny_llama, dtype="float32")


@pytest.fixture(scope="module")
def gguf(reference: HFTarget, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_gguf import write_tiny_gguf

    return write_tiny_gguf(reference, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def fake(engine: str, reference: HFTarget) -> Any:
    return {"vllm": FakeVLLM, "sglang": FakeSGLang}[engine](reference)


def served(engine: str, server: Any, reference: HFTarget) -> Any:
    kind, shown = {"vllm": (VLLMTarget, "vLLM"), "sglang": (SGLangTarget, "SGLang")}[engine]
    http = EngineHTTP("http://engine", shown, transport=server.transport())
    return kind(http, reference.name, reference.tokenizer, EmbeddingTable(reference.name))


def rows_of(engine: str, body: dict[str, Any]) -> np.ndarray:
    """Return the matrix of a prompt as the engine got it."""
    if engine == "sglang":
        return np.array(body["input_embeds"], np.float32)
    raw = base64.b64decode(body["prompt_embeds"])
    found: np.ndarray = torch.load(io.BytesIO(raw), weights_only=True).numpy()
    return found


def streamed(text: str) -> tuple[str, str]:
    """Return what a stream said, and how it ended."""
    *lines, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    choices = [json.loads(line[6:])["choices"][0] for line in lines]
    return "".join(each["delta"].get("content", "") for each in choices), choices[-1][
        "finish_reason"
    ]


def said(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


async def tokens_of(
    ask: Callable[..., Awaitable[httpx.Response]], context_id: str
) -> CondensedTokens:
    headers = {"accept": "application/vnd.safetensors"}
    response = await ask("GET", f"/v1/contexts/{context_id}", headers=headers)
    return from_safetensors(response.content, LIMITS)


def expected(target: Any, tokens: CondensedTokens) -> tuple[str, int]:
    """Return a target's own answer from condensed tokens, and the rows that it reads."""
    prompt = conversation(target, [Turn("user", (as_segment(tokens), QUESTION))])
    return "".join(piece.text for piece in target.stream(prompt, 12)), sum(map(len, prompt))


@pytest.mark.parametrize("engine", ENGINES)
def test_condensed_parts_arrive_as_rows_and_are_answered_from(
    engine: str,
    reference: HFTarget,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = None
    if engine == "llama-cpp":
        path = request.getfixturevalue("gguf")
        target: Any = LlamaCppTarget(path, reference.name, n_threads=1, float32_cache=True)
    else:
        server = fake(engine, reference)
        target = served(engine, server, reference)
    condenser = load_condenser("mean-embedding", reference.name)

    async def work(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
        path = "/v1/chat/completions"
        plain = said(await ask("POST", path, json={**ASKED, "condense": {"mode": "never"}}))
        prompt = conversation(reference, [Turn("user", (MESSAGES[0]["content"],))])
        assert plain.strip() == reference.generate([prompt], 12)[0]

        response = await ask("POST", path, json=CONDENSED)
        (part,) = response.json()["condense"]["parts"]
        tokens = await tokens_of(ask, part["id"])
        text, n_rows = expected(reference, tokens)
        assert said(response) == text
        assert response.json()["usage"]["prompt_tokens"] == n_rows
        assert response.json()["usage"]["completion_tokens"] <= 12
        assert part["sent_as"] == "condensed"
        assert (part["recovery"] is None) == (engine == "sglang")
        if server is not None:
            body = [each for each in server.bodies if "max_tokens" in each or "stream" in each][-1]
            rows = rows_of(engine, body)
            assert len(rows) == n_rows
            at = int(np.flatnonzero((rows == tokens.embeds[0]).all(1))[0])
            np.testing.assert_array_equal(rows[at : at + len(tokens.embeds)], tokens.embeds)

        stream = await ask("POST", path, json={**CONDENSED, "stream": True})
        again, finish = streamed(stream.text)
        assert again == text
        assert finish in ("stop", "length")
        cut = await ask("POST", path, json={**CONDENSED, "stop": text[2:4]})
        assert said(cut) == text[: text.index(text[2:4])]

    with_gateway(target, condenser, engine, work, monkeypatch)


def test_what_an_engine_cannot_do_is_a_400_and_what_it_breaks_a_502(
    reference: HFTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fake("sglang", reference)
    target = served("sglang", server, reference)

    async def work(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
        path = "/v1/chat/completions"
        drawn = {**ASKED, "temperature": 1, "seed": 3}
        refused = await ask("POST", path, json=drawn)
        assert refused.status_code == 400
        assert "seed" in refused.json()["error"]["message"]
        monkeypatch.setattr(
            server, "_events", lambda prompt, body: iter(["data: {}\n\n", "data: [DONE]\n\n"])
        )
        broken = await ask("POST", path, json=ASKED)
        assert broken.status_code == 502
        assert "brothers" not in broken.text
        events = ['data: {"text": "a", "meta_info": {"completion_tokens": 1,'
                  ' "finish_reason": null}}\n\n']  # fmt: skip
        monkeypatch.setattr(server, "_events", lambda prompt, body: iter(events))
        amid = await ask("POST", path, json={**ASKED, "stream": True})
        assert amid.status_code == 200
        *_, last, rest = amid.text.split("\n\n")
        assert rest == ""
        assert json.loads(last[6:])["error"]["code"] == "backend"

    with_gateway(
        target, load_condenser("mean-embedding", reference.name), "sglang", work, monkeypatch
    )


class _Handler(BaseHTTPRequestHandler):
    fake: Any

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes) -> None:
        asked = httpx.Request(self.command, f"http://engine{self.path}", content=body)
        answer = self.fake.answer(asked)
        self.send_response(answer.status_code)
        self.send_header("content-type", answer.headers["content-type"])
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine_flag(request: pytest.FixtureRequest, reference: HFTarget) -> Iterator[tuple[str, Any]]:
    """An engine as its flag, and the fake behind it."""
    engine = request.param
    if engine == "llama-cpp":
        yield f"llama-cpp={request.getfixturevalue('gguf')}", None
        return
    server = fake(engine, reference)
    handler = type("Handler", (_Handler,), {"fake": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"{engine}=http://127.0.0.1:{http.server_port}", server
        http.shutdown()
        thread.join(20)


@pytest.fixture
def gateway_url(engine_flag: tuple[str, Any], reference: HFTarget, tmp_path: Path) -> Iterator[str]:
    """A gateway by its command line."""
    log = tmp_path / "log"
    command = [
        sys.executable, "-m", "neural_condense_core.cli", "gateway", "--port", "0", "--engine",
        engine_flag[0], "--target", reference.name, "--model_name", MODEL, "--condenser",
        "mean-embedding", "--dtype", "float32", "--floor", "0",
    ]  # fmt: skip
    with log.open("wb") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stderr=file, env=environment)
    try:
        give_up_s = time.monotonic() + 150
        url = ""
        while not url or httpx.get(f"{url}/health/ready", trust_env=False).status_code != 200:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up_s, log.read_text()
            time.sleep(0.1)
            if " at http://" in (found := log.read_text()):
                url = found.partition(" at ")[2].partition("/v1")[0]
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("engine_flag", ENGINES, indirect=True)
def test_the_command_line_opens_the_engine_that_it_names(
    gateway_url: str, engine_flag: tuple[str, Any], reference: HFTarget
) -> None:
    path = f"{gateway_url}/v1/chat/completions"
    with httpx.Client(trust_env=False, timeout=120) as http:
        response = http.post(path, json=CONDENSED)
        (part,) = response.json()["condense"]["parts"]
        headers = {"accept": "application/vnd.safetensors"}
        matrix = http.get(f"{gateway_url}/v1/contexts/{part['id']}", headers=headers)
        tokens = from_safetensors(matrix.content, LIMITS)
        text, n_rows = expected(reference, tokens)
        assert response.json()["usage"]["prompt_tokens"] == n_rows
        if engine_flag[1] is not None:  # llama.cpp's cache is in float16 here
            assert said(response) == text
            kind = engine_flag[0].partition("=")[0]
            assert len(rows_of(kind, engine_flag[1].bodies[-1])) == n_rows
        again, finish = streamed(http.post(path, json={**CONDENSED, "stream": True}).text)
        assert again == said(response)
        assert finish in ("stop", "length")
