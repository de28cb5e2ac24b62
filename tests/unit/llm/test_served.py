"""Engines behind HTTP: answers of another form, and stop texts that come in pieces."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from neural_condense_core.errors import BackendError
from neural_condense_core.llm.base import Sampling, TokenIds
from neural_condense_core.llm.embedding_table import EmbeddingTable
from neural_condense_core.llm.engine_http import EngineHTTP
from neural_condense_core.llm.sglang import SGLangTarget
from neural_condense_core.llm.vllm import VLLMTarget

KINDS = {"vLLM": VLLMTarget, "SGLang": SGLangTarget}


@pytest.fixture(scope="module")
def table(tiny_llama: str) -> EmbeddingTable:
    return EmbeddingTable(tiny_llama)


@pytest.mark.parametrize("engine", KINDS)
@pytest.mark.parametrize(
    "body", [[], {"data": [{"id": "m", "max_model_len": "far"}]}, {"data": 5}, {"data": [5]}]
)
def test_a_server_of_another_kind_is_one_clear_error(
    engine: str, body: Any, table: EmbeddingTable
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    http = EngineHTTP("http://engine", engine, transport=transport)
    with pytest.raises(BackendError, match=f"{engine} sent an answer of another form"):
        KINDS[engine](http, "m", None, table)


def streaming(table: EmbeddingTable, events: list[dict[str, Any]], **settings: Any) -> SGLangTarget:
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"disable_radix_cache": True, **settings})
        return httpx.Response(200, content=lines)

    http = EngineHTTP("http://engine", "SGLang", transport=httpx.MockTransport(answer))
    return SGLangTarget(http, "m", None, table)


def event(text: str, n: int, finish: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"text": text, "meta_info": {"completion_tokens": n, "finish_reason": finish}}


MATCHED = {"type": "stop", "matched": "END"}
LENGTH = {"type": "length", "length": 3}


@pytest.mark.parametrize(
    ("is_incremental", "texts", "finish", "expected"),
    [
        (False, ["ab", "ab EN", "ab "], MATCHED, "ab "),  # what was sent is taken back
        (True, ["ab", " EN", ""], MATCHED, "ab "),
        (False, ["ab", "ab EN", "ab ENT"], LENGTH, "ab ENT"),
        (True, ["ab", " EN", "T"], LENGTH, "ab ENT"),
        (True, ["ab", " EN", ""], LENGTH, "ab EN"),
        (True, ["ab", " E", "X"], {"type": "stop", "matched": 2}, "ab EX"),
        (False, ["ab", "ab E", "ab E"], {"type": "stop", "matched": 2}, "ab E"),
    ],
)
def test_no_piece_of_a_stop_text_is_shown(
    table: EmbeddingTable,
    is_incremental: bool,
    texts: list[str],
    finish: dict[str, Any],
    expected: str,
) -> None:
    events = [event(text, i + 1) for i, text in enumerate(texts)]
    events[-1]["meta_info"]["finish_reason"] = finish
    target = streaming(table, events, incremental_streaming_output=is_incremental)
    pieces = list(target.stream((TokenIds((5,)),), 3, sampling=Sampling(stop=("END",))))
    assert "".join(piece.text for piece in pieces) == expected
    assert [piece.n_tokens for piece in pieces] == [1, 1, 1]
    assert pieces[-1].finish == finish["type"]
