"""vLLM itself on the CPU, with the embedded model; ``make test-vllm`` runs it.

``CONDENSE_TEST_VLLM`` names the Python of an environment with vLLM in it, ``CONDENSE_TEST_MODEL``
the model's folder, and ``CONDENSE_TEST_VLLM_URL`` a server that runs already, if one does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateway_here import MODEL, Ask, with_gateway

from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.llm.base import Embeds, Sampling, TokenIds, as_segment
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_http import EngineHTTP
from neural_condense_core.llm.handoff import to_vllm_chat_part, to_vllm_completion
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.prompt import Turn, answer_prompt, conversation
from neural_condense_core.llm.vllm import VLLMTarget
from neural_condense_core.tokens import CondensedTokens

PYTHON = os.environ.get("CONDENSE_TEST_VLLM", "")
NAME = "smollm2-135m-instruct"
START_TIMEOUT_S = 600.0
STORY = (
    "The ferry Halcyon left Port Arden at dawn on 3 May 1954 with 212 passengers. Its captain, "
    "Ines Calloway, had sailed the strait for nineteen years."
)
QUESTIONS = ["Who was the captain?", "When did the ferry leave?"]

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="CONDENSE_TEST_VLLM names no Python with vLLM"),
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended: {log.read_text(errors='replace')[-3000:]}")
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise TimeoutError(log.read_text(errors="replace")[-3000:])


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(os.environ["CONDENSE_TEST_MODEL"])


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    running = os.environ.get("CONDENSE_TEST_VLLM_URL")
    if running:
        yield running
        return
    port = _free_port()
    command = [
        PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", NAME, "--enable-prompt-embeds", "--dtype", "float32",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "vllm.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT,
                env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
            )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def hf(folder: Path) -> HFTarget:
    return load_target(str(folder), dtype="float32")


@pytest.fixture(scope="module")
def target(url: str, folder: Path, hf: HFTarget) -> Iterator[VLLMTarget]:
    found = VLLMTarget(EngineHTTP(url, "vLLM"), NAME, hf.tokenizer, EmbeddingTable(str(folder)))
    yield found
    found.close()


@pytest.fixture(scope="module")
def condensed(hf: HFTarget) -> CondensedTokens:
    """Pairs of rows, averaged: condensed tokens without a condenser."""
    ids = hf.tokenize(STORY)
    rows = hf.embed(ids[: len(ids) // 2 * 2]).reshape(-1, 2, hf.hidden_size).mean(1)
    return CondensedTokens(rows.astype(np.float32), NAME, len(ids))


def test_plain_embeddings_answer_as_the_text_and_as_transformers(
    target: VLLMTarget, hf: HFTarget
) -> None:
    ids = hf.tokenize(STORY)
    for question in QUESTIONS:
        by_ids = answer_prompt(target, TokenIds(tuple(ids)), question)
        by_rows = answer_prompt(target, Embeds(target.embed(ids)), question)
        expected = hf.generate([by_ids], 20)
        assert target.generate([by_ids], 20) == expected
        assert target.generate([by_rows], 20) == expected


def test_condensed_tokens_answer_as_in_transformers(
    target: VLLMTarget, hf: HFTarget, condensed: CondensedTokens
) -> None:
    prompts = [answer_prompt(hf, Embeds(condensed.embeds), question) for question in QUESTIONS]
    assert target.generate(prompts, 20) == [hf.generate([prompt], 20)[0] for prompt in prompts]


def test_likelihoods_are_those_of_transformers(
    target: VLLMTarget, hf: HFTarget, condensed: CondensedTokens
) -> None:
    reply = hf.tokenize("Ines Calloway")
    for context in (TokenIds(tuple(hf.tokenize(STORY))), Embeds(condensed.embeds)):
        prompt = answer_prompt(hf, context, QUESTIONS[0])
        (ours,) = target.loglikelihood([prompt], [reply])
        (theirs,) = hf.loglikelihood([prompt], [reply])
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=2e-3)
        assert ours.top1.tolist() == theirs.top1.tolist()


def test_a_stream_counts_every_token_and_stops(
    target: VLLMTarget, hf: HFTarget, condensed: CondensedTokens
) -> None:
    prompt = answer_prompt(hf, Embeds(condensed.embeds), QUESTIONS[0])
    pieces = list(target.stream(prompt, 16))
    text = "".join(piece.text for piece in pieces)
    assert text.strip() == hf.generate([prompt], 16)[0]
    assert pieces[-1].finish in ("stop", "length")
    assert sum(piece.n_tokens for piece in pieces) == sum(
        piece.n_tokens for piece in hf.stream(prompt, 16)
    )
    stop = text[2:4]
    cut = list(target.stream(prompt, 16, sampling=Sampling(stop=(stop,))))
    assert "".join(piece.text for piece in cut) == text[: text.index(stop)]
    assert cut[-1].finish == "stop"


def test_hand_off_as_a_chat_part_and_as_a_completion(
    url: str, hf: HFTarget, condensed: CondensedTokens
) -> None:
    def post(path: str, body: dict[str, object]) -> dict[str, object]:
        answer = httpx.post(
            url + path, json={"model": NAME, "max_tokens": 20, "temperature": 0, **body},
            trust_env=False, timeout=120,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["choices"][0])

    prompt = answer_prompt(hf, Embeds(condensed.embeds), QUESTIONS[0])
    head, _, tail = prompt
    before, after = (hf.embed(part.ids) for part in (head, tail))
    (expected,) = hf.generate([prompt], 20)
    fields = to_vllm_completion(condensed, before=before, after=after)
    assert str(post("/v1/completions", dict(fields))["text"]).strip() == expected
    question = f"\n\nAnswer with a few words from the text. {QUESTIONS[0]}"
    content = [
        {"type": "text", "text": "Text:\n"},
        to_vllm_chat_part(condensed),
        {"type": "text", "text": question},
    ]
    said = post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]})
    assert str(said["message"]["content"]).strip()  # type: ignore[index]


def test_the_gateway_reads_condensed_tokens_through_the_server(
    target: VLLMTarget, hf: HFTarget, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = STORY * 4
    condenser = load_condenser("mean-embedding", hf.name)
    body = {
        "model": MODEL, "temperature": 0, "max_tokens": 20,
        "messages": [{"role": "user", "content": f"{story}\n\n{QUESTIONS[0]}"}],
        "condense": {"mode": "always", "ratio": 2, "threshold": 32, "floor": 0},
    }  # fmt: skip
    (tokens,) = condenser.condense([condenser.tokenize(f"{story}\n\n")], 2.0)
    prompt = conversation(hf, [Turn("user", (as_segment(tokens), QUESTIONS[0]))])
    (expected,) = hf.generate([prompt], 20)

    async def work(ask: Ask) -> None:
        path = "/v1/chat/completions"
        whole = await ask("POST", path, json=body)
        assert whole.status_code == 200, whole.text
        said = whole.json()
        assert said["choices"][0]["message"]["content"].strip() == expected
        assert said["usage"]["prompt_tokens"] == sum(map(len, prompt))
        assert said["condense"]["parts"][0]["sent_as"] == "condensed"
        streamed = await ask("POST", path, json={**body, "stream": True})
        *lines, done, _ = streamed.text.split("\n\n")
        assert done == "data: [DONE]"
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines]
        assert "".join(each.get("content", "") for each in deltas).strip() == expected

    with_gateway(target, condenser, "vllm", work, monkeypatch)


@pytest.mark.parametrize("payload", ["", "not base64!", "AAAA"])
def test_what_is_no_matrix_is_the_engines_400(url: str, payload: str) -> None:
    answer = httpx.post(
        f"{url}/v1/completions", json={"model": NAME, "prompt_embeds": payload, "max_tokens": 1},
        trust_env=False, timeout=60,
    )  # fmt: skip
    assert answer.status_code == 400
